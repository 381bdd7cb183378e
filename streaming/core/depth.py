"""The book feed: a snapshot, then every change, while the book can be true.

Level 2 carries no numbering, so a loss cannot be seen in it: a new connection brings a new
snapshot, our own numbering proves that no record is missing between socket and log, and a book
whose bids reach its asks is corrupt (COINBASE.md section 2). One connection is followed at a
time; a second line's book is kept beside it, ready to take over. Behind a gap changes are held,
within bounds.
"""

from collections import deque
from collections.abc import Iterable

import msgspec

from models.canonical import State
from models.events import BookDelta, BookMarker, BookSnapshot, Event, Lost
from models.resync import MANUAL, GapReason
from streaming.core.book import Book
from streaming.core.coverage import Coverage
from streaming.core.hold import Hold
from streaming.core.outputs import Outputs
from streaming.core.standby import Place, Shadow, Standby
from streaming.core.writer import Gap, Writer


class BookCursor(msgspec.Struct):
    """What a checkpoint keeps beside the levels. There is none while changes are held."""

    seq: int
    conn: str | None
    ts_event: int
    overflow_from: int | None
    state: State
    gap: Gap | None
    shadows: dict[str, Shadow] = {}
    floor: int = 0
    count: int = 0


class BookFeed:
    """State of the book of one product."""

    __slots__ = (
        "_conn",
        "_count",
        "_coverage",
        "_floor",
        "_held",
        "_held_from",
        "_hold",
        "_overflow_from",
        "_standby",
        "_ts",
        "book",
        "writer",
    )

    def __init__(self, venue: str, product: str, hold: Hold, coverage: Coverage) -> None:
        self.writer = Writer(venue, product, "book")
        self._coverage = coverage
        self._standby: dict[str, Standby] = {}
        self.book = Book()
        self._hold = hold
        self._conn: str | None = None
        self._held: list[BookDelta] = []
        self._held_from = 0
        self._overflow_from: int | None = None
        self._ts = self._count = 0
        self._floor = 0

    @property
    def conn(self) -> str | None:
        """The connection that is followed."""
        return self._conn

    @property
    def holding(self) -> bool:
        """Whether changes are held that are nowhere else but in the log."""
        return bool(self._held)

    def snapshot(self, event: BookSnapshot, position: int, out: Outputs) -> None:
        """Take a snapshot: a new chain, unless the one that is followed is in good health.

        Or another line goes on with it, where the one that was followed has just been replaced.
        """
        writer = self.writer
        self.watch(event.ts_ingest, out)
        if self._second(event):
            return
        self._standby.pop(event.conn, None)
        self._conn = event.conn
        self._replace(Book(event.bids, event.asks))
        self._ts = event.ts_ingest if event.ts_event is None else event.ts_event
        self._count = 0
        # Without a time of its own, receipt time must not get ahead of the changes' event times.
        seq = writer.seq + 1 if event.ts_event is None else max(event.ts_event, writer.seq + 1)
        writer.snapshot(out, seq, self._ts, "subscribe", self._levels())
        if writer.gap is not None:
            writer.close_gap(out, event.ts_ingest)
        writer.announce(out, "live", event.ts_ingest)
        if self.book.crossed:
            self._open("crossed", self._ts, position, event.ts_ingest, out)

    def delta(self, event: BookDelta, position: int, out: Outputs) -> None:
        """Take changes; those of a connection that is not followed go to its own book."""
        if event.conn != self._conn:
            if self._conn is not None:
                self._stand_by(event, out)
                return
            self._conn = event.conn
            self._open("no_snapshot", event.ts_event, position, event.ts_ingest, out)
        if self.writer.gap is not None:
            self._keep(event, position)
            return
        if event.ts_event < self._floor:
            return  # the fetched book was ahead of the feed, and has this already
        if not self._advance(event, out) and not self.take_over(event.ts_ingest, out):
            self._open("crossed", event.ts_event, position, event.ts_ingest, out)

    def _second(self, event: BookSnapshot) -> bool:
        """Keep a snapshot of another line beside the book, if that one is in good health."""
        coverage = self._coverage
        for conn in [conn for conn in self._standby if coverage.is_down(conn)]:
            del self._standby[conn]
        healthy = self.writer.gap is None and self._conn in coverage.alive(event.ts_ingest)
        if not healthy or event.conn == self._conn:
            return False
        ts_event = event.ts_ingest if event.ts_event is None else event.ts_event
        book = Book(event.bids, event.asks)
        self._standby[event.conn] = Standby(book, Place(ts_event, 0), ts_event)
        return True

    def _stand_by(self, event: BookDelta, out: Outputs) -> None:
        """Apply changes of a line that is not followed to its own book."""
        standby, here = self._standby.get(event.conn), Place(self._ts, self._count)
        if standby is None:
            standby = self._standby[event.conn] = Standby(Book(), Place(0, 0), None)
        standby.take(event, here, self._hold.messages)
        if self.writer.gap is None:
            standby.learn(self.book, here)
        if standby.is_ahead and self._coverage.is_down(self._conn):
            self.watch(event.ts_ingest, out)

    def watch(self, now_us: int, out: Outputs) -> None:
        """Leave a line that has ended, or fell silent without a word as a killed ingestor's does.

        What its book shows is true, so the chain goes on with what another line has beyond it; a
        line that has not come so far yet is waited for.
        """
        if not self._standby or self.writer.gap is not None:
            return
        alive = self._coverage.alive(now_us)
        if self._conn in alive:
            return
        here = Place(self._ts, self._count)
        able = [
            (standby.place, conn)
            for conn, standby in self._standby.items()
            if conn in alive and standby.continues(here) and not standby.book.crossed
        ]
        if not able:
            self.take_over(now_us, out)
        elif max(able)[0] >= here:
            self._go_on(max(able)[1], here, out)

    def _go_on(self, conn: str, here: Place, out: Outputs) -> None:
        """Follow another line from where the chain has come to; the one that is left stands by."""
        left, standby = self._conn, self._standby.pop(conn)
        if left is not None and not self._coverage.is_down(left):
            book = Book(self.book.bids(), self.book.asks())
            self._standby[left] = Standby(book, here, here.ts)
        self._conn = conn
        said = [self._advance(event, out) for event in standby.beyond(here)]
        if not all(said) or self.book != standby.book:
            self._follow(conn, standby, out)  # the lines differ: this one counts from now on

    def take_over(self, now_us: int, out: Outputs) -> bool:
        """Follow another line that is up, from its own book on; return whether there is one."""
        for conn in self._coverage.alive(now_us):
            standby = self._standby.get(conn)
            if standby is None or standby.since is None or conn == self._conn:
                continue
            if not standby.book.crossed:
                del self._standby[conn]
                self._follow(conn, standby, out)
                return True
        return False

    def _follow(self, conn: str, standby: Standby, out: Outputs) -> None:
        """Begin a new chain with another line's book."""
        self._conn = conn
        self._replace(standby.book)
        self._ts, self._count = standby.place
        seq = max(self._ts, self.writer.seq + 1)
        self.writer.snapshot(out, seq, self._ts, "subscribe", self._levels())

    def _advance(self, event: BookDelta, out: Outputs) -> bool:
        """Apply changes and append the tick, unless they cross the book: then return false."""
        writer, book, changes = self.writer, self.book, event.changes
        book.apply(changes)
        self._count = self._count + 1 if event.ts_event == self._ts else 1
        self._ts = event.ts_event
        if book.crossed:
            return False
        seq = event.ts_event if event.ts_event > writer.seq else writer.seq + 1
        if len(changes) == 1:
            side, price, size = changes[0]
            fields = f'{{"changes":[["{side}","{price}","{size}"]]}}'
        else:
            fields = f'{{"changes":{msgspec.json.encode(changes).decode()}}}'
        writer.tick(out, seq, event.ts_event, event.ts_ingest, fields)
        return True

    def _keep(self, event: BookDelta, position: int) -> None:
        """Hold changes, or beyond the bounds only the place where they begin in the log."""
        if self._overflow_from is not None:
            return
        gap, held = self.writer.gap, self._held
        if not held:
            self._held_from = position
        held.append(event)
        waited_us = event.ts_ingest - gap.since if gap is not None else 0
        if len(held) > self._hold.messages or waited_us > self._hold.time_us:
            self._overflow_from = self._held_from
            held.clear()

    def doubt(self, event: Event, position: int, out: Outputs) -> None:
        """Note that a record of a connection is missing or unreadable: the book is unknown.

        `event` is the one that shows it; where it has no time of its own, that of its receipt
        bounds the loss, so the clock here has to agree with the venue's.
        """
        self._standby.pop(event.conn, None)
        if event.conn == self._conn and self.writer.gap is None:
            if self.take_over(event.ts_ingest, out):
                return
            before = event.ts_event if isinstance(event, BookDelta) else event.ts_ingest
            self._open("lost_record", before, position, event.ts_ingest, out)

    def distrust(self, now_us: int, position: int, out: Outputs) -> None:
        """Open a gap, whichever connection is followed: the book may be left half changed."""
        if self._conn is not None:
            self.doubt(Event(now_us, self._conn, 0), position, out)

    def lose(
        self, event: Lost, position: int, stretch: str, *, followed_down: bool, out: Outputs
    ) -> None:
        """Open a gap if the lost frames were of the connection that is followed.

        So too while that one is down: then a snapshot of the new one may have been among them.
        """
        self._standby.pop(event.conn, None)
        hit = event.conn == self._conn or (followed_down and self._conn is not None)
        if hit and self.writer.gap is None and not self.take_over(event.ts_ingest, out):
            self._conn = event.conn
            self._open("connection", event.ts_ingest, position, event.ts_ingest, out, stretch)

    def fill(self, event: BookMarker, position: int, out: Outputs) -> bool:
        """Take the book that a recovery has fetched, if it reaches past the gap.

        Returns whether it does; `finish` must follow, after a re-read if `out` asks for one.
        """
        writer, gap = self.writer, self.writer.gap
        if gap is None and MANUAL in event.resync_id and self._conn is not None:
            # Ordered by a person: close the gate now, so that the next book finds what follows.
            request = writer.open_gap(out, "manual", writer.seq, self._ts, event.ts_ingest)
            gap = writer.gap = Gap(
                "manual", request.after, request.before, request.since, event.resync_id
            )
            self._held_from = position
        if gap is None or (gap.before is not None and event.ts_event < gap.before):
            writer.answer(out, event.resync_id, event.ts_ingest)
            return False
        held, out.reread = self._held, self._overflow_from
        if out.reread is not None:
            self._held_from = out.reread
        self._replace(Book(event.bids, event.asks))
        self._held, self._ts, self._floor = held, event.ts_event, event.ts_event
        self._count = 0
        seq = max(event.ts_event, writer.seq + 1)
        writer.snapshot(out, seq, event.ts_event, "resync", self._levels(), event.resync_id)
        return True

    def finish(
        self, event: BookMarker, refill: Iterable[BookDelta], position: int, out: Outputs
    ) -> None:
        """Replay what was held, or what was read again, behind the book; the feed is live.

        Should the book cross on the way, that gap closes and another one opens.
        """
        waiting, self._held = deque([*refill, *self._held]), []
        newest = 0
        while waiting and not self.book.crossed:
            delta = waiting.popleft()
            if delta.conn != self._conn or delta.n <= newest:
                continue
            newest = delta.n
            # A batch whose newest change is as old as the book may still hold the same changes;
            # sizes are absolute, so to apply them again does no harm.
            if delta.ts_event >= event.ts_event:
                self._advance(delta, out)
        self.writer.close_gap(out, event.ts_ingest)
        if self.book.crossed:
            first = self._held_from
            self._open("crossed", self._ts, position, event.ts_ingest, out)
            for delta in waiting:
                self._keep(delta, first)

    def _replace(self, book: Book) -> None:
        self.book, self._floor = book, 0
        self._held, self._overflow_from = [], None

    def _open(
        self,
        reason: GapReason,
        before: int,
        position: int,
        now_us: int,
        out: Outputs,
        stretch: str | None = None,
    ) -> None:
        self._held_from = position
        request = self.writer.open_gap(out, reason, self.writer.seq, before, now_us, stretch)
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
            writer.seq,
            self._conn,
            self._ts,
            self._overflow_from,
            writer.state,
            writer.gap,
            {conn: standby.shadow() for conn, standby in self._standby.items()},
            self._floor,
            self._count,
        )

    def restore(self, cursor: BookCursor, book: Book) -> None:
        """Go on from a checkpoint and the levels that it came with."""
        self.writer.restore(cursor.seq, cursor.state, cursor.gap)
        self._conn, self._ts, self._count = cursor.conn, cursor.ts_event, cursor.count
        self._overflow_from, self._floor = cursor.overflow_from, cursor.floor
        self._standby = {conn: Standby.restored(shadow) for conn, shadow in cursor.shadows.items()}
        self.book = book
