"""ArchiveWorkflow: each way it can go, on real servers."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError

from models.archiving import ARCHIVE_FAILED, ArchiveReport
from models.subjects import shard_of
from storage.layout import Hour
from streaming.broker.pages import Pages
from streaming.broker.parts import PART_HEADER
from tests.archiving import STREAMS, Site, publish, site
from tests.servers import eventually
from workflows import attributes

pytestmark = pytest.mark.long


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Site]:
    """Give everything that an archive needs, with its workers in this process."""
    async with site(tmp_path) as running:
        yield running


async def failure(handle: WorkflowHandle[Any, ArchiveReport]) -> ArchiveReport:
    """Return the report of a run that must fail, after checking how it shows."""
    with pytest.raises(WorkflowFailureError) as raised:
        await handle.result()
    cause = raised.value.cause
    assert isinstance(cause, ApplicationError)
    assert cause.type == ARCHIVE_FAILED
    report = ArchiveReport.model_validate(cause.details[0])
    assert report.sentence in cause.message
    shown = (await handle.describe()).typed_search_attributes
    assert shown.get(attributes.OUTCOME) == "failed"
    return report


async def test_what_is_in_the_log_comes_into_the_lake(running: Site) -> None:
    """Each message once and byte for byte; progress, list and result say so."""
    await publish(running, 30)
    handle = await running.start()
    told = await running.archived(handle)
    assert (told.rows, told.holes, told.position) == (60, 0, told.newest)
    await publish(running, 30)
    await running.archived(handle)
    await handle.signal("stop", "enough")
    report = await handle.result()
    assert (report.outcome, report.sentence, report.rows) == ("stopped", "stopped: enough", 120)
    assert await running.in_lake() == await running.in_log()
    shown = (await handle.describe()).typed_search_attributes
    assert (shown.get(attributes.STREAM), shown.get(attributes.VENUE)) == ("ticks", "coinbase")
    labels = ("ticks", "coinbase", "0")
    assert running.activities.rows.values[labels] == 120
    assert running.activities.bytes_.values[labels] == report.bytes_


async def test_range_is_closed_by_its_size(running: Site) -> None:
    """Long before it is old enough, 5 MB, here less, are stored; catching up makes full ones."""
    for _ in range(50):
        await running.producer.ticks("BTC-USD", 100)
    handle = await running.start(flush_s=3600.0, flush_bytes=400_000)
    position = (await running.log.end(STREAMS.ticks)) * 2 // 3
    told = await running.archived(handle, position)
    await handle.signal("stop")
    assert 1 <= told.objects <= 3


async def test_run_goes_on_as_another_after_so_many_steps(running: Site) -> None:
    """No history grows for ever; counts and checkpoint are carried over."""
    await publish(running, 10)
    handle = await running.start(steps=1, flush_s=0.1)
    await running.archived(handle)
    await publish(running, 10)
    told = await running.archived(handle)
    latest = running.client.get_workflow_handle(handle.id)
    assert (await latest.describe()).run_id != handle.first_execution_run_id
    assert told.rows == 40
    await latest.signal("stop")
    assert await running.in_lake() == await running.in_log()


async def test_other_run_finds_the_checkpoint_in_the_lake(running: Site) -> None:
    """A run that knows nothing goes on behind what is stored, without a hole or a repeat.

    The stopped run stores nothing after its end, though it would be the first to do so.
    """
    await publish(running, 10)
    first = await running.start("archive/one", flush_s=0.05)
    await running.archived(first)
    await first.signal("stop")
    await first.result()
    await publish(running, 10)
    second = await running.start("archive/two", flush_s=1.0)
    told = await running.archived(second)
    assert (told.rows, told.holes) == (20, 0)
    assert await running.in_lake() == await running.in_log()


async def test_lane_without_messages_makes_no_object_and_no_hole(tmp_path: Path) -> None:
    """Positions of other lanes that expire are no loss of this one."""
    async with site(tmp_path, shard_count=4) as running:
        others = [f"A{number}-USD" for number in range(9)]
        await running.producer.ticks("BTC-USD")
        mine = shard_of("coinbase", "BTC-USD", 4)
        strangers = [one for one in others if shard_of("coinbase", one, 4) != mine]
        handle = await running.start(shard=mine, flush_s=0.1)
        await running.archived(handle, 1)
        await publish(running, 30, strangers)

        async def looked() -> bool:
            return bool((await handle.query("progress"))["newest"] > 30)

        await eventually(looked)
        await running.log._js.purge_stream(STREAMS.ticks, seq=30)
        await asyncio.sleep(0.5)
        position = await running.producer.ticks("BTC-USD")
        told = await running.archived(handle, position)
        assert (told.objects, told.holes) == (2, 0)


async def test_what_the_log_has_dropped_is_a_hole_for_good(running: Site) -> None:
    """Retention overtook the archive: told in report, list, metric and lake, and it goes on."""
    await publish(running, 10)
    first = await running.start("archive/one")
    await running.archived(first)
    await first.signal("stop")
    await first.result()
    await publish(running, 20)
    await running.log._js.purge_stream(STREAMS.ticks, seq=25)
    second = await running.start("archive/two")
    told = await running.archived(second)
    assert told.holes == 1
    ((start, end),) = [(one.first, one.last) for one in told.last_holes]
    assert (start, end) == (11, 24)
    assert (await second.describe()).typed_search_attributes.get(attributes.OUTCOME) == "hole"
    holes = [hole for _, manifest in await running.manifests() for hole in manifest.holes]
    assert [(one.first, one.last) for one in holes] == [(start, end)]
    assert running.activities.holes.values["ticks", "coinbase", "0"] == 1
    report = await running.audit()
    assert (report.outcome, report.count.holes) == ("clean", 1)
    assert f"{start}-{end}" in report.holes[0]


async def test_new_lane_begins_at_the_logs_first_message(running: Site) -> None:
    """What was dropped before anybody archived is no hole."""
    await publish(running, 20)
    await running.log._js.purge_stream(STREAMS.ticks, seq=15)
    told = await running.archived(await running.start())
    assert (told.holes, told.rows) == (0, 12)


async def test_lane_of_an_empty_log_begins_with_its_first_message(running: Site) -> None:
    """The first object's range begins where messages can be, so that an audit can compare it."""
    handle = await running.start(flush_s=0.1)

    async def looked() -> bool:
        return (await handle.query("progress"))["position"] is not None

    await eventually(looked)
    await publish(running, 9)
    await running.archived(handle)
    ((_, manifest),) = await running.manifests()
    assert manifest.entries[0].first == 1
    assert (await running.audit()).count.compared == 9


async def test_stream_made_anew_begins_another_epoch(running: Site) -> None:
    """Positions begin again and must not meet the old ones; it is told."""
    await publish(running, 20)
    handle = await running.start()
    before = await running.archived(handle)
    await running.log._js.delete_stream(STREAMS.ticks)
    await running.log.ensure_streams(running.settings)
    await publish(running, 6)

    async def anew() -> bool:
        told = await handle.query("progress")
        return bool(told["epoch"] != before.epoch and told["position"] == 6)

    await eventually(anew)
    told = await running.archived(handle)
    assert "was made anew" in told.told
    assert told.rows == before.rows + 12
    assert await running.in_lake() == await running.in_log()


async def test_two_archivers_of_one_lane_store_everything_once(running: Site) -> None:
    """Neither doubles nor loses: the one that is late goes on behind the other."""
    await publish(running, 5)
    handles = [await running.start(f"archive/{number}", flush_s=0.1) for number in range(2)]
    for _ in range(20):
        await publish(running, 10)
    for handle in handles:
        await running.archived(handle)
    for handle in handles:
        await handle.signal("stop")
        await handle.result()
    assert await running.in_lake() == await running.in_log()


async def test_bad_clock_does_not_scatter_hours(running: Site) -> None:
    """Times far ahead are not believed, and a straggler goes to the newest hour."""
    year_us = 365 * 86400 * 1_000_000
    await running.producer.ticks("BTC-USD", time_us=Hour.of(4 * 10**15).start_us + year_us)
    handle = await running.start()
    await running.archived(handle)
    await running.producer.ticks("BTC-USD", time_us=1_700_000_000_000_000)
    await running.archived(handle)
    assert len(await running.manifests()) == 1
    assert await running.in_lake() == await running.in_log()


async def test_record_in_parts_is_read_whole_from_any_position(running: Site) -> None:
    """A range that ends between two parts does not lose the record, however long they took."""
    subject = "market.ticks.0.coinbase.BTC-USD"
    for number, word in enumerate((b"one ", b"two ", b"three"), 1):
        await running.log.publish(subject, word, headers={PART_HEADER: f"x/{number}/3"})
        await running.producer.ticks("ETH-USD")
    for after in range(5):
        pages = Pages(running.log, STREAMS.ticks, "market.ticks.0.coinbase.*", after=after)
        whole = [one for one in await pages.upto(6) if one.subject == subject]
        assert [(one.seq, one.payload) for one in whole] == [(5, b"one two three")]
    await running.log._js.purge_stream(STREAMS.ticks, seq=2)
    pages = Pages(running.log, STREAMS.ticks, subject, after=0)
    assert await pages.upto(6) == []


async def test_missing_bucket_ends_the_run_with_a_sentence(tmp_path: Path) -> None:
    """Final, so that it shows as failed; a later run loses nothing once the bucket is there."""
    async with site(tmp_path, bucket=False) as running:
        await publish(running, 10)
        report = await failure(await running.start("archive/one"))
        assert "s3://lake/" in report.sentence
        assert "create it" in report.sentence
        await running.objects.create_bucket()
        await running.archived(await running.start("archive/two"))
        assert await running.in_lake() == await running.in_log()


@pytest.mark.parametrize(
    ("status", "code", "sentence"),
    [
        (403, "AccessDenied", "check the keys"),
        (400, "AuthorizationHeaderMalformed", "set S3_REGION"),
    ],
)
async def test_store_that_refuses_ends_the_run_with_a_sentence(
    running: Site, status: int, code: str, sentence: str
) -> None:
    """Denied keys and a wrong region are settings: final, explained, and nothing is lost."""
    await publish(running, 10)
    running.store.refusal = (status, code)
    report = await failure(await running.start("archive/one"))
    assert sentence in report.sentence
    running.store.refusal = None
    await running.archived(await running.start("archive/two"))
    assert await running.in_lake() == await running.in_log()


async def test_full_store_is_waited_for(running: Site) -> None:
    """No room is no reason to give up: it is told while it lasts, and nothing is lost."""
    running.store.refusal, running.store.refuse_method = (507, "InsufficientStorage"), "PUT"
    handle = await running.start()
    await publish(running, 10)

    async def told() -> bool:
        pending = (await handle.describe()).raw_description.pending_activities
        return any("make room" in one.last_failure.message for one in pending)

    await eventually(told)
    assert (await handle.query("progress"))["position"] in {None, 0}
    running.store.refusal = None
    await running.archived(handle)
    assert await running.in_lake() == await running.in_log()


async def test_disk_without_room_loses_nothing(tmp_path: Path) -> None:
    """The store's own writes fail half-way: what it leaves behind is taken for no object."""
    async with site(tmp_path, full=True) as running:
        handle = await running.start()
        await publish(running, 200)

        async def told() -> bool:
            pending = (await handle.describe()).raw_description.pending_activities
            return any("no answer" in one.last_failure.message for one in pending)

        await eventually(told)
        assert (await handle.query("progress"))["position"] in {None, 0}
        await asyncio.to_thread(running.bucket.make_room)
        await running.archived(handle)
        assert await running.in_lake() == await running.in_log()


async def test_store_that_is_away_is_waited_for(running: Site) -> None:
    """Nobody listens for a while; then everything is there, once."""
    handle = await running.start()
    await publish(running, 10)
    await running.archived(handle)
    running.store.away = True
    await publish(running, 10)

    async def told() -> bool:
        pending = (await handle.describe()).raw_description.pending_activities
        return any("no answer" in one.last_failure.message for one in pending)

    await eventually(told)
    running.store.away = False
    await running.archived(handle)
    assert await running.in_lake() == await running.in_log()
