"""Streams: how much they hold, how near to their bounds they are, and who reads them."""

import asyncio

import msgspec

from models.settings import Settings
from streaming.broker.inspection import ConsumerFacts, Inspector, StreamFacts
from streaming.broker.jetstream import stream_configs
from streaming.broker.log import StreamMissingError


class ConsumerRow(msgspec.Struct):
    """One consumer. `name`: none for one that belongs to a single reader; `behind`, in messages.

    `reader`: what that calls itself, such as `normalizer-0`.
    """

    name: str | None
    reader: str
    subjects: str
    behind: int


class StreamRow(msgspec.Struct):
    """One stream. Times in µs, 0 where it is empty.

    `share_of_bytes`, `share_of_age`: used parts of its bounds, none where there is no bound.
    """

    name: str
    created_us: int
    messages: int
    size_bytes: int
    first: int
    last: int
    first_us: int
    last_us: int
    share_of_bytes: float | None
    share_of_age: float | None
    consumers: list[ConsumerRow]


async def streams(inspector: Inspector, settings: Settings, now_us: int) -> list[StreamRow]:
    """Return all streams of the installation.

    Raises:
        StreamMissingError: one of them is not there.
        LogError: the log does not answer.
    """
    names = [str(config.name) for config in stream_configs(settings.streams, settings)]
    return list(await asyncio.gather(*(_stream(inspector, name, now_us) for name in names)))


async def _stream(inspector: Inspector, name: str, now_us: int) -> StreamRow:
    facts = await inspector.stream(name)
    if facts is None:
        raise StreamMissingError(name)
    consumers = await inspector.consumers(name) if facts.consumers else []
    return StreamRow(
        facts.name,
        facts.created_us,
        facts.messages,
        facts.size_bytes,
        facts.first,
        facts.last,
        facts.first_us,
        facts.last_us,
        facts.share_of_bytes,
        _share_of_age(facts, now_us),
        [_consumer(one) for one in consumers],
    )


def _share_of_age(facts: StreamFacts, now_us: int) -> float | None:
    bound_us = facts.config.get("max_age", 0) / 1000
    return (now_us - facts.first_us) / bound_us if bound_us and facts.first_us else None


def _consumer(facts: ConsumerFacts) -> ConsumerRow:
    behind = facts.pending + facts.unanswered
    return ConsumerRow(facts.name or None, facts.reader, facts.subjects, behind)
