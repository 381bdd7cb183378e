"""The lake as a rung of the resume ladder: everything that follows, or a plain refusal."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from models.settings import Settings
from storage.excerpt import Excerpt
from storage.lake import Lake
from storage.layout import Hour, Lane, cut
from storage.manifest import Hole
from storage.objects import ObjectStore
from storage.parcel import encode, merge
from storage.parquet import NotALakeObjectError
from storage.rows import Message, messages_of
from streaming.broker.jetstream import JetStreamLog
from tests.gateways import (
    PRODUCT,
    SUBJECT,
    numbers,
    receive,
    running_gateway,
    snapshot,
    status,
    subscriber,
    why,
)
from tests.gateways import tick as plain_tick
from tests.servers import port_open
from tests.servers_s3 import LocalBucket, store_settings

pytestmark = pytest.mark.long

TICKER = {"products": [PRODUCT], "feeds": ["ticker"]}
OTHER = "market.ticks.0.coinbase.ETH-USD"
NOW_US = time.time_ns() // 1000


@pytest.fixture
async def bucket(tmp_path: Path) -> AsyncIterator[LocalBucket]:
    """Give the embedded object store, with an empty bucket."""
    with LocalBucket(tmp_path / "s3") as server:
        await port_open(server.port)
        async with ObjectStore.connect(store_settings(server.port)) as store:
            await store.create_bucket()
        yield server


@pytest.fixture
def lake_settings(settings: Settings, bucket: LocalBucket) -> Settings:
    """Give settings that lead to the log and to the lake; the ring is empty."""
    there = store_settings(bucket.port)
    names = ("s3_endpoint", "s3_bucket", "s3_access_key", "s3_secret_key", "s3_region")
    update = {name: getattr(there, name) for name in names}
    return settings.model_copy(update={**update, "gateway_ring_bytes": 0})


def tick(seq: int, prev: int | None = None, **more: str) -> bytes:
    """Return a tick that was received now."""
    line = plain_tick(seq, prev, **more)
    return line.replace(b'"ts_ingest":%d' % seq, b'"ts_ingest":%d' % (NOW_US + seq))


async def publish(log: JetStreamLog, seqs: Sequence[int], *, subject: str = SUBJECT) -> None:
    """Publish ticks, one to a message."""
    product = subject.rpartition(".")[2]
    for seq in seqs:
        await log.publish(subject, tick(seq, product=product))


async def archive(log: JetStreamLog, settings: Settings, first: int, last: int) -> None:
    """Put a range of the log into the lake, as one object per hour."""
    extent = await log.extent(settings.streams.ticks)
    stored = await log.fetch(
        settings.streams.ticks, "market.ticks.>", after=first - 1, limit=10**4, max_bytes=10**8
    )
    messages = messages_of([one for one in stored if one.seq <= last])
    async with ObjectStore.connect(settings) as store:
        lake = Lake(store)
        for piece in cut(first, last, messages):
            await lake.put(Lane("ticks", "coinbase", 0, extent.created_us), piece)


async def forget(log: JetStreamLog, settings: Settings, upto: int) -> None:
    """Have the log drop its oldest messages, as retention does."""
    await log._js.purge_stream(settings.streams.ticks, seq=upto + 1)


async def resume(settings: Settings, seq: int) -> Any:
    """Resume the ticker at a gateway that has just been started; return the answer."""
    async with (
        running_gateway(settings) as gateway,
        subscriber(gateway, **TICKER, from_seq={PRODUCT: seq}) as client,
    ):
        return (await receive(client, 2))[1]


async def test_resume_goes_from_the_lake_over_the_log_to_what_is_live(
    log: JetStreamLog, lake_settings: Settings
) -> None:
    """Over objects, one of them without the product, into the log, each message once."""
    await publish(log, range(1, 41))
    await log.publish(SUBJECT, tick(1, feed="book") + b"\n" + status("gap", since=NOW_US))
    await publish(log, range(41, 60))
    await archive(log, lake_settings, 1, 30)
    await archive(log, lake_settings, 31, 60)
    await publish(log, range(1, 11), subject=OTHER)
    await archive(log, lake_settings, 61, 70)
    await publish(log, range(60, 71))
    await archive(log, lake_settings, 71, 75)
    await forget(log, lake_settings, 65)
    async with (
        running_gateway(lake_settings) as gateway,
        subscriber(gateway, **TICKER, from_seq={PRODUCT: 20}) as client,
    ):
        _, answer, *missed = await receive(client, 2 + 50 + 1)
        assert (why(answer), answer["recovered"]) == ("lake", True)
        expected = [("incr", seq) for seq in range(21, 71)]
        assert numbers(missed) == [*expected[:20], ("status", -1), *expected[20:]]
        await publish(log, range(71, 75))
        assert numbers(await receive(client, 4)) == [("incr", seq) for seq in range(71, 75)]


async def test_resume_from_the_message_right_before_an_object(
    log: JetStreamLog, lake_settings: Settings
) -> None:
    """The message itself is nowhere any more, but what links to it is; statuses come along."""
    await publish(log, range(1, 11))
    await log.publish(SUBJECT, status("gap", since=NOW_US))
    await publish(log, range(11, 21))
    await archive(log, lake_settings, 11, 20)
    await forget(log, lake_settings, 15)
    async with (
        running_gateway(lake_settings) as gateway,
        subscriber(gateway, **TICKER, from_seq={PRODUCT: 10}) as client,
    ):
        _, answer, *missed = await receive(client, 2 + 1 + 10)
        assert why(answer) == "lake"
        assert numbers(missed) == [("status", -1), *[("incr", seq) for seq in range(11, 21)]]
    assert why(await resume(lake_settings, 9)) == "too_old"


async def test_quiet_product_is_known_to_be_quiet_up_to_where_its_lane_is_archived(
    log: JetStreamLog, lake_settings: Settings
) -> None:
    """Its last message is long gone from the log; the objects prove that nothing followed it."""
    await publish(log, range(1, 11))
    await publish(log, range(1, 41), subject=OTHER)
    await archive(log, lake_settings, 1, 30)
    await forget(log, lake_settings, 25)
    await publish(log, [11])
    assert why(await resume(lake_settings, 5)) == "lake"
    async with (
        running_gateway(lake_settings) as gateway,
        subscriber(gateway, **TICKER, from_seq={PRODUCT: 5}) as client,
    ):
        assert numbers((await receive(client, 8))[2:]) == [("incr", seq) for seq in range(6, 12)]


async def test_resume_goes_over_the_border_of_an_hour(
    log: JetStreamLog, lake_settings: Settings
) -> None:
    """The number is found in whatever hour it is, with all that followed."""
    earlier = b'"ts_ingest":%d' % (NOW_US - 3_600_000_000)
    for seq in range(1, 11):
        await log.publish(SUBJECT, tick(seq).replace(b'"ts_ingest":%d' % (NOW_US + seq), earlier))
    await publish(log, range(11, 31))
    await archive(log, lake_settings, 1, 20)
    await archive(log, lake_settings, 21, 30)
    await forget(log, lake_settings, 28)
    longer = lake_settings.model_copy(update={"backfill_max_minutes": 120})
    async with (
        running_gateway(longer) as gateway,
        subscriber(gateway, **TICKER, from_seq={PRODUCT: 5}) as client,
    ):
        _, answer, *missed = await receive(client, 2 + 25)
        assert why(answer) == "lake"
        assert numbers(missed) == [("incr", seq) for seq in range(6, 31)]


async def test_gap_between_lake_and_log_is_refused(
    log: JetStreamLog, lake_settings: Settings
) -> None:
    """A part of what was missed is not sent, even where a snapshot hides the hole."""
    await publish(log, range(1, 21))
    await archive(log, lake_settings, 1, 10)
    await log.publish(SUBJECT, snapshot(30))
    await forget(log, lake_settings, 11)
    assert why(await resume(lake_settings, 5)) == "too_old"
    await archive(log, lake_settings, 12, 20)
    assert why(await resume(lake_settings, 5)) == "too_old"
    lane = Lane("ticks", "coinbase", 0, (await log.extent(lake_settings.streams.ticks)).created_us)
    async with ObjectStore.connect(lake_settings) as store:
        await Lake(store).note_hole(lane, Hour.of(NOW_US), Hole(11, 11, NOW_US, "expired"))
    assert why(await resume(lake_settings, 5)) == "too_old"


async def test_numbers_that_the_lake_has_not_are_refused(
    log: JetStreamLog, lake_settings: Settings
) -> None:
    """Older than all, between two messages, after a message that is missing in the chain."""
    await log.publish(SUBJECT, tick(10, 8) + b"\n" + tick(14, 10) + b"\n" + tick(15, 14))
    await log.publish(SUBJECT, tick(20, 15) + b"\n" + tick(25, 22))
    await log.publish(SUBJECT, tick(26, 25))
    await archive(log, lake_settings, 1, 2)
    await forget(log, lake_settings, 2)
    assert why(await resume(lake_settings, 7)) == "too_old"
    assert why(await resume(lake_settings, 12)) == "unknown_seq"
    assert why(await resume(lake_settings, 14)) == "broken"
    assert why(await resume(lake_settings, 25)) == "log"


async def test_lake_reaches_no_further_than_is_allowed(
    log: JetStreamLog, lake_settings: Settings
) -> None:
    """BACKFILL_MAX_MINUTES counts from when a message was received."""
    old = b'"ts_ingest":%d' % (NOW_US - 90 * 60_000_000)
    for seq in (1, 2):
        await log.publish(SUBJECT, tick(seq).replace(b'"ts_ingest":%d' % (NOW_US + seq), old))
    await publish(log, range(3, 6))
    await archive(log, lake_settings, 1, 5)
    await forget(log, lake_settings, 4)
    longer = lake_settings.model_copy(update={"backfill_max_minutes": 120})
    assert why(await resume(longer, 1)) == "lake"
    assert why(await resume(lake_settings, 1)) == "too_old"
    assert why(await resume(lake_settings, 2)) == "lake"


async def test_lane_of_another_log_and_a_second_lane_are_not_taken(
    log: JetStreamLog, lake_settings: Settings
) -> None:
    """Positions of a stream that was made anew mean nothing; nor do two shards' objects."""
    await publish(log, range(1, 11))
    await forget(log, lake_settings, 8)
    messages = [Message(seq, PRODUCT, tick(seq)) for seq in range(1, 11)]
    epoch = (await log.extent(lake_settings.streams.ticks)).created_us
    async with ObjectStore.connect(lake_settings) as store:
        for lane, answer in (
            (Lane("ticks", "coinbase", 0, epoch - 1), "too_old"),
            (Lane("ticks", "coinbase", 0, epoch), "lake"),
            (Lane("ticks", "coinbase", 1, epoch), "too_old"),
        ):
            for piece in cut(1, 10, messages):
                await Lake(store).put(lane, piece)
            assert why(await resume(lake_settings, 3)) == answer


async def test_store_that_is_away_is_a_refusal_and_nothing_worse(
    log: JetStreamLog, lake_settings: Settings, bucket: LocalBucket
) -> None:
    """The gateway starts without it and goes on; those who are near are not concerned."""
    await publish(log, range(1, 11))
    await archive(log, lake_settings, 1, 10)
    await forget(log, lake_settings, 5)
    bucket.stop()
    async with running_gateway(lake_settings) as gateway:
        for _ in range(2):
            async with subscriber(gateway, **TICKER, from_seq={PRODUCT: 2}) as client:
                _, answer, begun = await receive(client, 3)
                assert why(answer) == "too_old"
                assert (begun["op"], begun["data"]["seq"]) == ("snapshot", 10)
        async with subscriber(gateway, **TICKER, from_seq={PRODUCT: 7}) as client:
            assert why((await receive(client, 2))[1]) == "log"
        assert await gateway.ready()


async def test_damaged_object_is_a_refusal(
    log: JetStreamLog, lake_settings: Settings, bucket: LocalBucket
) -> None:
    """Nobody gets what is not what was stored."""
    await publish(log, range(1, 11))
    await archive(log, lake_settings, 1, 10)
    await forget(log, lake_settings, 5)
    (path,) = bucket.root.rglob("*.parquet")
    data = bytearray(path.read_bytes())
    data[100:200] = bytes(100)
    path.write_bytes(data)
    assert why(await resume(lake_settings, 2)) == "too_old"


async def test_slow_client_is_served_from_the_lake_at_its_own_pace(
    log: JetStreamLog, lake_settings: Settings
) -> None:
    """Ten thousand messages, read slowly, with a bound far below them; all of them come."""
    count = 10_000
    await asyncio.gather(
        *[
            log.publish(SUBJECT, b"\n".join(tick(seq) for seq in range(first, first + 100)))
            for first in range(1, count, 100)
        ]
    )
    await archive(log, lake_settings, 1, 100)
    await forget(log, lake_settings, 99)
    bounded = lake_settings.model_copy(update={"ws_max_client_bytes": 256 * 1024})
    async with (
        running_gateway(bounded) as gateway,
        subscriber(gateway, **TICKER, from_seq={PRODUCT: 1}) as client,
    ):
        missed: list[Any] = []
        while len(missed) < count + 1:
            missed += await receive(client, min(1000, count + 1 - len(missed)))
            await asyncio.sleep(0.02)
        assert why(missed[1]) == "lake"
        assert numbers(missed[2:]) == [("incr", seq) for seq in range(2, count + 1)]


def test_excerpt_gives_whole_messages_over_row_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """However the object is cut into groups and pages, every line comes once, in order."""
    monkeypatch.setattr("storage.parquet.ROW_GROUP_ROWS", 7)
    lane = Lane("ticks", "coinbase", 0, 1)
    messages = [
        Message(
            at,
            product,
            b"\n".join(tick(10 * at + n, product=product) for n in range(at % 5 + 1)),
        )
        for at in range(1, 60)
        for product in [("A-USD", PRODUCT, "Z-USD")[at % 3]]
    ]
    data = encode(lane, 1, 59, messages).data
    wanted = [(one.position, one.payload) for one in messages if one.product == PRODUCT]
    for limit in (1, 3, 8, 1000):
        excerpt, after = Excerpt(data, PRODUCT, "ticker"), 0
        found = []
        while page := excerpt.after(after, limit):
            after = page[-1].position
            found += [(one.position, one.payload) for one in page]
        assert found == wanted
    assert excerpt.before(10 * 4) == 3
    assert excerpt.before(10 * 4 + 9) is None
    assert Excerpt(data, PRODUCT, "book").after(0, 10) == []
    with pytest.raises(NotALakeObjectError):
        Excerpt(data[:-5], PRODUCT, "ticker")


async def test_compacted_hour_is_read_like_its_parts(
    log: JetStreamLog, lake_settings: Settings
) -> None:
    """The manifest names one object in their place; the parts may be swept."""
    await publish(log, range(1, 21))
    await archive(log, lake_settings, 1, 10)
    await archive(log, lake_settings, 11, 20)
    await forget(log, lake_settings, 18)
    lane = Lane("ticks", "coinbase", 0, (await log.extent(lake_settings.streams.ticks)).created_us)
    hour = Hour.of(NOW_US)
    async with ObjectStore.connect(lake_settings) as store:
        lake = Lake(store)
        parts = (await lake.manifest(lane, hour)).entries
        parcels = [
            encode(lane, one.first, one.last, await lake.messages(lane, hour, one)) for one in parts
        ]
        await lake.replace(lane, hour, parts, merge(lane, parcels))
        assert len(await lake.sweep(lane, hour)) == 2
    assert why(await resume(lake_settings, 3)) == "lake"
