"""Who looks at the log sees a normalizer that is gone, one that hangs, and one that works."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import msgspec
import pytest

from cli.checks.pipeline import pipeline
from cli.situation import shards
from cli.situation.feeds import Feeds, feeds
from models.canonical import Status
from models.settings import Settings
from models.subjects import Streams, raw_subject
from storage.latest import LatestRow
from streaming.broker.inspection import Inspector
from streaming.broker.jetstream import JetStreamLog
from streaming.normalize import Normalizer
from tests.ingesting import PRODUCT, consumed, trading
from tests.servers import eventually
from venues.coinbase.mapper import decode

STREAMS = Streams()


@asynccontextmanager
async def normalizing(settings: Settings) -> AsyncIterator[None]:
    """Run a normalizer on a connection of its own."""
    async with (
        await JetStreamLog.of(settings, name="normalizer-0") as log,
        asyncio.TaskGroup() as tasks,
    ):
        normalizer = Normalizer(log, STREAMS, "coinbase", 0, decode, tasks)
        reading = tasks.create_task(normalizer.run())
        yield
        reading.cancel()
        await normalizer.stop()


@asynccontextmanager
async def hanging(settings: Settings, after: int) -> AsyncIterator[None]:
    """Hold a reader that has taken a record, and never goes on."""
    async with await JetStreamLog.of(settings, name="normalizer-0") as log:
        reading = log.read(STREAMS.raw, STREAMS.of_shard("raw", 0, "coinbase"), after=after)
        async with aclosing(reading):
            await anext(reading)
            yield


async def seen(settings: Settings) -> Feeds:
    """Look at the feeds; the latest state has the trades, and has them live."""
    async with Inspector.connect(settings, answer_s=10) as inspector:
        facts = await inspector.stream(STREAMS.ticks)
        assert facts is not None
        line = Status(1, "coinbase", PRODUCT, "trades", "live", since=1)
        lines = (msgspec.json.encode(line).decode(),)
        row = LatestRow("coinbase", PRODUCT, facts.created_us, 0, 1, lines)
        return await feeds(inspector, settings, [row], time.time_ns() // 1000)


async def told(settings: Settings) -> dict[str, tuple[str, str]]:
    """Return what the doctor says of the pipeline: state and text by check."""
    return {one.check: (one.state, one.text) for one in await pipeline(settings, 10)}


async def test_normalizer_that_is_gone_or_hangs_leaves_feeds_unknown(
    log: JetStreamLog, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both commands name the shard, and what to do; where one works all is believed again."""
    monkeypatch.setattr(shards, "STANDS_STILL_US", 3_000_000)
    one = {"coinbase_silence_s": 60.0, "coinbase_products": (PRODUCT,)}
    settings = settings.model_copy(update=one)

    async def shown(state: str) -> bool:
        return {row.state for row in (await seen(settings)).rows} == {state}

    async with trading(log) as trade:
        async with normalizing(settings):
            await trade(1)
            await eventually(consumed(log))
            await eventually(lambda: shown("live"))
            assert (await seen(settings)).waiting == []
            assert (await told(settings))["normalizer"] == ("ok", "every shard has one: 1")
        await trade(2)
        await eventually(lambda: shown("unknown"))
        (row,) = (await seen(settings)).waiting
        assert "nobody normalizes shard 0: start a normalizer with SHARD_INDEX=0" in row.trouble(0)
        assert (await told(settings))["normalizer"] == ("broken", row.trouble(0))
        before = await log.end(STREAMS.raw) - 1
        async with hanging(settings, before):
            await eventually(lambda: shown("live"))  # it may be at work

            async def shown_later() -> bool:
                await log.publish(raw_subject(0, "coinbase", PRODUCT), b"{}")
                return await shown("unknown")

            await eventually(shown_later)
            (row,) = (await seen(settings)).waiting
            text = row.trouble(row.waits_since_us + 7_000_000 if row.waits_since_us else 0)
            assert text.startswith("normalizer-0 has not normalized what came into shard 0 7 s ago")
            state, text = (await told(settings))["normalizer"]
            assert state == "broken"
            assert "it hangs, or is too slow" in text
        async with normalizing(settings):
            await trade(3)
            await eventually(consumed(log))
            await eventually(lambda: shown("live"))
            assert (await seen(settings)).waiting == []


async def test_doctor_names_who_is_missing_around_the_normalizer(
    log: JetStreamLog, settings: Settings
) -> None:
    """An ingestor that brings nothing, shards without a normalizer, rows that nobody writes."""
    four = settings.model_copy(update={"shard_count": 4, "coinbase_silence_s": 0.2})
    found = await told(four)
    assert found["ingestor"] == (
        "broken", "nothing has ever come into MD_RAW: start an ingestor (`make run-ingestor`)"
    )  # fmt: skip
    assert found["normalizer"][0] == "broken"
    assert all(f"shard {number}" in found["normalizer"][1] for number in range(4))
    assert found["snapshot"][0] == "broken"
    await log.publish(raw_subject(0, "coinbase", PRODUCT), b"{}")
    assert (await told(four))["ingestor"][0] == "ok"

    async def silent() -> bool:
        state, text = (await told(four))["ingestor"]
        return state == "broken" and "nothing has come into MD_RAW for" in text

    await eventually(silent)
    async with await JetStreamLog.of(settings, name="snapshot") as reader:
        reading = reader.read(STREAMS.ticks, STREAMS.every("ticks"))
        async with aclosing(reading):
            waiting = asyncio.ensure_future(anext(reading))

            async def snapshots() -> bool:
                return (await told(four))["snapshot"][0] == "ok"

            await eventually(snapshots)
            waiting.cancel()
            await asyncio.wait([waiting])
