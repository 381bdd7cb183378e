"""Warm-up: the latest state of every product from its checkpoint, and where to read on.

Reads MD_STATE and looks at MD_TICKS; `reader` then follows MD_TICKS from the position found, so
that nothing can be missed or doubled between the two. That position is further back than the
checkpoints need, to fill the ring: after a rolling restart everybody resumes at once.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

import structlog

from gateway.hub import Hub
from models.checkpoint import decode_checkpoint
from models.decoding import UNREADABLE
from models.subjects import Streams, product_of
from storage.errors import StorageError
from storage.latest import LatestRow, LatestStore, is_whole
from streaming.broker.log import Log

OpenRows = Callable[[], AbstractAsyncContextManager[LatestStore]]
"""Opens the latest-state store."""

ROWS_WITHIN_S = 5.0
"""Rows are asked for so long; a gateway without them still has the log."""

_NEAR = 1000
_log = structlog.get_logger(__name__)


@dataclass
class Start:
    """Where to read on.

    `after`: position in MD_TICKS to read after; `end`: of the newest message at this time;
    `position`: of the newest message read since;
    `applied`: position by (venue, product) up to which messages are part of the state already.
    """

    after: int = 0
    end: int = 0
    position: int = 0
    applied: dict[tuple[str, str], int] = field(default_factory=dict)


async def warm_up(log: Log, hub: Hub, streams: Streams, rows: OpenRows | None = None) -> Start:
    """Load every checkpoint into the hub, rows where those fall short; say where to read on."""
    start = Start()
    for subject in await log.subjects(streams.state, streams.every("state")):
        await _load(log, hub, streams, subject, start)
    # Subjects after checkpoints: one that appears in between is beyond all that is applied.
    subjects = await log.subjects(streams.ticks, streams.every("ticks"))
    if rows is not None:
        await _load_rows(log, hub, streams, rows, start, subjects)
    reached = [start.applied.get(product_of(subject), 0) for subject in subjects]
    wanted = min(min(reached, default=0), await _ring_start(log, hub, streams))
    # The ring must not seem to hold what the log has dropped: that is in the lake, if anywhere.
    start.after = max(wanted, (await log.extent(streams.ticks)).first - 1)
    for subject in subjects:
        newest = await log.last(streams.ticks, subject)
        # Not the stream's own end: its newest messages may have expired, and never come.
        start.end = max(start.end, newest.seq if newest else 0)
    _log.info("warming up", checkpoints=len(start.applied), after=start.after, end=start.end)
    return start


async def _ring_start(log: Log, hub: Hub, streams: Streams) -> int:
    """Return the position after which about as much follows as the ring holds and may be old."""
    extent = await log.extent(streams.ticks)
    share = min(1.0, hub.limits.ring_bytes / max(1, extent.size_bytes))
    low = max(0, extent.last - round(share * (extent.last - extent.first + 1)))
    high = extent.last
    horizon_us = time.time_ns() // 1000 - hub.limits.backfill_minutes * 60_000_000

    async def too_old(after: int) -> bool:
        found = await log.fetch(
            streams.ticks, streams.every("ticks"), after=after, limit=1, max_bytes=1
        )
        return bool(found) and found[0].time_us < horizon_us

    if await too_old(low):
        while high - low > _NEAR:
            middle = (low + high) // 2
            low, high = (middle, high) if await too_old(middle) else (low, middle)
    return low


async def _load(log: Log, hub: Hub, streams: Streams, subject: str, start: Start) -> None:
    """Apply one product's checkpoint, unless a newer one (of another sharding) has been."""
    message = await log.last(streams.state, subject)
    if message is None:
        return
    product = product_of(subject)
    try:
        checkpoint = decode_checkpoint(message.payload, message.headers)
        # What a replay begins from is at position 0: before all that it says.
        if checkpoint.ticks_seq <= start.applied.get(product, -1):
            return
        hub.restore(*product, [bytes(line) for line in checkpoint.messages])
    except UNREADABLE as error:
        _log.warning("reading the log instead of a checkpoint", subject=subject, error=str(error))
        return
    start.applied[product] = checkpoint.ticks_seq


async def _load_rows(
    log: Log, hub: Hub, streams: Streams, rows: OpenRows, start: Start, subjects: Sequence[str]
) -> None:
    """Take the rows of products whose checkpoint, if any, is older than the log's beginning.

    Checkpoint and log tell the rest by themselves. A row whose book may go on below what it keeps
    is left alone: nobody could tell when its lower levels would be needed.
    """
    extent = await log.extent(streams.ticks)
    lacking = {
        product
        for subject in subjects
        if start.applied.get(product := product_of(subject), 0) + 1 < extent.first
    }
    if not lacking:
        return
    try:
        async with asyncio.timeout(ROWS_WITHIN_S), rows() as store:
            for product in sorted(lacking):
                row = await store.get(*product)
                if row is not None and row.epoch == extent.created_us:
                    _load_row(hub, row, start)
    except (StorageError, TimeoutError) as error:
        _log.warning("warming up without latest-state rows", error=str(error) or "no answer")


def _load_row(hub: Hub, row: LatestRow, start: Start) -> None:
    product = row.venue, row.product
    try:
        if row.position > start.applied.get(product, 0) and is_whole(row):
            hub.restore(*product, [line.encode() for line in row.lines])
            start.applied[product] = row.position
    except UNREADABLE as error:
        _log.warning("reading the log instead of a row", row=row.key, error=str(error))
