"""Ingest: venue frames into MD_RAW, verbatim, one line each, per product in order.

A sink for a venue's feed client. Knows of a frame only what the venue's `route` reads of it:
kind, products, and the number where the venue numbers a connection's frames; what the frame means
is the normalizer's business. A frame of several products is stored once for each. When the log is
away the venue's socket is not read, so nothing is dropped here silently.
"""

import asyncio
import re
import time
from collections import Counter
from collections.abc import Iterable
from functools import partial

import msgspec
import structlog

from models.feed import Route, Routed
from models.records import BadFrame, LineDown, LostFrames, frame_line, note_line
from models.subjects import META_PRODUCT, SubjectError, raw_subject, shard_of, token
from streaming.broker.log import Log
from streaming.broker.outbox import Budget, Outbox
from streaming.core.connection import ConnectionCounter, Lost
from streaming.deadletters import MAX_PRODUCT, DeadLetters
from streaming.guard import shortened
from streaming.metrics import Collector, Counts, Readings
from streaming.tracing import Step, Tracing, tracing

MAX_WAITING_BYTES = 64 * 1024**2
"""Frames that may wait for the log; beyond it the venue's socket is not read."""


MAX_KINDS = 50
"""Kinds of frames that are counted by their own names; the others together."""


class _Head(msgspec.Struct):
    """What routing needs of a frame that belongs to one product."""

    type: str = ""
    product_id: str = META_PRODUCT


class _Receipt(msgspec.Struct):
    """When a record was received, in µs."""

    ts_ingest: int


_decode_receipt = msgspec.json.Decoder(_Receipt).decode
_decode_head = msgspec.json.Decoder(_Head).decode


def by_product_id(frame: bytes) -> Routed:
    """Route a frame that names its `type` and its one `product_id` itself, if it has one.

    Raises:
        msgspec.DecodeError: it is no JSON, or one of the two is no text.
    """
    head = _decode_head(frame)
    return head.type, (head.product_id,), None


_product_in = re.compile(rb'"product_id"\s*:\s*"([A-Za-z0-9_-]{1,64})"').search
_is_kind = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}").fullmatch
_log = structlog.get_logger(__name__)


class Ingest:
    """Stores what one venue's connections bring; see `models.feed.FrameSink`.

    Attributes: metrics, all that it counts.
    """

    def __init__(
        self,
        log: Log,
        venue: str,
        products: Iterable[str],
        shard_count: int,
        tasks: asyncio.TaskGroup,
        *,
        route: Route = by_product_id,
        line: str = "a",
    ) -> None:
        """Prepare; `tasks` takes the outboxes, `route` reads the venue's frames."""
        self._log = log
        self._route = route
        self._venue = venue
        self._tasks = tasks
        self._tracing = tracing()
        self._shard_count = shard_count
        self._budget = Budget(MAX_WAITING_BYTES)
        self._outboxes: dict[str, Outbox] = {}
        self._numbers: dict[str, Counter[str]] = {}
        self._counters: dict[str, ConnectionCounter] = {}
        self._ended: Counter[str] = Counter()
        self._kinds: set[str] = set()
        self._newest_us = time.time_ns() // 1000
        self.dead = DeadLetters(log, venue, tasks)
        self.counts = Counts(
            "md_ingest_messages_total", "Frames stored in MD_RAW", ("venue", "channel")
        )
        self.lost = Counts(
            "md_ingest_lost_frames_total", "Frames that a connection's own count misses", ("venue",)
        )
        for product in (*products, META_PRODUCT):
            self._outboxes[product] = self._outbox(product)
        self._all = tuple(self._outboxes)
        self.metrics: tuple[Collector, ...] = (
            *(self.counts, self.lost, self.dead.counts),
            *self._line_metrics(line),
        )

    def _line_metrics(self, line: str) -> tuple[Readings, ...]:
        """Return what tells that a line brings less than it should, or nothing."""
        venue, labels = self._venue, ("venue", "line")
        self.lost.expect(venue)

        def records() -> dict[tuple[str, ...], float]:
            counters = (self._ended, *list(self._numbers.values()))
            return {
                (venue, line, product): sum(counter[product] for counter in counters)
                for product in self._all
            }

        return (
            Readings(
                "md_ingest_records_total",
                "Records put into MD_RAW for each product: frames and notes",
                (*labels, "product"),
                records,
            ),
            Readings(
                "md_ingest_last_frame_timestamp_seconds",
                "When the newest frame came, or this process started",
                labels,
                lambda: {(venue, line): self._newest_us / 1e6},
            ),
            Readings(
                "md_ingest_connections",
                "Open connections to the venue",
                labels,
                lambda: {(venue, line): len(self._numbers)},
            ),
            Readings(
                "md_ingest_waiting_bytes",
                "Bytes that wait for the log to take them",
                labels,
                lambda: {(venue, line): self._budget.used},
            ),
        )

    def _outbox(self, product: str) -> Outbox:
        shard = shard_of(self._venue, product, self._shard_count)
        subject = raw_subject(shard, self._venue, product)
        begin = (
            None if self._tracing is None else partial(self._begin, self._tracing, product, shard)
        )
        return Outbox(self._log, subject, self._tasks, self._budget, begin=begin)

    def _begin(self, tracing: Tracing, product: str, shard: int, line: bytes) -> Step | None:
        """Begin the trace of a message at the receipt of its first frame, if it is to have one."""
        if not tracing.sampled():
            return None
        since_us = _decode_receipt(line).ts_ingest
        return tracing.begin(
            "ingest", since_us=since_us, venue=self._venue, product=product, shard=shard
        )

    def opened(self, conn: str) -> None:
        """Begin to count the records of a connection."""
        self._numbers[conn] = Counter()
        self._counters[conn] = ConnectionCounter()
        _log.info("feed connected", venue=self._venue, conn=conn)

    def frame(self, ts_ingest_us: int, conn: str, frame: bytes) -> None:
        """Store one frame, or keep it as a dead letter with the reason."""
        self._newest_us = ts_ingest_us
        try:
            kind, products, sequence_num = self._route(frame)
            frame.isascii() or frame.decode()
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001  # whatever the venue sends, the line goes on
            self._malformed(ts_ingest_us, conn, frame, shortened(f"{error}"))
            return
        if sequence_num is not None and not self._is_news(ts_ingest_us, conn, sequence_num, frame):
            return
        if b"\n" in frame or b"\r" in frame:
            # Between JSON's tokens only, where a space means the same; inside text it is illegal.
            frame = frame.replace(b"\n", b" ").replace(b"\r", b" ")
        numbers, outboxes, stored = self._numbers[conn], self._outboxes, False
        for product in products or self._all:
            outbox = outboxes.get(product)
            if outbox is None:
                self._unexpected(product, frame)
                continue
            number = numbers[product] = numbers[product] + 1
            outbox.put(frame_line(ts_ingest_us, conn, number, frame))
            stored = True
        if stored:
            self.counts.values[self._venue, self._channel(kind)] += 1

    def _channel(self, kind: str) -> str:
        """Return the metric's label of a kind of frame: the venue's word, if it can be one.

        A bounded number of them, since each is a time series for ever.
        """
        if kind not in self._kinds:
            if len(self._kinds) >= MAX_KINDS or not _is_kind(kind):
                return "other"
            self._kinds.add(kind)
        return kind

    def _unexpected(self, product: str, frame: bytes) -> None:
        detail = f"nobody asked for {product[:MAX_PRODUCT]!r}"
        self.dead.add("unexpected_product", detail, frame, _safe(product))

    def _is_news(self, ts_us: int, conn: str, number: int, frame: bytes) -> bool:
        """Compare with the connection's own count; every product is told of a loss.

        A frame that came before, or late, would put back what is past: it is kept as a dead letter.
        """
        verdict = self._counters[conn].offer(number)
        if verdict == "next":
            return True
        if not isinstance(verdict, Lost):
            detail = f"sequence_num {number} of connection {conn} is not above the newest"
            self.dead.add("repeated_frame", detail, frame)
            return False
        note = _lost_note(conn, verdict)
        self.lost.values[self._venue,] += verdict.count
        _log.warning("frames lost", venue=self._venue, conn=conn, detail=note.detail)
        for product in self._all:
            self._note(product, ts_us, conn, note)
        return True

    def _malformed(self, ts_us: int, conn: str, frame: bytes, detail: str) -> None:
        """Keep what is no JSON; the product it names is told, for its book may have changed."""
        found = _product_in(frame)
        product = found.group(1).decode() if found else META_PRODUCT
        self.dead.add("malformed", detail, frame, product)
        if product in self._outboxes:
            self._note(product, ts_us, conn, BadFrame("malformed", detail))

    def rejected(self, ts_ingest_us: int, conn: str, reason: str, detail: str) -> None:
        """Keep the word of data that never became a frame."""
        self.dead.add(reason, detail, b"")
        del ts_ingest_us, conn

    def closed(self, ts_ingest_us: int, conn: str, reason: str) -> None:
        """Tell every product that the connection ended."""
        _log.warning("feed disconnected", venue=self._venue, conn=conn, reason=reason)
        for product in self._outboxes:
            if self._numbers[conn][product]:
                self._note(product, ts_ingest_us, conn, LineDown(reason))
        self._ended += self._numbers.pop(conn)
        del self._counters[conn]

    def _note(self, product: str, ts_us: int, conn: str, note: LineDown | BadFrame) -> None:
        numbers = self._numbers[conn]
        numbers[product] += 1
        self._outboxes[product].put(note_line(ts_us, conn, numbers[product], note))

    async def room(self) -> None:
        """Wait until the log has taken what waits."""
        await self._budget.room()

    async def flush(self) -> None:
        """Wait until everything is stored."""
        for outbox in self._outboxes.values():
            await outbox.flush()
        await self.dead.flush()


def _lost_note(conn: str, lost: Lost) -> LostFrames:
    after, before = lost.after, lost.before
    if lost.count:
        detail = f"sequence_num {after + 1} to {before - 1} of connection {conn} never came"
    else:
        detail = f"sequence_num of connection {conn} began anew at {before} after {after}"
    return LostFrames("connection_gap", detail, after, before)


def _safe(product: str) -> str:
    try:
        return token(product)
    except SubjectError:
        return META_PRODUCT
