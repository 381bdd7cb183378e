"""The resume ladder: what follows `from_seq`, from memory, from the log, or not at all.

Rungs in order: the ring, then whatever `open` was given (`backlog`, `lake`). Whichever
has the number is read on from there, down to the ring and to what is live. Every link of the way
is checked, and a feed goes live in the same step that sends the last of its past, so that nothing
is missed or comes twice.
"""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Protocol

from gateway.audience import Audience
from gateway.frames import json_frame, line_frame, line_of
from gateway.group import Backfill, Client, Key, Opening
from gateway.product import FEED_BITS, FEED_OF_BIT, Batch, Product
from gateway.protocol import Refusal, Resumed, Source
from gateway.ring import Ring
from models.canonical import Feed
from streaming.core.resume import ResumeMerge, UnrecoverableError

TURN_BYTES = 256 * 1024
"""So much of the ring is sent to one client before the event loop gets its turn."""

MAX_RESUMING = 1000
"""Clients that may wait for their past at the same time; beyond that the answer is `busy`."""

AHEAD_S = 2.0
"""Whoever is ahead of this gateway is kept waiting for so long until it has caught up."""

_MAX_SHARED = 4
_MINUTE_US = 60_000_000


class Rung(Protocol):
    """A place that has the past of products. Positions are the log's."""

    source: Source

    async def end(self) -> int:
        """Return the position of the newest message of all."""

    async def locate(self, product: Product, bit: int, seq: int, upto: int) -> tuple[int, bool]:
        """Return a position to read after, and whether the feed's oldest message links to `seq`.

        If it does not, the first message of the feed above the position is not beyond `seq`. Only
        positions up to `upto` matter.

        Raises:
            UnrecoverableError: `too_old`: the feed's first message is beyond `seq` already.
        """

    async def page(self, product: Product, bit: int, after: int) -> list[Batch]:
        """Return the next messages of a feed above a position, in order; none at the end.

        Other feeds' may be among them. The last one, which may be empty, says how far it reaches.

        Raises:
            UnrecoverableError: `too_old`: it does not reach back so far any more.
        """


@dataclass(frozen=True, slots=True)
class Chunk:
    """Frames that follow a number. `last`: after these the feed is live."""

    frames: list[bytes]
    last: bool
    source: Source


@dataclass(frozen=True, slots=True)
class Page:
    """Canonical lines that follow a number, verbatim and in order, all links checked.

    `complete`: there are no more at this moment. Not `recovered`: no lines, and the `reason`.
    """

    lines: list[bytes]
    complete: bool
    recovered: bool
    source: Source | None
    reason: Refusal | None


class Ladder:
    """Resumes feeds for clients and for REST."""

    def __init__(
        self,
        ring: Ring,
        audience: Audience,
        *,
        max_minutes: int,
        step_bytes: int,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        """Begin with the ring alone.

        `max_minutes`: what follows may be so old; `step_bytes`: what is sent in one write.
        """
        self._ring = ring
        self._audience = audience
        self._max_us = max_minutes * _MINUTE_US
        self._step_bytes = step_bytes
        self._now_us = now_us
        self._rungs: tuple[Rung, ...] = ()
        self._tasks: asyncio.TaskGroup | None = None
        self._resuming = 0
        self._shared: dict[tuple[Key, int], bytes] = {}
        self._shared_upto = 0
        self._grown = asyncio.Event()

    def open(self, tasks: asyncio.TaskGroup, rungs: Sequence[Rung]) -> None:
        """Add the rungs beyond the ring, the nearest first; `tasks` takes the work."""
        self._tasks = tasks
        self._rungs = tuple(rungs)

    def resume(self, client: Client, key: Key, from_seq: int) -> bytes | Opening | None:
        """Return the answer and what follows a number, or a snapshot's opening that says why not.

        None if that has to wait: then put it into the client's `backfills`, and `start`.
        """
        try:
            if not client.sink.paused and not (self._rungs and self._is_ahead(key, from_seq)):
                frames = self._at_once(key, from_seq)
                if frames is not None:
                    return resumed(key, from_seq, source="ring") + frames
        except UnrecoverableError as error:
            return refused(key, from_seq, error.reason)
        if self._tasks is None:
            return refused(key, from_seq, "too_old")
        busy = client.backfilling is None and self._resuming >= MAX_RESUMING
        return refused(key, from_seq, "busy") if busy else None

    def grow(self) -> None:
        """Note that the ring has a new message."""
        self._grown.set()

    def start(self, client: Client) -> None:
        """Begin with a client's backfills, one after the other."""
        if client.backfills and client.backfilling is None and self._tasks is not None:
            client.backfilling = self._tasks.create_task(self._serve(client), name="backfill")

    async def page(self, product: Product, feed: Feed, from_seq: int, limit: int) -> Page:
        """Return up to `limit` canonical lines that follow a number."""
        lines: list[bytes] = []
        try:
            async with aclosing(self._follow((product, FEED_BITS[feed]), from_seq)) as chunks:
                async for chunk in chunks:
                    lines += map(line_of, chunk.frames[: limit - len(lines) + 1])
                    if chunk.last or len(lines) > limit:
                        complete = chunk.last and len(lines) <= limit
                        return Page(lines[:limit], complete, True, chunk.source, None)
        except UnrecoverableError as error:
            return Page([], False, False, None, error.reason)
        raise AssertionError("the past of a feed ends with a last chunk")

    def _at_once(self, key: Key, from_seq: int) -> bytes | None:
        """Return what follows if the ring has it all, and it is not too much for one write.

        Raises:
            UnrecoverableError: it cannot be recovered from anywhere.
        """
        if self._shared_upto != self._ring.upto:
            self._shared_upto = self._ring.upto
            self._shared.clear()
        frames = self._shared.get((key, from_seq))
        if frames is None:
            horizon_us = self._check(key, from_seq)
            batches = self._remembered(key, from_seq)
            if batches is None:
                # Its message is gone, but nothing has come after it.
                unchanged = self._unchanged(key, from_seq)
                return None if unchanged is None else b"".join(unchanged)
            merge = ResumeMerge(from_seq)
            found, taken = _merge(merge, key[1], batches, horizon_us, self._step_bytes)
            if taken < len(batches):
                return None
            frames = b"".join(found)
            if len(self._shared) == _MAX_SHARED:
                self._shared.clear()
            self._shared[key, from_seq] = frames
        return frames

    def _check(self, key: Key, from_seq: int) -> int:
        """Refuse a number that cannot be resumed from; return how old what follows may be.

        Raises:
            UnrecoverableError: `unknown_seq`.
        """
        product, bit = key
        state = product.feeds[bit]
        horizon_us = self._now_us() - self._max_us
        if self._is_ahead(key, from_seq):
            raise UnrecoverableError("unknown_seq")
        restart = state.restart
        if (
            restart is not None
            and restart.time_us >= horizon_us
            and restart.first <= from_seq <= min(restart.last, state.seq)
        ):
            raise UnrecoverableError("unknown_seq")
        # Where nothing but statuses can follow, nothing of the market was missed, however long ago.
        return 0 if from_seq == state.seq else horizon_us

    def _is_ahead(self, key: Key, from_seq: int) -> bool:
        """Tell whether a number is beyond the newest one."""
        product, bit = key
        state = product.feeds[bit]
        return from_seq > state.seq and state.restart is None

    async def _catch_up(self, key: Key, from_seq: int) -> None:
        """Wait until the ring has what the log has by now, or the number at least.

        A client may come from a gateway that reads the log a little faster than this one.
        """
        end = await self._rungs[0].end()
        with suppress(TimeoutError):
            async with asyncio.timeout(AHEAD_S):
                while self._ring.upto < end and self._is_ahead(key, from_seq):
                    self._grown.clear()
                    await self._grown.wait()

    def _remembered(self, key: Key, from_seq: int) -> list[Batch] | None:
        """Return the ring's messages from a number on; none if it is older than the ring.

        Raises:
            UnrecoverableError: `unknown_seq`: it is not, and no message has it.
        """
        product, bit = key
        batches = self._ring.back_to(product, bit, from_seq)
        if batches is None and product.feeds[bit].restart is None:
            oldest = self._ring.oldest(product, bit)
            if oldest is not None and oldest < from_seq:
                raise UnrecoverableError("unknown_seq")
        return batches

    def _unchanged(self, key: Key, from_seq: int) -> list[bytes] | None:
        """Return the newest status, if the feed has come no further; else none."""
        product, bit = key
        state = product.feeds[bit]
        if from_seq != state.seq:
            return None
        line = state.status_line
        return [] if line is None else [line_frame("status", line)]

    async def _serve(self, client: Client) -> None:
        """Resume a client's feeds until none is left."""
        self._resuming += 1
        try:
            while client.backfills:
                key, backfill = next(iter(client.backfills.items()))
                await self._backfill(client, key, backfill)
        finally:
            self._resuming -= 1
            client.backfilling = None

    async def _backfill(self, client: Client, key: Key, backfill: Backfill) -> None:
        """Resume one feed, at the pace at which its client reads."""
        from_seq = backfill.from_seq
        answer = True
        try:
            await client.sink.room.wait()
            async with aclosing(self._follow(key, from_seq)) as chunks:
                async for chunk in chunks:
                    if client.backfills.get(key) is not backfill:
                        return
                    frames = b"".join(chunk.frames)
                    if answer:
                        frames = resumed(key, from_seq, source=chunk.source) + frames
                        answer = False
                    if chunk.last:
                        self._audience.go_live(client, key, frames)
                        return
                    client.sink.write(frames)
                    client.sink.allow_waiting()
                    await client.sink.room.wait()
        except UnrecoverableError as error:
            if client.backfills.get(key) is backfill:
                self._audience.give_up(client, key, refused(key, from_seq, error.reason))

    async def _follow(self, key: Key, from_seq: int) -> AsyncGenerator[Chunk, None]:
        """Yield what follows a number; the last chunk is the last one at the moment it comes.

        Raises:
            UnrecoverableError: it cannot be recovered, or no more of it.
        """
        product, bit = key
        if self._rungs and self._is_ahead(key, from_seq):
            await self._catch_up(key, from_seq)
        horizon_us = self._check(key, from_seq)
        unchanged = self._unchanged(key, from_seq)
        if unchanged is not None and self._remembered(key, from_seq) is None:
            yield Chunk(unchanged, True, "ring")
            return
        rung, position, linked = await self._locate(key, from_seq)
        merge = ResumeMerge(from_seq, linked=linked)
        source = "ring" if rung is None else self._rungs[rung].source
        last = False
        while not last:
            frames: list[bytes] = []
            if position < self._ring.after:
                rung, batches = await self._page(rung or 0, key, position)
                # What the ring has not got yet will come live.
                known = [batch for batch in batches if batch.position <= self._ring.upto]
                frames, _ = _merge(merge, bit, known, horizon_us)
                if merge.overtaken:
                    merge.finish()
                if not batches:
                    position = self._ring.after
                else:
                    cut = len(known) < len(batches)
                    position = self._ring.upto if cut else batches[-1].position
            if position >= self._ring.after:
                batches = self._ring.since(product, position)
                room = TURN_BYTES - sum(map(len, frames))
                newest, taken = _merge(merge, bit, batches, horizon_us, room)
                frames += newest
                position = batches[taken - 1].position if taken else position
                last = taken == len(batches)
            if last:
                merge.finish()
            if last or frames:
                yield Chunk(frames, last, source)
                await asyncio.sleep(0)

    async def _locate(self, key: Key, from_seq: int) -> tuple[int | None, int, bool]:
        """Return the rung that has a number, none for the ring, and what its `locate` said.

        Raises:
            UnrecoverableError: `too_old`: none has it.
        """
        product, bit = key
        batches = self._remembered(key, from_seq)
        if batches is not None:
            return None, batches[0].position - 1, False
        for number, rung in enumerate(self._rungs):
            with suppress(UnrecoverableError):
                return number, *await rung.locate(product, bit, from_seq, self._ring.upto)
        raise UnrecoverableError("too_old")

    async def _page(self, rung: int, key: Key, position: int) -> tuple[int, list[Batch]]:
        """Return the next messages from a rung, or from the next nearer one if it has no more.

        Raises:
            UnrecoverableError: `too_old`: they are not kept any more.
        """
        if not self._rungs:
            raise UnrecoverableError("too_old")
        batches = await self._rungs[rung].page(*key, position)
        while not batches and rung:
            rung -= 1
            batches = await self._rungs[rung].page(*key, position)
        return rung, batches


def resumed(
    key: Key, from_seq: int, *, source: Source | None = None, reason: Refusal | None = None
) -> bytes:
    """Return the frame that answers one entry of `from_seq`: where from, or why not."""
    product, bit = key
    answer = Resumed(
        venue=product.venue,
        product=product.name,
        feed=FEED_OF_BIT[bit],
        from_seq=from_seq,
        recovered=reason is None,
        source=source,
        reason=reason,
    )
    return json_frame(answer.model_dump())


def refused(key: Key, from_seq: int, reason: Refusal) -> Opening:
    """Return the opening of a feed that cannot be resumed: the answer, then a snapshot."""
    return Opening("subscribe", resumed(key, from_seq, reason=reason))


def _merge(
    merge: ResumeMerge,
    bit: int,
    batches: Sequence[Batch],
    horizon_us: int,
    room: float = math.inf,
) -> tuple[list[bytes], int]:
    """Give messages to a merge while there is room for one's frames, and for one at least.

    Returns the frames that follow, and how many messages have been taken.

    Raises:
        UnrecoverableError: they do not fit, or `too_old`: what follows is older than allowed.
    """
    frames: list[bytes] = []
    for taken, batch in enumerate(batches):
        if room <= 0 and frames:
            return frames, taken
        if batch.mask & bit:
            heads, found = batch.only(bit)
            start = merge.take(heads)
            if start < len(heads):
                if batch.time_us < horizon_us:
                    raise UnrecoverableError("too_old")
                frames += found[start:]
                room -= sum(map(len, found[start:]))
    return frames, len(batches)
