"""The live table of `ledgerflux watch`: one row a product, redrawn a few times a second.

Builds its state from canonical messages with the same machines as the gateway; decides nothing.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.measure import Measurement
from rich.table import Table

from client.subscriber import Update
from models.canonical import FEEDS, Feed, Level, Quote, Status
from streaming.core.latest import LatestState

REDRAW_S = 0.25
"""Four redraws a second: more cannot be read."""

SHOWN_S = 3.0
"""So long a closed gap is told of: most are open for less than a redraw."""

_COLUMNS = (
    "product", "last", "size", "side", "bid", "bid size", "ask", "ask size", "levels", "spread",
    "ticks/s", "links", "gaps", "status", "age",
)  # fmt: skip
_GIVE_WAY = ("spread", "bid size", "ask size", "side", "size", "age", "levels", "links")
"""What a narrow terminal does not show, in this order."""

_STATUS_WIDTH = len("trades mended in 0.00 s")
_ANY_WIDTH = 1000


class Row:
    """One product: its latest state per feed and its pace."""

    def __init__(self, venue: str, product: str, now: float) -> None:
        self.product = product
        self._states = {feed: LatestState(venue, product, feed) for feed in FEEDS}
        self._status: dict[Feed, str] = {}
        self._opened: dict[Feed, float] = {}
        self._gaps = 0
        self._closed: tuple[str, float] = ("", now - SHOWN_S)
        self._ticks = 0
        self._newest = now
        self._marked = (now, 0)
        self._rate = 0.0

    def take(self, update: Update, now: float) -> None:
        """Take the next message."""
        feed = update.link.feed
        self._states[feed].apply(update.line)
        self._newest = now
        if update.op == "incr":
            self._ticks += 1
        elif update.op == "status" and isinstance(update.message, Status):
            self._status[feed] = update.message.state
            self._follow(feed, update.message, now)

    def _follow(self, feed: Feed, status: Status, now: float) -> None:
        """Count gaps, and note how long each was open."""
        if status.state == "gap":
            self._gaps += feed not in self._opened
            self._opened.setdefault(feed, now)
        elif status.state == "live" and feed in self._opened:
            seconds = now - self._opened.pop(feed)
            self._closed = (f"[green]{feed} mended in {seconds:.2f} s[/green]", now)

    def cells(self, now: float) -> list[str]:
        """Return what the table shows, in the order of its columns."""
        self._measure(now)
        quotes = self._states["ticker"].fields()
        last = self._states["trades"].fields().last_trade or quotes.last_trade
        book = self._states["book"].book
        bid, ask = book.best_bid, book.best_ask
        return [
            self.product,
            *([str(last.px), str(last.qty), last.side] if last else ["", "", ""]),
            *(_quote(quotes.best_bid) or _level(book.bids(1))),
            *(_quote(quotes.best_ask) or _level(book.asks(1))),
            f"{len(book):,}" if len(book) else "",
            "" if bid is None or ask is None else format(ask - bid, "f"),
            f"{self._rate:,.0f}",
            f"{self._ticks:,}",
            str(self._gaps or ""),
            self._trouble() or self._told(now),
            f"{now - self._newest:.1f} s",
        ]

    def _trouble(self) -> str:
        """Return the feeds that are not live, and what they are."""
        trouble = [f"{feed} {state}" for feed, state in self._status.items() if state != "live"]
        return f"[yellow]{', '.join(trouble)}[/yellow]" if trouble else ""

    def _told(self, now: float) -> str:
        """Return the newest closed gap for a while, then that all is live."""
        text, at = self._closed
        return text if now - at < SHOWN_S else "live"

    def _measure(self, now: float) -> None:
        """Renew the pace once a second."""
        began, ticks = self._marked
        if now - began >= 1.0:
            self._rate = (self._ticks - ticks) / (now - began)
            self._marked = (now, self._ticks)


class Board:
    """The live table of all products."""

    def __init__(self, console: Console) -> None:
        self._rows: dict[tuple[str, str], Row] = {}
        self._notice = "connecting"
        self._console = console
        self._shown: tuple[int, tuple[str, ...]] = (console.width, _COLUMNS)
        # Where nobody watches, one table at the end is all there is to see.
        self._live = Live(
            console=console, get_renderable=self._table, auto_refresh=False, transient=False
        )

    def notice(self, text: str) -> None:
        """Show a sentence below the table."""
        self._notice = text

    def take(self, update: Update) -> None:
        """Take the next message."""
        now = time.monotonic()
        key = (update.link.venue, update.link.product)
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = Row(*key, now)
        row.take(update, now)

    @contextlib.asynccontextmanager
    async def shown(self) -> AsyncIterator[None]:
        """Redraw while the context is open."""
        with self._live:
            drawing = asyncio.create_task(self._draw())
            try:
                yield
            finally:
                drawing.cancel()

    async def _draw(self) -> None:
        while self._console.is_terminal:
            self._live.refresh()
            await asyncio.sleep(REDRAW_S)

    def _table(self) -> Table:
        """Return the table with as many columns as the terminal has room for."""
        now = time.monotonic()
        rows = [
            dict(zip(_COLUMNS, self._rows[key].cells(now), strict=True))
            for key in sorted(self._rows)
        ]
        width, options = self._console.width, self._console.options.update(max_width=_ANY_WIDTH)
        # A column that was hidden stays hidden until the terminal is resized: none appears and
        # disappears with the digits of a price.
        columns = self._shown[1] if self._shown[0] == width else _COLUMNS
        table = self._of(columns, rows)
        for name in _GIVE_WAY:
            if Measurement.get(self._console, options, table).maximum <= width:
                break
            columns = tuple(one for one in columns if one != name)
            table = self._of(columns, rows)
        self._shown = (width, columns)
        return table

    def _of(self, columns: Sequence[str], rows: Sequence[dict[str, str]]) -> Table:
        table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, caption=self._notice)
        for name in columns:
            table.add_column(name, no_wrap=True, min_width=_STATUS_WIDTH * (name == "status"))
        for row in rows:
            table.add_row(*(row[name] for name in columns))
        return table


def _quote(quote: Quote | None) -> tuple[str, str] | None:
    """Return the ticker's best price and its size."""
    if quote is None:
        return None
    return str(quote.px), "" if quote.qty is None else str(quote.qty)


def _level(levels: list[Level]) -> tuple[str, str]:
    """Return a book's best price and its size."""
    return (str(levels[0][0]), str(levels[0][1])) if levels else ("", "")
