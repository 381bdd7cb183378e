"""`ledgerflux lake ls|stat|query`: look into the Parquet lake. Reads only.

What counts is what the manifests list; DuckDB gets exactly these objects. `docs/lake.md` has the
columns.
"""

from dataclasses import dataclass
from types import ModuleType
from typing import Annotated, Literal

import typer

Streams = Literal["ticks", "raw", "all"]
Since = Annotated[
    str | None,
    typer.Option(help="From this hour on: 2026-01-31T14:00, 2026-01-31, or 90m, 24h, 7d ago."),
]
Until = Annotated[str | None, typer.Option(help="Up to this hour, itself included; as --since.")]
Venue = Annotated[str | None, typer.Option(help="Only this venue.")]
Products = Annotated[
    list[str] | None, typer.Option("--product", help="Only this product; may be repeated.")
]
OfStream = Annotated[Streams, typer.Option("--stream", help="Canonical lines, raw ones, or both.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON lines instead.")]
Limit = Annotated[int, typer.Option(min=1, help="Rows to print, at most.")]

app = typer.Typer(
    no_args_is_help=True,
    help="Look into the Parquet lake, with the S3 settings of the environment.",
)


@dataclass(frozen=True, slots=True)
class Chosen:
    """What the options choose, as they were written."""

    since: str | None
    until: str | None
    venue: str | None
    products: tuple[str, ...]


@app.command("ls")
def list_hours(
    stream: OfStream = "all",
    since: Since = None,
    until: Until = None,
    venue: Venue = None,
    product: Products = None,
    limit: Limit = 100,
    as_json: Json = False,
) -> None:
    """List hours and lanes with their objects, rows, bytes and holes, newest last."""
    chosen = Chosen(since, until, venue, tuple(product or ()))
    _views().list_hours(stream, chosen, limit, as_json=as_json)


@app.command()
def stat(
    stream: OfStream = "all",
    since: Since = None,
    until: Until = None,
    venue: Venue = None,
    product: Products = None,
    limit: Limit = 100,
    as_json: Json = False,
) -> None:
    """Count rows and bytes, per stream and per product and feed, with holes and breaks."""
    chosen = Chosen(since, until, venue, tuple(product or ()))
    _views().stat(stream, chosen, limit, as_json=as_json)


@app.command()
def query(
    sql: Annotated[str, typer.Argument(help='One SELECT, over the views "ticks" and "raw".')],
    since: Since = None,
    until: Until = None,
    venue: Venue = None,
    product: Products = None,
    limit: Limit = 1000,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV instead.")] = False,
) -> None:
    """Ask the lake in SQL (DuckDB).

    --since, --until, --venue and --product choose objects: more than asked for may be in them.
    """
    if as_json and as_csv:
        raise typer.BadParameter("choose one of --json and --csv")
    chosen = Chosen(since, until, venue, tuple(product or ()))
    _views().query(sql, chosen, limit, as_json=as_json, as_csv=as_csv)


def _views() -> ModuleType:
    from cli import lake_views  # noqa: PLC0415  # heavy, and no other command needs it

    return lake_views
