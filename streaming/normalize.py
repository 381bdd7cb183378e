"""The normalizer's shell: MD_RAW in, MD_TICKS out, around the pure core.

Owns positions. The output is the checkpoint: each message of MD_TICKS says how far MD_RAW has
been consumed, so a restart publishes nothing twice and misses nothing. MD_STATE only keeps the
re-read short. Every publish is fenced, so a second normalizer on a shard cannot do harm.
"""

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import structlog

from models.canonical import FEEDS
from models.checkpoint import Checkpoint, decode_checkpoint, encode_checkpoint
from models.decoding import UNREADABLE
from models.events import Decode, Invalid
from models.resync import ResyncRequest
from models.subjects import (
    META_PRODUCT,
    Streams,
    product_of,
    raw_subject,
    resync_subject,
    state_subject,
    ticks_subject,
)
from streaming.broker.log import Log, LogBehindError, LogMessage
from streaming.broker.outbox import POSITION_HEADER, Budget, Outbox
from streaming.core.hold import Hold
from streaming.core.normalizer import DEFAULT_HOLD, UNPROCESSABLE, ProductNormalizer
from streaming.core.outputs import Outputs
from streaming.deadletters import DeadLetters
from streaming.guard import UNDECODABLE, guarded
from streaming.metrics import Counts, Readings
from streaming.tracing import TRACEPARENT, Step, tracing
from streaming.unread import Unread

CHECKPOINT_EVERY_S = 10.0
"""A product that changes is saved this often; a deep book less often, in proportion."""

_LEVELS_PER_S = 2000
_RECENT_S = 5.0
"""So long the age of a record when it was normalized says how late the shard is."""

_BUDGET_BYTES = 64 * 1024**2
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Product:
    """A product's state machine and the positions around it."""

    name: str
    core: ProductNormalizer
    outbox: Outbox
    applied: int
    published: int
    saved_at: float


class Normalizer:
    """Serves one shard of one venue until it is cancelled.

    Attributes, to be set before `run`: feeds, of which messages are published, all by default;
    on_applied, called with the position in MD_RAW up to which everything has been applied.
    `unread` tells what waits, to whoever runs its `watch`.
    """

    def __init__(
        self,
        log: Log,
        streams: Streams,
        venue: str,
        shard: int,
        decode: Decode,
        tasks: asyncio.TaskGroup,
        *,
        hold: Hold = DEFAULT_HOLD,
        ticker_watermark: bool = True,
    ) -> None:
        """Prepare; `tasks` takes the outboxes, whose `FencedError` ends the whole group."""
        self._log, self._streams, self._venue, self._shard = log, streams, venue, shard
        self._decode, self._tasks = guarded(decode), tasks
        self._hold, self._ticker_watermark = hold, ticker_watermark
        self._budget = Budget(_BUDGET_BYTES)
        self._products: dict[str, _Product] = {}
        self._requests: set[asyncio.Task[int]] = set()
        self._tracing = tracing()
        self.feeds: frozenset[str] = frozenset(FEEDS)
        self.on_applied: Callable[[int], None] | None = None
        self.dead = DeadLetters(log, venue, tasks, streams.root)
        for reason in (UNDECODABLE, UNPROCESSABLE):
            self.dead.counts.expect(venue, reason)
        self.ticks = Counts("md_ticks_total", "Canonical ticks", ("product", "shard"))
        self.gaps = Counts("md_seq_gap_total", "Gaps opened", ("product",))
        self.lag = Readings(
            "md_ingest_lag_seconds",
            "Age of the oldest record that waits, or of the newest when it was normalized",
            ("shard",),
            self._lag,
        )
        self.stale = Readings(
            "md_product_stale",
            "1 while a feed of the product is not live",
            ("product",),
            self._stale,
        )
        self.unread = Unread(log, streams.raw, self._pattern("raw"))
        self._lagged = (0.0, 0.0)

    def _lag(self) -> dict[tuple[str, ...], float]:
        at_s, lag_s = self._lagged
        recent_s = lag_s if time.time() - at_s < _RECENT_S else 0.0
        return {(str(self._shard),): max(recent_s, self.unread.oldest_s())}

    def _stale(self) -> dict[tuple[str, ...], float]:
        return {
            (name,): float(any(state != "live" for state in product.core.states.values()))
            for name, product in list(self._products.items())
        }

    async def run(self) -> None:
        """Normalize for ever.

        Raises:
            FencedError: by way of the task group, when another normalizer serves this shard.
        """
        began_s = time.monotonic()
        after = await self._load()
        _log.info(
            "normalizing",
            shard=self._shard,
            products=len(self._products),
            after=after,
            duration_ms=round((time.monotonic() - began_s) * 1000),
        )
        self.unread.position = after
        if self.on_applied is not None:
            self.on_applied(after)
        reading = self._log.read(self._streams.raw, self._pattern("raw"), after=after)
        async with contextlib.aclosing(reading) as messages:
            async for message in messages:
                await self._take(message)
                self.unread.position = message.seq
                if self.on_applied is not None:
                    self.on_applied(message.seq)
                await self._budget.room()

    def _pattern(self, kind: str) -> str:
        return self._streams.of_shard(kind, self._shard, self._venue)

    async def _load(self) -> int:
        """Restore every product and return the position from which to read."""
        names: set[str] = set()
        # Raw subjects too: a product whose first output was never stored is in no other stream.
        for stream, kind in (
            (self._streams.raw, "raw"),
            (self._streams.ticks, "ticks"),
            (self._streams.state, "state"),
        ):
            subjects = await self._log.subjects(stream, self._pattern(kind))
            names.update(product_of(subject)[1] for subject in subjects)
        for name in sorted(names - {META_PRODUCT}):
            await self._restore(name)
        await self._check_end()
        return min((product.applied for product in self._products.values()), default=0)

    async def _check_end(self) -> None:
        """Refuse to go on from positions that MD_RAW does not have (any more).

        Raises:
            LogBehindError: what it gets next would be taken for what was normalized before.
        """
        streams, products = self._streams, self._products.values()
        reached = max((max(one.applied, one.published) for one in products), default=0)
        last = (await self._log.extent(streams.raw)).last
        if reached > last:
            made = f"what is in {streams.ticks} and {streams.state}"
            raise LogBehindError(streams.raw, last, made, reached)

    async def _restore(self, name: str) -> _Product:
        """Bring one product to its checkpoint and find out what has been published since."""
        subject = ticks_subject(self._shard, self._venue, name, self._streams.root)
        newest = await self._log.last(self._streams.ticks, subject)
        saved = await self._log.last(
            self._streams.state, state_subject(self._shard, self._venue, name, self._streams.root)
        )
        product = self._add(name, newest)
        if saved is None:
            return product
        try:
            checkpoint = decode_checkpoint(saved.payload, saved.headers)
            lines = [bytes(line) for line in checkpoint.messages]
            product.core.restore(lines, bytes(checkpoint.cursors))
        except (*UNREADABLE, ValueError) as error:
            # The log has everything; a checkpoint only saves time.
            _log.warning("ignoring an unreadable checkpoint", product=name, error=str(error))
            product.core = self._core(name)
            return product
        product.applied = checkpoint.raw_seq
        product.published = max(product.published, checkpoint.raw_seq)
        return product

    def _core(self, name: str) -> ProductNormalizer:
        return ProductNormalizer(
            self._venue, name, hold=self._hold, ticker_watermark=self._ticker_watermark
        )

    def _add(self, name: str, newest: LogMessage | None) -> _Product:
        published = int(newest.headers.get(POSITION_HEADER, 0)) if newest is not None else 0
        outbox = Outbox(
            self._log,
            ticks_subject(self._shard, self._venue, name, self._streams.root),
            self._tasks,
            self._budget,
            fenced_after=newest.seq if newest is not None else 0,
            position=published,
        )
        product = _Product(name, self._core(name), outbox, 0, published, time.monotonic())
        self._products[name] = product
        self.ticks.expect(name, str(self._shard))
        self.gaps.expect(name)
        return product

    async def _take(self, message: LogMessage) -> None:
        """Apply one message of MD_RAW and hand on what it gives."""
        name = message.subject.rpartition(".")[2]
        if name == META_PRODUCT:
            return
        # Of a replay a product may have a checkpoint before its first record.
        product = self._products.get(name) or await self._restore(name)
        if message.seq <= product.applied:
            return
        step = None if self._tracing is None else self._step(product, message)
        events = self._decode(message.payload, name)
        out = Outputs()
        apply = product.core.apply
        for event in events:
            apply(event, message.seq, out)
            if out.reread is not None:
                await self._reread(product, out, before=message.seq)
        product.applied = message.seq
        if len(self.feeds) < len(FEEDS):
            out.keep(self.feeds)
        self._publish(product, message, out, step)
        if events:
            now_s = time.time()
            self._lagged = now_s, max(0.0, now_s - events[-1].ts_ingest / 1e6)
        await self._maybe_save(product)

    def _step(self, product: _Product, message: LogMessage) -> Step | None:
        """Go on with the trace of a message, unless an earlier run has done so."""
        parent = message.headers.get(TRACEPARENT)
        if self._tracing is None or parent is None or message.seq <= product.published:
            return None
        return self._tracing.begin(
            "normalize", parent, venue=self._venue, product=product.name, shard=self._shard
        )

    async def _reread(self, product: _Product, out: Outputs, *, before: int) -> None:
        """Read again what a closed gate had let go, up to the marker that opens it."""
        subject = raw_subject(self._shard, self._venue, product.name, self._streams.root)
        after = (out.reread or 1) - 1
        _log.info("reading the log again", product=product.name, after=after, before=before)
        reading = self._log.read(self._streams.raw, subject, after=after)
        async with contextlib.aclosing(reading) as messages:
            async for message in messages:
                if message.seq >= before:
                    break
                product.core.refill(self._decode(message.payload, product.name), out)
        product.core.refilled(out)

    def _publish(
        self, product: _Product, message: LogMessage, out: Outputs, step: Step | None
    ) -> None:
        """Hand outputs on, except those that an earlier run has published."""
        if out.lines and message.seq > product.published:
            product.outbox.put("\n".join(out.lines).encode(), message.seq)
            if step is not None:
                product.outbox.follow(step)
            self.ticks.values[product.name, str(self._shard)] += out.ticks
            self.gaps.values[product.name,] += out.gaps
        elif step is not None:
            step.end(lines=0)
        # Repeats of these two are recognized by their names, and a crash must not lose them.
        for request in out.requests:
            self._request(request, {} if step is None else step.ids)
        if out.invalid:
            self._bury(product.name, out.invalid, message)

    def _request(self, request: ResyncRequest, trace: Mapping[str, str]) -> None:
        subject = resync_subject(request.venue, request.product, self._streams.root)
        task = self._tasks.create_task(
            self._log.publish(subject, msgspec.json.encode(request), message_id=request.resync_id)
        )
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)
        _log.warning(
            "gap",
            product=request.product,
            feed=request.feed,
            reason=request.reason,
            after=request.after,
            before=request.before,
            resync_id=request.resync_id,
            **trace,
        )

    def _bury(self, product: str, invalid: Sequence[Invalid], message: LogMessage) -> None:
        """Keep the lines that gave invalid events: they are decoded once more, not once for each.

        A record on which the state machine failed names its line by connection and number.
        """
        left: dict[tuple[object, ...], list[Invalid]] = defaultdict(list)
        for one in invalid:
            left[_key(one)].append(one)
        for number, line in enumerate(message.payload.split(b"\n")):
            if not left:
                return
            for event in self._decode(line, product):
                failed = event.ts_ingest, event.conn, event.n, UNPROCESSABLE
                for key in (_key(event) if isinstance(event, Invalid) else failed, failed):
                    if same := left.get(key):
                        one = same.pop()
                        if not same:
                            del left[key]
                        detail = f"{one.detail}; MD_RAW {message.seq}, line {number + 1}"
                        name = f"{message.seq}-{number}"
                        self.dead.add(one.reason, detail, line, product, name=name)
                        break

    async def _maybe_save(self, product: _Product) -> None:
        age_s = time.monotonic() - product.saved_at
        if age_s > CHECKPOINT_EVERY_S + product.core.levels / _LEVELS_PER_S:
            await self.save(product.name)

    async def save(self, name: str) -> None:
        """Store a checkpoint of one product, unless it has to wait."""
        product = self._products[name]
        if product.core.holding or product.applied < product.published:
            return
        lines, cursors = product.core.checkpoint()
        await product.outbox.flush()
        if self._requests:
            await asyncio.wait(self._requests)
        checkpoint = Checkpoint(
            self._venue,
            name,
            product.applied,
            product.outbox.last,
            [msgspec.Raw(line.encode()) for line in lines],
            msgspec.Raw(cursors),
        )
        payload, headers = encode_checkpoint(checkpoint)
        await self._log.publish(
            state_subject(self._shard, self._venue, name, self._streams.root),
            payload,
            headers=headers,
        )
        product.saved_at = time.monotonic()

    async def flush(self) -> None:
        """Wait until everything that has been applied so far is stored."""
        for product in self._products.values():
            await product.outbox.flush()

    async def stop(self) -> None:
        """Store what is on its way and a checkpoint of every product."""
        for name in self._products:
            await self.save(name)
        await self.dead.flush()


def _key(invalid: Invalid) -> tuple[object, ...]:
    place = invalid.ts_ingest, invalid.conn, invalid.n, invalid.reason
    return place if invalid.reason == UNPROCESSABLE else (*place, invalid.detail)
