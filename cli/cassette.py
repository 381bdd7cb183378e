"""`ledgerflux cassette import|export`: a recording into the lake, a range of the lake out of it.

Only the options; `cli.cassette_copies` does the work.
"""

from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from models.replaying import BadReplayError, moment_us
from models.subjects import SubjectError, token

app = typer.Typer(
    no_args_is_help=True,
    help="Import a recording into the lake, or export a range of it as one, with the S3 settings "
    "of the environment.",
)

_MOMENT = "2026-11-20T10, 2026-11-20T10:15:30 (UTC), or µs since 1970."

Venue = Annotated[str, typer.Option(help="Whose frames they are.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]


@app.command("import")
def import_file(
    file: Annotated[Path, typer.Argument(help="What `ledgerflux record` has written.")],
    venue: Venue = "coinbase",
    as_json: Json = False,
) -> None:
    """Put a recording into the lake: its frames, and what is said of them, as a log of its own.

    Its times are those of the recording. Importing it again changes nothing.
    """
    _copies().import_file(file, venue, as_json=as_json)


@app.command("export")
def export_file(
    file: Annotated[Path, typer.Argument(help="Cassette to write; must not exist.")],
    since: Annotated[str, typer.Option(help=f"From when on: {_MOMENT}")],
    until: Annotated[str, typer.Option(help="Up to, and without, this moment; as --since.")],
    products: Annotated[str, typer.Option(help="Comma-separated; all unless given.")] = "",
    venue: Venue = "coinbase",
    epoch: Annotated[
        int | None, typer.Option(help="Of the log, where the range has several.")
    ] = None,
    line: Annotated[
        str | None, typer.Option(help="Of the ingestor's, where several have recorded the range.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a range of the lake's raw frames as a cassette: `ledgerflux sim --cassette` plays it.

    A book needs the snapshot that its connection began with: begin where one began.
    """
    chosen = tuple(word.strip() for word in products.split(",") if word.strip())
    bounds = _moment(since, "--since"), _moment(until, "--until")
    try:
        for name in (venue, *chosen):
            token(name)
    except SubjectError as error:
        raise typer.BadParameter(str(error)) from error
    _copies().export_file(file, venue, bounds, chosen or None, epoch, line, as_json=as_json)


def _moment(text: str, option: str) -> int:
    try:
        return moment_us(text)
    except BadReplayError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def _copies() -> ModuleType:
    from cli import cassette_copies  # noqa: PLC0415  # heavy, and no other command needs it

    return cassette_copies
