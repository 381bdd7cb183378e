"""Ingest: venue frames into MD_RAW, verbatim, one line each, per product in order.

A sink for a venue's feed client. Knows of a frame only its product and type; what the frame
means is the normalizer's business. When the log is away the venue's socket is not read, so
nothing is dropped here silently.
"""

import asyncio
import re
from collections import Counter
from collections.abc import Iterable

import msgspec
import structlog

from models.records import BadFrame, LineDown, frame_line, note_line
from models.subjects import META_PRODUCT, SubjectError, raw_subject, shard_of, token
from streaming.broker.log import Log
from streaming.broker.outbox import Budget, Outbox
from streaming.deadletters import DeadLetters
from streaming.metrics import Counts

MAX_WAITING_BYTES = 64 * 1024**2
"""Frames that may wait for the log; beyond it the venue's socket is not read."""


class _Head(msgspec.Struct):
    """What routing needs of a frame."""

    type: str = ""
    product_id: str = META_PRODUCT


_decode_head = msgspec.json.Decoder(_Head).decode
_product_in = re.compile(rb'"product_id"\s*:\s*"([A-Za-z0-9_-]{1,64})"').search
_log = structlog.get_logger(__name__)


class Ingest:
    """Stores what one venue's connections bring; see `models.feed.FrameSink`."""

    def __init__(
        self,
        log: Log,
        venue: str,
        products: Iterable[str],
        shard_count: int,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._log = log
        self._venue = venue
        self._tasks = tasks
        self._shard_count = shard_count
        self._budget = Budget(MAX_WAITING_BYTES)
        self._outboxes: dict[str, Outbox] = {}
        self._numbers: dict[str, Counter[str]] = {}
        self.dead = DeadLetters(log, venue, tasks)
        self.counts = Counts(
            "md_ingest_messages_total", "Frames stored in MD_RAW", ("venue", "channel")
        )
        for product in (*products, META_PRODUCT):
            self._outboxes[product] = self._outbox(product)

    def _outbox(self, product: str) -> Outbox:
        shard = shard_of(self._venue, product, self._shard_count)
        subject = raw_subject(shard, self._venue, product)
        return Outbox(self._log, subject, self._tasks, self._budget)

    def opened(self, conn: str) -> None:
        """Begin to count the records of a connection."""
        self._numbers[conn] = Counter()
        _log.info("feed connected", venue=self._venue, conn=conn)

    def frame(self, ts_ingest_us: int, conn: str, frame: bytes) -> None:
        """Store one frame, or keep it as a dead letter with the reason."""
        try:
            head = _decode_head(frame)
            frame.isascii() or frame.decode()
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._malformed(ts_ingest_us, conn, frame, str(error))
            return
        product = head.product_id
        outbox = self._outboxes.get(product)
        if outbox is None:
            self.dead.add(
                "unexpected_product", f"nobody asked for {product!r}", frame, _safe(product)
            )
            return
        if b"\n" in frame or b"\r" in frame:
            # Between JSON's tokens only, where a space means the same; inside text it is illegal.
            frame = frame.replace(b"\n", b" ").replace(b"\r", b" ")
        numbers = self._numbers[conn]
        number = numbers[product] = numbers[product] + 1
        outbox.put(frame_line(ts_ingest_us, conn, number, frame))
        self.counts.values[self._venue, head.type] += 1

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
        del self._numbers[conn]

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


def _safe(product: str) -> str:
    try:
        return token(product)
    except SubjectError:
        return META_PRODUCT
