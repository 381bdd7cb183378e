"""The book feed: a snapshot, then every change, while the book can be true.

Level 2 carries no numbering, so a loss cannot be seen in it: a new connection brings a new
snapshot, our own numbering proves that no record is missing between socket and log, and a book
whose bids reach its asks is corrupt (COINBASE.md section 2). One connection is followed at a
time, the one of the newest snapshot.
"""

import msgspec

from models.canonical import State
from models.events import BookDelta, BookSnapshot
from models.resync import GapReason
from streaming.core.book import Book
from streaming.core.outputs import Outputs
from streaming.core.writer import Gap, Writer


class BookCursor(msgspec.Struct):
    """What a checkpoint keeps beside the levels."""

    seq: int
    conn: str | None
    ts_event: int
    gap_from: int | None
    state: State
    gap: Gap | None


class BookFeed:
    """State of the book of one product."""

    __slots__ = ("_conn", "_gap_from", "_ts", "book", "writer")

    def __init__(self, venue: str, product: str) -> None:
        self.writer = Writer(venue, product, "book")
        self.book = Book()
        self._conn: str | None = None
        self._gap_from: int | None = None
        self._ts = 0

    def snapshot(self, event: BookSnapshot, position: int, out: Outputs) -> None:
        """Take a snapshot: a new chain, whatever was before."""
        writer = self.writer
        self._conn = event.conn
        self.book = Book(event.bids, event.asks)
        self._ts = event.ts_ingest if event.ts_event is None else event.ts_event
        # Without a time of its own, receipt time must not get ahead of the changes' event times.
        seq = writer.seq + 1 if event.ts_event is None else max(event.ts_event, writer.seq + 1)
        writer.snapshot(out, seq, self._ts, "subscribe", self._levels())
        if writer.gap is not None:
            writer.close_gap(out, event.ts_ingest)
        writer.announce(out, "live", event.ts_ingest)
        self._gap_from = None
        if self.book.crossed:
            self._open("crossed", position, event.ts_ingest, out)

    def delta(self, event: BookDelta, position: int, out: Outputs) -> None:
        """Take changes; those of a connection that is not followed say nothing new."""
        writer = self.writer
        if writer.gap is not None or event.conn != self._conn:
            if self._conn is None and writer.gap is None:
                self._open("no_snapshot", position, event.ts_ingest, out)
            return
        book, changes = self.book, event.changes
        book.apply(changes)
        seq = event.ts_event if event.ts_event > writer.seq else writer.seq + 1
        self._ts = event.ts_event
        if book.crossed:
            self._open("crossed", position, event.ts_ingest, out)
            return
        if len(changes) == 1:
            side, price, size = changes[0]
            fields = f'{{"changes":[["{side}","{price}","{size}"]]}}'
        else:
            fields = f'{{"changes":{msgspec.json.encode(changes).decode()}}}'
        writer.tick(out, seq, event.ts_event, event.ts_ingest, fields)

    def doubt(self, conn: str, position: int, now_us: int, out: Outputs) -> None:
        """Note that a record of a connection is missing or unreadable: the book is unknown."""
        if conn == self._conn and self.writer.gap is None:
            self._open("lost_record", position, now_us, out)

    def _open(self, reason: GapReason, position: int, now_us: int, out: Outputs) -> None:
        self._gap_from = position
        request = self.writer.open_gap(out, reason, self.writer.seq, None, now_us)
        out.requests.append(request)

    def _levels(self) -> str:
        book = self.book
        return msgspec.json.encode({"bids": book.bids(), "asks": book.asks()}).decode()

    def state(self) -> str:
        """Return all levels."""
        return self._levels()

    @property
    def ts_us(self) -> int:
        """Event time of the newest change."""
        return self._ts

    def cursor(self) -> BookCursor:
        """Return what a checkpoint keeps beside the levels."""
        writer = self.writer
        return BookCursor(
            writer.seq, self._conn, self._ts, self._gap_from, writer.state, writer.gap
        )

    def restore(self, cursor: BookCursor, book: Book) -> None:
        """Go on from a checkpoint and the levels that it came with."""
        self.writer.restore(cursor.seq, cursor.state, cursor.gap)
        self._conn, self._gap_from, self._ts = cursor.conn, cursor.gap_from, cursor.ts_event
        self.book = book
