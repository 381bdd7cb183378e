"""Follows MD_TICKS for the hub: one ordered reader per gateway, never one per client.

Messages that arrive together go out together, at the end of the event loop's turn; a backlog is
cut into turns so that the gateway stays responsive.
"""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing, suppress

from gateway.backlog import Backlog
from gateway.hub import Hub
from gateway.ladder import Rung
from gateway.readiness import Readiness
from gateway.warmup import OpenRows, Start, warm_up
from models.subjects import Streams, product_of
from streaming.broker.log import Log, LogMessage

MAX_TURN_BYTES = 256 * 1024
"""So much is read before the event loop gets its turn."""

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
) -> None:
    """Warm up, with latest-state rows where the log has too little; then feed the hub for ever.

    `farther`: rungs of the resume ladder beyond the log.

    Raises:
        LogRemadeError: MD_TICKS is another stream than at the beginning.
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
        await _read(log, hub, streams, start, readiness)


async def _read(log: Log, hub: Hub, streams: Streams, start: Start, readiness: Readiness) -> None:
    """Take each message once; what a checkpoint holds already only goes into the ring."""
    turn_bytes = 0
    horizon = max(start.applied.values(), default=0)
    async with aclosing(
        log.read(streams.ticks, streams.every("ticks"), after=start.after)
    ) as messages:
        async for message in messages:
            if message.seq > horizon or not _held(start, message):
                hub.apply(message)
            else:
                hub.recall(message)
            start.position = message.seq
            if message.seq >= start.end and not readiness.warm.is_set():
                readiness.warm.set()
            turn_bytes += len(message.payload)
            if turn_bytes > MAX_TURN_BYTES:
                turn_bytes = 0
                hub.flush()
                await asyncio.sleep(0)


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
