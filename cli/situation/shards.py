"""Shards of MD_RAW: who normalizes each, and since when what came waits for it.

A normalizer tells how far it is by what it stores: each message of MD_TICKS, and each checkpoint,
names a position in MD_RAW. What gives no output, such as heartbeats, shows with the next
checkpoint only; so a reader that is there gets some time before it is said to stand still.
"""

import asyncio
from collections.abc import Iterable

import msgspec

from models.checkpoint import decode_checkpoint
from models.decoding import UNREADABLE
from models.settings import Settings
from models.subjects import META_PRODUCT, product_of
from streaming.broker.inspection import Inspector
from streaming.broker.log import LogMessage
from streaming.broker.outbox import POSITION_HEADER
from streaming.normalize import CHECKPOINT_EVERY_S

ON_ITS_WAY_US = 2_000_000
"""What is younger may be on its way."""

STANDS_STILL_US = round(2 * CHECKPOINT_EVERY_S * 1_000_000)
"""Records of so long a time, of which nothing was stored, have not been normalized."""

_LOOKED_AT = 256
_MAX_BYTES = 1024**2


class ShardRow(msgspec.Struct):
    """One shard. `readers`: what those who normalize it call themselves.

    `waits_since_us`: when the oldest record came that is not normalized and should be, or none.
    """

    shard: int
    readers: list[str]
    waits_since_us: int | None = None

    def trouble(self, now_us: int) -> str:
        """Return what is wrong in a sentence, or nothing."""
        if not self.readers:
            return (
                f"nobody normalizes shard {self.shard}: start a normalizer with SHARD_INDEX="
                f"{self.shard} (`make run-normalizer`)"
            )
        if self.waits_since_us is None:
            return ""
        who, age_s = ", ".join(self.readers), (now_us - self.waits_since_us) / 1e6
        return (
            f"{who} has not normalized what came into shard {self.shard} {age_s:.0f} s ago: it "
            "hangs, or is too slow; see its log, and docs/runbooks/ingest-lag.md"
        )


async def shards(inspector: Inspector, settings: Settings, asked_us: int) -> list[ShardRow]:
    """Return the shards of these settings.

    Raises:
        LogError: the log does not answer.
    """
    consumers = await inspector.consumers(settings.streams.raw)
    readers: dict[str, list[str]] = {}
    for one in consumers:
        readers.setdefault(one.subjects, []).append(one.reader or "a normalizer")

    async def row(shard: int) -> ShardRow:
        subjects = settings.streams.of_shard("raw", shard, settings.ingest_venue)
        found = ShardRow(shard, sorted(readers.get(subjects, [])))
        position = await _position(inspector, settings, shard)
        patience_us = STANDS_STILL_US if found.readers else 0
        found.waits_since_us = await _waits_since_us(
            inspector, settings.streams.raw, subjects, position, asked_us, patience_us
        )
        return found

    return list(await asyncio.gather(*map(row, range(settings.shard_count))))


async def _position(inspector: Inspector, settings: Settings, shard: int) -> int:
    """Return the newest position in MD_RAW that the shard's normalizer has stored."""
    streams, venue = settings.streams, settings.ingest_venue
    tick, saved = await asyncio.gather(
        inspector.last(streams.ticks, streams.of_shard("ticks", shard, venue)),
        inspector.last(streams.state, streams.of_shard("state", shard, venue)),
    )
    return max(0 if tick is None else int(tick.headers.get(POSITION_HEADER, 0)), _saved(saved))


def _saved(message: LogMessage | None) -> int:
    """Return the position of a checkpoint; 0 where there is none that can be read."""
    if message is None:
        return 0
    try:
        return decode_checkpoint(message.payload, message.headers).raw_seq
    except UNREADABLE:
        return 0


async def _waits_since_us(
    inspector: Inspector, stream: str, subjects: str, position: int, now_us: int, patience_us: int
) -> int | None:
    """Return when the first record behind a position came, if others came so much later."""
    oldest_us = _first_us(
        await inspector.following(
            stream, subjects, position, limit=_LOOKED_AT, max_bytes=_MAX_BYTES
        )
    )
    if oldest_us is None:
        return None
    later_us = _first_us(
        await inspector.since(
            stream, subjects, oldest_us + patience_us, limit=_LOOKED_AT, max_bytes=_MAX_BYTES
        )
    )
    waits = later_us is not None and later_us < now_us - ON_ITS_WAY_US
    return oldest_us if waits else None


def _first_us(messages: Iterable[LogMessage]) -> int | None:
    """Return when the first of these was stored; frames of no product never give anything."""
    times = (one.time_us for one in messages if product_of(one.subject)[1] != META_PRODUCT)
    return next(times, None)
