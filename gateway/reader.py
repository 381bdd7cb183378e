"""Follows MD_TICKS for the hub: one ordered reader per gateway, never one per client.

Messages that arrive together go out together, at the end of the event loop's turn; a backlog is
cut into turns so that the gateway stays responsive.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from functools import partial

from gateway.backlog import Backlog
from gateway.hub import Hub
from gateway.ladder import Rung
from gateway.readiness import Readiness
from gateway.warmup import OpenRows, Start, warm_up
from models.subjects import Streams, product_of
from streaming.broker.log import Log, LogMessage
from streaming.tracing import TRACEPARENT, Tracing, tracing

MAX_TURN_BYTES = 256 * 1024
"""So much is read before the event loop gets its turn, unless it is said otherwise."""

QUIET_S = 1.0
"""A reader that gets nothing for so long has reached the end, whatever the end was said to be."""


async def follow(
    log: Log,
    hub: Hub,
    streams: Streams,
    readiness: Readiness,
    *,
    rows: OpenRows | None = None,
    farther: Sequence[Rung] = (),
    lasting: bool = True,
    turn_bytes: int = MAX_TURN_BYTES,
) -> None:
    """Warm up, with latest-state rows where the log has too little; then feed the hub for ever.

    `farther`: rungs of the resume ladder beyond the log; `lasting`: a stream that is deleted is
    waited for; `turn_bytes`: so much is read before the event loop gets its turn.

    Raises:
        LogRemadeError: MD_TICKS is another stream than at the beginning.
        StreamMissingError: a stream is not there; later on only if not `lasting`.
    """
    hub.epoch = f"{(await log.extent(streams.ticks)).created_us * 1000:x}"
    start = await warm_up(log, hub, streams, rows)
    hub.ring.start(start.after)
    async with asyncio.TaskGroup() as tasks:
        hub.ladder.open(tasks, [Backlog(log, streams), *farther])
        if start.end <= start.after:
            readiness.warm.set()
        else:
            tasks.create_task(_until_quiet(start, readiness), name="warm-up")
        every = streams.every("ticks")
        reading = log.read(streams.ticks, every, after=start.after, lasting=lasting)
        await _read(reading, hub, start, readiness, turn_bytes)


async def _read(
    reading: AsyncGenerator[LogMessage, None],
    hub: Hub,
    start: Start,
    readiness: Readiness,
    max_bytes: int,
) -> None:
    """Take each message once; what a checkpoint holds already only goes into the ring."""
    turn_bytes = 0
    horizon = max(start.applied.values(), default=0)
    traced, is_warm = tracing(), readiness.warm.is_set
    async with aclosing(reading) as messages:
        async for message in messages:
            if start.position == 0:
                # The log may have dropped some since the warm-up, which the ring then has not.
                hub.ring.start(message.seq - 1)
            if message.seq > horizon or not _held(start, message):
                if traced is not None and TRACEPARENT in message.headers and is_warm():
                    _deliver(traced, hub, message)
                else:
                    hub.apply(message)
            else:
                hub.recall(message)
            start.position = message.seq
            if message.seq >= start.end and not readiness.warm.is_set():
                readiness.warm.set()
            turn_bytes += len(message.payload)
            if turn_bytes > max_bytes:
                turn_bytes = 0
                hub.flush()
                await asyncio.sleep(0)


def _deliver(tracing: Tracing, hub: Hub, message: LogMessage) -> None:
    """Take a message as one step of its trace, which ends when all sockets have its frames."""
    product = hub.products.of_subject(message.subject)
    step = tracing.begin(
        "deliver",
        message.headers[TRACEPARENT],
        venue=product.venue,
        product=product.name,
        shard=int(message.subject.split(".")[2]),
        subscribers=product.subscribers,
    )
    hub.apply(message)
    # What is due to somebody now goes out at the end of this turn, before what is called then.
    hub.loop.call_soon(partial(step.end, position=message.seq))


def _held(start: Start, message: LogMessage) -> bool:
    """Tell whether a message is part of a checkpoint that has been loaded."""
    return message.seq <= start.applied.get(product_of(message.subject), 0)


async def _until_quiet(start: Start, readiness: Readiness) -> None:
    """Count the state as complete when the log has nothing more to say.

    The end known at the start may never come: it may expire, or be part of a record that its
    writer did not live to finish.
    """
    seen = -1
    while not readiness.warm.is_set():
        if seen == start.position and readiness.connected():
            readiness.warm.set()
            return
        seen = start.position
        with suppress(TimeoutError):
            async with asyncio.timeout(QUIET_S):
                await readiness.warm.wait()
