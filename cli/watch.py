"""`ledgerflux watch`: what a gateway serves, as a live table or as JSON lines, every link verified.

Puts the client library behind a command: options, signals, exit status. `board` draws.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import aclosing, suppress
from typing import Annotated

import typer
from rich.console import Console

from cli.board import Board
from client.errors import SubscriberError
from client.subscriber import Subscriber, Update
from models.canonical import FEEDS, Feed
from models.settings import SettingsError, load_settings

EXIT_BROKEN = 2
"""A link did not fit; what was missing has been asked for."""

EXIT_NOT_SERVED = 1
"""No gateway came up in time, or it refused what was asked for."""

PAGE_COLUMNS = 160
"""Width of the table in a pipe or a file."""

WAIT_S = 30.0
"""How long to wait for a gateway that is not up."""


class Lines:
    """JSON lines on stdout, flushed at the end of each turn of the event loop.

    Attributes: gone, whoever read them has closed the pipe.
    """

    def __init__(self) -> None:
        self._out = sys.stdout.buffer
        self._due = False
        self.gone = False

    def take(self, update: Update) -> None:
        """Print one message verbatim."""
        self._out.write(update.line)
        self._out.write(b"\n")
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """Let whoever reads have what was printed."""
        self._due = False
        try:
            self._out.flush()
        except BrokenPipeError:
            # What Python itself flushes at exit must have somewhere to go.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            self.gone = True


def watch(
    products: Annotated[
        list[str] | None, typer.Argument(metavar="[PRODUCT]...", help="Products; none means all.")
    ] = None,
    feeds: Annotated[
        str, typer.Option(help="Feeds, comma-separated: ticker, trades, book.")
    ] = ",".join(FEEDS),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines instead.")] = False,
    url: Annotated[
        str | None, typer.Option(help="The gateway's address; default from GATEWAY_PORT.")
    ] = None,
    duration: Annotated[
        float | None, typer.Option(min=0, help="Stop after so many seconds.")
    ] = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for a gateway.")] = WAIT_S,
    namespace: Annotated[
        str | None,
        typer.Option(help="Watch this replay, such as replay-monday, instead of what is live."),
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="LEDGERFLUX_API_KEY", help="Key, where the gateway asks.")
    ] = None,
) -> None:
    """Watch what a gateway serves and verify every link.

    It reconnects and goes on where it was: each message comes once. Exit status 2 means that a
    link did not fit, 1 that no gateway served what was asked for.
    """
    board = None if as_json else Board(_console())
    subscriber = Subscriber(
        url or _default_url(),
        products or ["*"],
        _feeds(feeds),
        namespace=namespace,
        api_key=api_key,
        give_up_after_s=wait,
        notify=_say if board is None else board.notice,
    )
    raise typer.Exit(asyncio.run(_watch(subscriber, board, duration)))


async def watch_gateway(url: str, products: Sequence[str]) -> None:
    """Draw the table until cancelled.

    Raises:
        SubscriberError: no gateway served what was asked for.
    """
    board = Board(_console())
    await _draw(Subscriber(url, products, give_up_after_s=WAIT_S, notify=board.notice), board)


async def _watch(subscriber: Subscriber, board: Board | None, duration: float | None) -> int:
    """Watch until told to stop; say how it went and return the exit status."""
    watching = asyncio.ensure_future(
        _print(subscriber) if board is None else _draw(subscriber, board)
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, watching.cancel)
    if duration is not None:
        loop.call_later(duration, watching.cancel)
    status = 0
    try:
        with suppress(asyncio.CancelledError):
            await watching
    except SubscriberError as error:
        _say(str(error))
        status = EXIT_NOT_SERVED
    checked = subscriber.verifier
    summary = (
        f"{subscriber.messages:,} messages, {checked.verified:,} links verified, "
        f"{checked.broken:,} broken"
    )
    typer.echo(summary, err=board is None)
    return status or (EXIT_BROKEN if checked.broken else 0)


async def _print(subscriber: Subscriber) -> None:
    """Print messages as lines until nobody reads them."""
    lines = Lines()
    try:
        async with aclosing(aiter(subscriber)) as updates:
            async for update in updates:
                lines.take(update)
                if lines.gone:
                    return
    finally:
        lines.flush()


async def _draw(subscriber: Subscriber, board: Board) -> None:
    """Draw messages as a table."""
    async with board.shown(), aclosing(aiter(subscriber)) as updates:
        async for update in updates:
            board.take(update)


def _feeds(text: str) -> Sequence[Feed]:
    """Read the list of feeds."""
    chosen = {feed.strip() for feed in text.split(",") if feed.strip()}
    if not chosen or not chosen <= set(FEEDS):
        raise typer.BadParameter(f"choose from {', '.join(FEEDS)}", param_hint="--feeds")
    return [feed for feed in FEEDS if feed in chosen]


def _console() -> Console:
    """Return the terminal, or a plain wide page where stdout is none."""
    return Console() if sys.stdout.isatty() else Console(width=PAGE_COLUMNS)


def _default_url() -> str:
    """Return the address of this machine's gateway."""
    try:
        settings = load_settings()
    except SettingsError as error:
        raise typer.BadParameter(str(error)) from error
    return f"ws://{settings.gateway_host}:{settings.gateway_port}/ws"


def _say(sentence: str) -> None:
    """Tell a person, beside the output."""
    typer.echo(sentence, err=True)
