"""The snapshotter: MD_TICKS in, the latest state of every product out, as rows in a store.

Reading never waits for the store. What has changed is a set of products and not a queue: however
long the store is away, memory holds one state per product, and then only the newest is written.
A crash costs nothing: the rows, the checkpoints and the log tell where to go on.
"""

import asyncio
import time
from collections.abc import Iterable
from contextlib import aclosing
from decimal import InvalidOperation
from itertools import islice
from typing import Self

import msgspec
import structlog

from models.canonical import FEEDS, Feed, Head, decode_heads
from models.checkpoint import decode_checkpoint
from models.subjects import Streams, product_of
from storage.errors import StorageError
from storage.latest import DEPTH, LatestRow, LatestStore, RowTooLargeError, is_whole
from streaming.broker.log import Log, LogMessage
from streaming.core.latest import LatestState
from streaming.metrics import Counts, Durations, Readings
from streaming.unread import Unread

BATCH_ROWS = 128
"""Rows that are rendered and written together, at most: some MB even if all books are deep."""

TURN_BYTES = 256 * 1024
"""So much of a backlog is read before the event loop gets its turn."""

MAX_SHARE = 4
"""Rendering deep books takes time from reading: this many times as long is left to it."""

_PAUSE_FIRST_S = 0.05
_PAUSE_MAX_S = 2.0
_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_UNREADABLE = (msgspec.DecodeError, InvalidOperation)
_log = structlog.get_logger(__name__)


class ProductState:
    """State of one product after the messages taken so far.

    Attributes: venue; name; position, in MD_TICKS, of the newest message; time_us, when that was
    stored (after a restart, its own time).
    """

    def __init__(self, venue: str, name: str) -> None:
        self.venue, self.name = venue, name
        self.position = self.time_us = 0
        self._states = {feed: LatestState(venue, name, feed) for feed in FEEDS}
        self._newest: dict[Feed, bytes] = {}

    @classmethod
    def restored(cls, product: tuple[str, str], lines: Iterable[bytes], position: int) -> Self:
        """Return the state that a row's or a checkpoint's lines tell, as at a position.

        Raises:
            msgspec.DecodeError: one is no canonical message.
        """
        self = cls(*product)
        self._take(b"\n".join(lines))
        self._apply_newest()
        self.position = position
        self.time_us = max(state.ts_us for state in self._states.values())
        return self

    def take(self, message: LogMessage) -> None:
        """Apply the product's next message.

        Raises:
            msgspec.DecodeError: a line is no canonical message.
        """
        self.position, self.time_us = message.seq, message.time_us
        self._take(message.payload)

    def _take(self, payload: bytes) -> None:
        lines = [line for line in payload.split(b"\n") if line.strip()]
        for head, line in zip(decode_heads(payload), lines, strict=True):
            if head.type == "status":
                self._states[head.feed].apply(line)
            elif head.feed == "book":
                self._change_book(head, line)
            else:
                # Such a line is the whole state: only the newest is ever looked at.
                self._newest[head.feed] = line

    def _change_book(self, head: Head, line: bytes) -> None:
        """Apply a line of the book, or forget the book until its next snapshot."""
        book = self._states["book"]
        if head.type == "tick" and head.prev_seq != book.seq:
            # Changes before this one are missing, and a wrong book is worse than none.
            self._states["book"] = forgotten = LatestState(self.venue, self.name, "book")
            forgotten.status = book.status
            return
        book.apply(line)

    def row(self, epoch: int) -> LatestRow:
        """Return the state as a row; a feed that is not known is left out."""
        self._apply_newest()
        lines: list[str] = []
        for state in self._states.values():
            if state.known:
                lines.append(state.snapshot(depth=DEPTH).decode())
            if state.status is not None:
                lines.append(state.status.decode())
        return LatestRow(self.venue, self.name, epoch, self.position, self.time_us, tuple(lines))

    def _apply_newest(self) -> None:
        for feed, line in self._newest.items():
            self._states[feed].apply(line)
        self._newest.clear()


class Snapshotter:
    """Keeps the rows of a store up to date.

    Run `read` and `write` beside each other; end both, then `flush`. Attributes: metrics; unread,
    whose `watch` makes the lag grow with what is not even read.
    """

    def __init__(self, log: Log, streams: Streams, store: LatestStore, period_s: float) -> None:
        """Prepare; a product's row is written once in `period_s` at most, the first at once."""
        self._log, self._streams, self._store = log, streams, store
        self._period_s = period_s
        self._epoch = 0
        self._products: dict[tuple[str, str], ProductState] = {}
        self._due: dict[ProductState, int] = {}
        self._writing: dict[ProductState, int] = {}
        self._changed = asyncio.Event()
        self._seconds = Durations(
            "md_snapshot_write_seconds", "Time to write a batch of latest-state rows.", _BOUNDS_S
        )
        self._rows = Counts("md_snapshot_rows", "Latest-state rows written.", ())
        self._failures = Counts("md_snapshot_failures", "Batches that the store did not take.", ())
        self._lag = Readings(
            "md_snapshot_lag_seconds", "Age of the oldest change that no row has.", (), self._lags
        )
        self.unread = Unread(log, streams.ticks, streams.every("ticks"))
        self.metrics = (self._seconds, self._rows, self._failures, self._lag)

    async def read(self) -> None:
        """Go on where the store and the checkpoints end, and follow MD_TICKS for ever.

        Raises:
            LogRemadeError: MD_TICKS is another stream than at the beginning.
            StorageError: the store cannot be read.
        """
        self.unread.position = after = await self._restore()
        turn_bytes = 0
        messages = self._log.read(self._streams.ticks, self._streams.every("ticks"), after=after)
        async with aclosing(messages):
            async for message in messages:
                self._take(message)
                self.unread.position = message.seq
                turn_bytes += len(message.payload)
                if turn_bytes > TURN_BYTES:
                    turn_bytes = 0
                    await asyncio.sleep(0)

    async def write(self) -> None:
        """Write what has changed, again and again; a store that is away is tried until it is back.

        Raises:
            StorageError: it refuses for good; a new start may find it mended.
        """
        loop, pause_s = asyncio.get_running_loop(), _PAUSE_FIRST_S
        while True:
            await self._changed.wait()
            began = loop.time()
            try:
                busy_s = await self._write_due()
            except StorageError as error:
                if error.is_final:
                    raise
                _log.warning("the store takes nothing: each newest state waits", error=str(error))
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _PAUSE_MAX_S)
            else:
                pause_s = _PAUSE_FIRST_S
                rest_s = began + self._period_s - loop.time()
                await asyncio.sleep(max(rest_s, MAX_SHARE * busy_s, 0))

    async def flush(self) -> None:
        """Write what no row has yet.

        Raises:
            StorageError: the store did not take it.
        """
        while self._due:
            await self._write_due()

    async def _restore(self) -> int:
        """Load what is known of each product; return the position to read on after."""
        self._epoch = (await self._log.extent(self._streams.ticks)).created_us
        async for row in self._store.all():
            if row.epoch == self._epoch:
                self._restore_row(row)
        for subject in await self._log.subjects(self._streams.state, self._streams.every("state")):
            await self._restore_checkpoint(subject)
        # Subjects after checkpoints: one that appears in between is beyond all that is known.
        subjects = await self._log.subjects(self._streams.ticks, self._streams.every("ticks"))
        reached = [self._product(*product_of(subject)).position for subject in subjects]
        _log.info("reading on", products=len(self._products), after=min(reached, default=0))
        return min(reached, default=0)

    def _restore_row(self, row: LatestRow) -> None:
        """Begin with a row, if ticks can be applied to it."""
        product = row.venue, row.product
        lines = [line.encode() for line in row.lines]
        try:
            if is_whole(row):
                self._products[product] = ProductState.restored(product, lines, row.position)
        except _UNREADABLE as error:
            _log.warning("reading the log instead of a row", row=row.key, error=str(error))

    async def _restore_checkpoint(self, subject: str) -> None:
        """Begin with a checkpoint, which has all of a deep book, if it is newer than the row."""
        message = await self._log.last(self._streams.state, subject)
        if message is None:
            return
        product = product_of(subject)
        try:
            checkpoint = decode_checkpoint(message.payload, message.headers)
            if checkpoint.ticks_seq <= self._product(*product).position:
                return
            lines = map(bytes, checkpoint.messages)
            restored = ProductState.restored(product, lines, checkpoint.ticks_seq)
        except _UNREADABLE as error:
            _log.warning("not using a checkpoint", subject=subject, error=str(error))
            return
        self._products[product] = restored
        # Its row may be older, and nothing may come any more.
        self._mark(restored, time.time_ns() // 1000)

    def _product(self, venue: str, name: str) -> ProductState:
        known = self._products.get((venue, name))
        if known is None:
            known = self._products[venue, name] = ProductState(venue, name)
        return known

    def _take(self, message: LogMessage) -> None:
        product = self._product(*product_of(message.subject))
        if message.seq <= product.position:
            return
        try:
            product.take(message)
        except _UNREADABLE as error:
            _log.warning(
                "left out a message that is not canonical",
                subject=message.subject,
                position=message.seq,
                error=str(error),
            )
        self._mark(product, message.time_us)

    def _mark(self, product: ProductState, time_us: int) -> None:
        self._due.setdefault(product, time_us)
        self._changed.set()

    async def _write_due(self) -> float:
        """Write a batch of what is due; return how long the rendering took.

        Raises:
            StorageError: nothing is lost: it is due again.
        """
        clock = time.perf_counter
        self._writing = {one: self._due.pop(one) for one in list(islice(self._due, BATCH_ROWS))}
        busy_s = 0.0
        rows: list[LatestRow] = []
        try:
            for product in self._writing:
                began = clock()
                rows.append(product.row(self._epoch))
                busy_s += clock() - began
                await asyncio.sleep(0)
            await self._put(rows)
        except BaseException:
            self._due = self._writing | self._due
            raise
        finally:
            self._writing = {}
            if not self._due:
                self._changed.clear()
        return busy_s

    async def _put(self, rows: list[LatestRow]) -> None:
        began = time.perf_counter()
        try:
            self._rows.values[()] += await self._store.put(rows)
        except RowTooLargeError as error:
            _log.error("left out a row", error=str(error))
            await self._put([row for row in rows if row.key != error.key])
        except StorageError:
            self._failures.values[()] += 1
            raise
        else:
            self._seconds.observe(time.perf_counter() - began)

    def _lags(self) -> dict[tuple[str, ...], float]:
        """Return how old the oldest change is that no row has, be it read or not; 0 if none is."""
        waiting = [*self._due.values(), *self._writing.values()]
        now_us = time.time_ns() // 1000
        due_s = (now_us - min(waiting)) / 1e6 if waiting else 0.0
        return {(): max(0.0, due_s, self.unread.oldest_s())}
