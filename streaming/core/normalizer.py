"""The normalizer of one product: market events in, canonical lines out, deterministically.

A state machine over MD_RAW whose time is the records' own, so the same log always gives the same
canonical log, however it is cut into batches and wherever a restart falls. The shell around it
(`streaming.normalize`) does all I/O.
"""

from collections.abc import Sequence

import msgspec

from models.canonical import Snapshot
from models.events import (
    BookDelta,
    BookMarker,
    BookSnapshot,
    Down,
    Event,
    GivenUp,
    Heartbeat,
    Invalid,
    Lost,
    Marker,
    OrderMessage,
    Ticker,
    TickerMarker,
    Trade,
    TradesMarker,
)
from streaming.core.book import Book
from streaming.core.coverage import Coverage, Line
from streaming.core.depth import BookCursor, BookFeed
from streaming.core.hold import Hold
from streaming.core.outputs import Outputs
from streaming.core.ticker import TickerCursor, TickerFeed
from streaming.core.trades import TradesCursor, TradesFeed

UNPROCESSABLE = "unprocessable"
"""Reason of a record that was decoded, and on which the state machine failed."""

MAX_DETAIL = 300
"""Characters of a sentence about bad input: it may repeat the input."""

DEFAULT_HOLD = Hold(messages=10_000, time_us=2_000_000)
"""What a closed gate holds unless the settings say otherwise."""


class Cursors(msgspec.Struct):
    """Everything that a restart needs beside the book's levels."""

    lines: dict[str, Line]
    ticker: TickerCursor
    trades: TradesCursor
    book: BookCursor


_decode_cursors = msgspec.json.Decoder(Cursors).decode
_decode_snapshot = msgspec.json.Decoder(Snapshot).decode


class ProductNormalizer:
    """State of one product."""

    __slots__ = (
        "_book",
        "_coverage",
        "_feeds",
        "_hold",
        "_marker",
        "_reread",
        "_ticker",
        "_trades",
    )

    def __init__(
        self,
        venue: str,
        product: str,
        *,
        hold: Hold = DEFAULT_HOLD,
        ticker_watermark: bool = True,
    ) -> None:
        """Begin with nothing known.

        `ticker_watermark`: whether heartbeats may prove a lost ticker; false where only the
        batched ticker channel is subscribed, which may lag behind them.
        """
        self._coverage = Coverage()
        self._ticker = TickerFeed(venue, product, self._coverage, by_watermark=ticker_watermark)
        self._trades = TradesFeed(venue, product, hold, self._coverage)
        self._book = BookFeed(venue, product, hold, self._coverage)
        self._feeds = (self._ticker, self._trades, self._book)
        self._hold = hold
        self._marker: tuple[Marker, int] | None = None
        self._reread: list[BookDelta] = []

    def apply(self, event: Event, position: int, out: Outputs) -> None:
        """Take the next record; `position` is its message's place in MD_RAW.

        Raises nothing but `MemoryError`: a record on which this state machine fails is left out,
        and everything that it may have left half done is in doubt.
        """
        try:
            self._apply(event, position, out)
        except MemoryError:
            raise  # of the machine, not of the record: applied again it may succeed
        except Exception as error:  # noqa: BLE001  # no record may stop what comes behind it
            self._fail(event, position, out, error)

    def _fail(self, event: Event, position: int, out: Outputs, error: Exception) -> None:
        """Go on behind a record on which this failed."""
        detail = f"{type(error).__name__}: {error}"[:MAX_DETAIL]
        out.invalid.append(
            Invalid(event.ts_ingest, event.conn, event.n, UNPROCESSABLE, detail, "book")
        )
        out.reread, self._marker, self._reread = None, None, []
        self._ticker.doubt()
        self._trades.doubt()
        self._book.distrust(event.ts_ingest, position, out)

    def _apply(self, event: Event, position: int, out: Outputs) -> None:
        kind = type(event)
        if event.conn:
            verdict = self._coverage.note(event.conn, event.n, event.ts_ingest)
            if verdict == "repeat":
                return
            if verdict != "next":
                self._doubt(event, verdict, position, out)
        if kind is BookDelta:
            self._book.delta(event, position, out)  # type: ignore[arg-type]
        elif kind is Ticker:
            self._ticker.apply(event, out)  # type: ignore[arg-type]
        elif kind is Trade:
            self._trades.apply(event, position, out)  # type: ignore[arg-type]
        elif kind is OrderMessage:
            self._trades.order(event, out)  # type: ignore[arg-type]
        elif kind is Heartbeat:
            self._ticker.heartbeat(event, out)  # type: ignore[arg-type]
            self._trades.heartbeat(event, out)  # type: ignore[arg-type]
            self._book.watch(event.ts_ingest, out)
            self._age(event.ts_ingest, out)
        elif kind is Event:
            self._age(event.ts_ingest, out)
        else:
            self._rare(event, position, out)

    def _age(self, now_us: int, out: Outputs) -> None:
        """Tell of gaps that have been open for too long; heartbeats are the clock."""
        for feed in self._feeds:
            feed.writer.age(out, now_us, self._hold.stale_us)

    def _rare(self, event: Event, position: int, out: Outputs) -> None:
        """Take what comes seldom."""
        if isinstance(event, BookSnapshot):
            self._book.snapshot(event, position, out)
        elif isinstance(event, Marker):
            self._fill(event, position, out)
        elif isinstance(event, Down):
            self._down(event, out)
        elif isinstance(event, Lost):
            self._lose(event, position, out)
        elif isinstance(event, GivenUp):
            for feed in self._feeds:
                feed.writer.give_up(out, event.resync_id, event.ts_ingest)
        elif isinstance(event, Invalid):
            out.invalid.append(event)
            if event.feed == "book":
                self._book.doubt(event, position, out)

    def _doubt(self, event: Event, verdict: str, position: int, out: Outputs) -> None:
        """React to a new connection or to records that never reached the log."""
        if verdict != "covered":
            self._ticker.doubt()
        if verdict == "lost":
            self._book.doubt(event, position, out)

    def _fill(self, event: Marker, position: int, out: Outputs) -> None:
        """Take a recovery's answer; wait for the shell where the log has to be read again."""
        if isinstance(event, TickerMarker):
            self._ticker.fill(event, out)
        elif isinstance(event, TradesMarker):
            self._trades.fill(event, out)
            self._marker = (event, position)
        elif isinstance(event, BookMarker) and self._book.fill(event, position, out):
            self._marker = (event, position)
        if out.reread is None:
            self.refilled(out)

    def refill(self, events: Sequence[Event], out: Outputs) -> None:
        """Take what was let go behind a gate once more: the records from `out.reread` on."""
        marker = self._marker
        if marker is None:
            return  # it failed
        if marker is not None and isinstance(marker[0], BookMarker):
            self._reread += [event for event in events if isinstance(event, BookDelta)]
        else:
            self._trades.refill([event for event in events if isinstance(event, Trade)], out)

    def refilled(self, out: Outputs) -> None:
        """End a marker, after the re-read if one was asked for."""
        marker, self._marker = self._marker, None
        out.reread = None
        if marker is None:
            return
        event, position = marker
        try:
            if isinstance(event, BookMarker):
                deltas, self._reread = self._reread, []
                self._book.finish(event, deltas, position, out)
            elif isinstance(event, TradesMarker):
                self._trades.finish(event, out)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001  # as in `apply`
            self._fail(event, position, out, error)

    def _lose(self, event: Lost, position: int, out: Outputs) -> None:
        """React to a lost stretch of a connection, unless another line has seen it all.

        The next print shows by itself whether any was lost.
        """
        stretch = f"{event.conn}/{event.after}-{event.before}"
        followed_down = self._coverage.is_down(self._book.conn)
        self._book.lose(event, position, stretch, followed_down=followed_down, out=out)
        if not self._coverage.watched(event.ts_ingest, but=event.conn):
            self._ticker.lose(event, stretch, out)

    def _down(self, event: Down, out: Outputs) -> None:
        """Announce that nobody watches any more, unless another line does."""
        self._coverage.down(event.conn)
        if event.conn == self._book.conn:
            self._book.watch(event.ts_ingest, out)
        if self._coverage.watched(event.ts_ingest):
            return
        for feed in self._feeds:
            if feed.writer.seq and feed.writer.gap is None:
                feed.writer.announce(out, "stale", event.ts_ingest)

    @property
    def holding(self) -> bool:
        """Whether a checkpoint must wait: what is held would be lost with it."""
        return self._trades.holding or self._book.holding

    @property
    def levels(self) -> int:
        """How deep the book is, which is what a checkpoint costs."""
        return len(self._book.book)

    @property
    def states(self) -> dict[str, str]:
        """The announced state of each feed that has had a message."""
        return {feed.writer.feed: feed.writer.state for feed in self._feeds if feed.writer.seq}

    def checkpoint(self) -> tuple[list[str], bytes]:
        """Return the canonical lines that restore the latest state, and the cursors as JSON."""
        lines: list[str] = []
        for feed in self._feeds:
            writer = feed.writer
            if writer.seq:
                lines.append(
                    writer.snapshot_line(writer.seq, feed.ts_us, "subscribe", feed.state())
                )
            if writer.state != "live":
                lines.append(writer.status_line(feed.ts_us))
        cursors = Cursors(
            self._coverage.lines,
            self._ticker.cursor(),
            self._trades.cursor(),
            self._book.cursor(),
        )
        return lines, msgspec.json.encode(cursors)

    def restore(self, lines: list[bytes], cursors: bytes) -> None:
        """Go on from a checkpoint.

        Raises:
            msgspec.DecodeError: it is not one that this version can read.
        """
        read = _decode_cursors(cursors)
        self._coverage.restore(read.lines)
        self._ticker.restore(read.ticker)
        self._trades.restore(read.trades)
        self._book.restore(read.book, _book_of(lines))


def _book_of(lines: list[bytes]) -> Book:
    for line in lines:
        if b'"type":"snapshot"' in line and b'"feed":"book"' in line:
            state = _decode_snapshot(line).state
            return Book(state.bids or (), state.asks or ())
    return Book()
