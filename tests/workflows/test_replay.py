"""ReplayWorkflow: the past again, to the byte; steered; and what it says where it cannot be."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from temporalio.client import WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError

from activities.replaying.namespace import POSITION_HEADER
from models.replaying import (
    FORGET_REPLAY,
    REPLAY,
    REPLAY_FAILED,
    REPLAY_QUEUE,
    ForgetInput,
    Forgotten,
    ReplayProgress,
    ReplayReport,
    forget_id,
)
from models.subjects import Streams, shard_of
from storage.history import Past
from storage.layout import Hour, ingest_time
from storage.manifest import Hole
from storage.state import states_before
from streaming.broker.log import StreamMissingError
from streaming.broker.pages import Pages
from tests.archiving import PRODUCTS, VENUE, Site
from tests.past import BEGIN, FRAMES, SHARDS, Canonical, Told, in_lake, in_namespace, replaying
from tests.servers import eventually
from workers.normalizer import make_normalizer
from workers.replay import replay_worker
from workers.venue import VENUES
from workflows import attributes

pytestmark = pytest.mark.long

SECOND_US = 1_000_000
SECOND_HOUR = Hour(BEGIN.number + 1).start_us

Handle = WorkflowHandle[Any, ReplayReport]


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def where(told: Told, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """Give servers on a copy of the past, with a worker; each test has a namespace of its own."""
    async with replaying(tmp_path_factory.mktemp("replay"), told) as where:
        yield where


@pytest.fixture
def spoilt(where: Site, told: Told) -> Iterator[Path]:
    """Give the lake's folder to be spoilt; afterwards it is whole again."""
    lake = where.root / "lake"
    yield lake
    shutil.rmtree(lake)
    shutil.copytree(told.root / "lake", lake)


async def start(where: Site, name: str, **wanted: Any) -> Handle:
    """Start a replay as a person would: with what matters, as fast as it goes."""
    return await where.client.start_workflow(
        REPLAY,
        {"name": name, "speed": 0, **wanted},
        id=f"replay/{name}",
        task_queue=REPLAY_QUEUE,
        result_type=ReplayReport,
    )


async def replay(where: Site, name: str, **wanted: Any) -> ReplayReport:
    """Replay to the end."""
    return await (await start(where, name, **wanted)).result()


async def progress(handle: Handle) -> ReplayProgress:
    """Ask how far it is."""
    told: ReplayProgress = await handle.query("progress", result_type=ReplayProgress)
    return told


async def until_state(handle: Handle, state: str) -> ReplayProgress:
    """Wait until a replay says that it is there."""

    async def there() -> bool:
        return (await progress(handle)).state == state

    await eventually(there)
    return await progress(handle)


async def failure(handle: Handle) -> ReplayReport:
    """Return the report of a replay that must fail, after checking how it shows."""
    with pytest.raises(WorkflowFailureError) as raised:
        await handle.result()
    cause = raised.value.cause
    assert isinstance(cause, ApplicationError)
    assert cause.type == REPLAY_FAILED
    report = ReplayReport.model_validate(cause.details[0])
    assert report.outcome == "failed"
    assert report.sentence in cause.message
    shown = (await handle.describe()).typed_search_attributes
    assert shown.get(attributes.OUTCOME) == "failed"
    return report


def ticks_in(lines: Canonical) -> int:
    """Count the ticks."""
    return sum(b'"type":"tick"' in line for some in lines.values() for line in some)


async def test_hours_replayed_twice_are_the_archive_to_the_byte(where: Site, told: Told) -> None:
    """Gaps, recoveries, reconnects and all, side by side in two namespaces."""
    one, other = await asyncio.gather(replay(where, "one"), replay(where, "other"))
    archived, raw = await in_lake(where.lake, "ticks"), await in_lake(where.lake, "raw")
    assert told.recovered >= 10
    assert sum(b'"state":"gap"' in line for some in archived.values() for line in some) >= 10
    for report in (one, other):
        assert (report.outcome, report.fraction) == ("complete", 1.0)
        assert report.frames == sum(map(len, raw.values())) > FRAMES * 0.9
        assert report.ticks == ticks_in(archived)
        assert await in_namespace(where.log, report.namespace) == archived
        assert await in_namespace(where.log, report.namespace, "raw") == raw
    streams = Streams.of_replay("replay-one")
    pages = Pages(where.log, streams.raw, streams.every("raw"), after=0)
    messages = await pages.upto(await where.log.end(streams.raw))
    positions = [int(message.headers[POSITION_HEADER]) for message in messages]
    assert positions == sorted(set(positions))
    assert (positions[0], positions[-1]) == (one.first_position, one.position)
    assert len(positions) == one.messages
    shown = (
        await where.client.get_workflow_handle("replay/one").describe()
    ).typed_search_attributes
    assert (shown.get(attributes.OUTCOME), shown.get(attributes.VENUE)) == ("complete", VENUE)


async def test_second_hour_begins_with_the_archived_state(where: Site) -> None:
    """Without the hour before it: everything since the checkpoints is said again, no more."""
    report = await replay(where, "second", since=SECOND_HOUR)
    past = Past("raw", VENUE, SECOND_HOUR, Hour(BEGIN.number + 3).start_us)
    states = await states_before(where.lake, past)
    assert set(states) == set(PRODUCTS)
    after = {product: state.ticks_seq for product, state in states.items()}
    assert min(after.values()) > 100
    assert await in_namespace(where.log, report.namespace) == await in_lake(
        where.lake, "ticks", after
    )
    assert min(state.raw_seq for state in states.values()) < report.first_position
    assert report.first_time_us < SECOND_HOUR


async def test_only_some_products_and_feeds_come_where_they_are_named(where: Site) -> None:
    """The rest is not published, and of what is published the rest is not said."""
    product = PRODUCTS[0]
    shard = shard_of(VENUE, product, SHARDS)
    report = await replay(where, "some", products=[product], feeds=["trades"], shards=[shard])
    archived = (await in_lake(where.lake, "ticks"))[product]
    trades = [line for line in archived if b'"feed":"trades"' in line]
    assert trades
    assert await in_namespace(where.log, report.namespace) == {product: trades}
    assert report.ticks == ticks_in({product: trades})
    raw = await in_namespace(where.log, report.namespace, "raw")
    assert raw == {product: (await in_lake(where.lake, "raw"))[product]}


async def test_other_peoples_normalizer_may_serve_the_namespace(where: Site) -> None:
    """Raw records only; who normalizes them may have been there before the first one."""
    streams = Streams.of_replay("replay-raw")
    await where.log.ensure_streams(
        where.settings.model_copy(update={"replay_namespace": streams.prefix})
    )
    archived = await in_lake(where.lake, "ticks")
    async with asyncio.TaskGroup() as tasks:
        normalizers = [
            make_normalizer(where.log, where.settings, streams, VENUES[VENUE], shard, tasks)
            for shard in range(SHARDS)
        ]
        running = [tasks.create_task(one.run()) for one in normalizers]
        report = await replay(where, "raw", normalize=False)
        assert report.ticks == 0

        async def said() -> bool:
            return await in_namespace(where.log, report.namespace) == archived

        await eventually(said)
        for task in running:
            task.cancel()


async def test_normalizing_may_be_slower_than_publishing(tmp_path: Path, told: Told) -> None:
    """A small raw stream drops nothing that was not read: its end is right to the byte."""
    async with replaying(tmp_path, told, workers=False) as where:
        small = where.settings.model_copy(update={"js_max_bytes": 1_500_000})
        async with replay_worker(where.client, where.log, small, where.lake, cached=0):
            report = await replay(where, "small")
        raw, ticks = await in_lake(where.lake, "raw"), await in_lake(where.lake, "ticks")
        extent = await where.log.extent(Streams.of_replay(report.namespace).raw)
        assert extent.first > 100
        assert report.frames == sum(map(len, raw.values()))
        for product, lines in (await in_namespace(where.log, report.namespace)).items():
            assert len(lines) > 100
            assert lines == ticks[product][-len(lines) :]


async def test_pause_is_exact_and_resume_goes_on(where: Site) -> None:
    """Paused nothing comes; resumed, at another speed, the rest does, and it is the archive."""
    handle = await start(where, "paused", speed=1000)

    async def begun() -> bool:
        return (await progress(handle)).frames > 0

    await eventually(begun)
    await handle.signal("pause", "lunch")
    told = await until_state(handle, "paused")
    stream = Streams.of_replay("replay-paused").raw
    assert 0 < told.fraction < 1
    assert await where.log.end(stream) == told.messages
    await asyncio.sleep(0.5)
    assert await where.log.end(stream) == told.messages
    await handle.signal("resume", 0)
    report = await handle.result()
    assert (report.outcome, report.speed) == ("complete", 0)
    archived = await in_lake(where.lake, "ticks")
    assert await in_namespace(where.log, "replay-paused") == archived
    assert report.ticks == ticks_in(archived)


async def test_abort_says_how_far_it_came_and_forget_deletes_it(where: Site) -> None:
    """What it has filled stays until its time is over, or until somebody says so."""
    handle = await start(where, "aborted", speed=500)

    async def begun() -> bool:
        return (await progress(handle)).frames > 0

    await eventually(begun)
    await handle.signal("abort", "seen enough")
    report = await handle.result()
    assert report.outcome == "aborted"
    assert "seen enough" in report.sentence
    assert report.messages == await where.log.end(Streams.of_replay("replay-aborted").raw)
    assert 0 < report.frames < FRAMES
    forgotten = await forget(where, "replay-aborted")
    assert len(forgotten.streams) == 5
    with pytest.raises(StreamMissingError):
        await where.log.end(Streams.of_replay("replay-aborted").raw)
    assert (await forget(where, "replay-aborted")).streams == []


async def forget(where: Site, namespace: str) -> Forgotten:
    """Forget by hand."""
    handle = await where.client.start_workflow(
        FORGET_REPLAY,
        ForgetInput(namespace=namespace),
        id=forget_id(namespace),
        task_queue=REPLAY_QUEUE,
        result_type=Forgotten,
        start_signal="now",
    )
    forgotten: Forgotten = await handle.result()
    return forgotten


async def test_namespace_is_forgotten_when_its_time_is_over(where: Site) -> None:
    """By a workflow that outlives the replay."""
    await replay(where, "short", keep_minutes=0, until=BEGIN.start_us + 60 * SECOND_US)

    async def gone() -> bool:
        try:
            await where.log.end(Streams.of_replay("replay-short").raw)
        except StreamMissingError:
            return True
        return False

    await eventually(gone)


async def test_cancelled_replay_ends_as_aborted(where: Site) -> None:
    """Temporal's own cancel does as abort does, and shows as cancelled."""
    handle = await start(where, "cancelled", speed=10)
    await until_state(handle, "running")
    await handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    shown = (await handle.describe()).typed_search_attributes
    assert shown.get(attributes.OUTCOME) == "aborted"


async def test_namespace_holds_one_replay(where: Site) -> None:
    """Another one does not write into it, whatever its workflow is called, nor delete it."""
    first = await replay(where, "mine", until=BEGIN.start_us + 60 * SECOND_US)
    second = await where.client.start_workflow(
        REPLAY,
        {"name": "mine", "speed": 0, "keep_minutes": 0},
        id="by-hand/1",
        task_queue=REPLAY_QUEUE,
        result_type=ReplayReport,
    )
    report = await failure(second)
    assert "holds the replay of replay/mine" in report.sentence
    assert "ledgerflux replay forget replay-mine" in report.sentence
    await where.client.get_workflow_handle(forget_id("replay-mine")).signal("now")
    await where.client.get_workflow_handle(forget_id("replay-mine")).result()
    with pytest.raises(StreamMissingError):
        await where.log.end(Streams.of_replay(first.namespace).raw)


WRONG: tuple[tuple[dict[str, Any], str], ...] = (
    ({"products": ["DOGE-USD"]}, "DOGE-USD"),
    ({"feeds": ["candles"]}, "no such feed: 'candles'"),
    ({"since": "yesterday"}, "'yesterday' is no time"),
    ({"since": "2001-01-01T00", "until": "2001-01-01T01"}, "nothing of that"),
    ({"shards": [7]}, "nothing in these shards; there are 0, 1"),
    ({"venue": "nowhere"}, "no decoder for venue nowhere"),
    ({"name": "Not This"}, "is no namespace of a replay"),
    ({"speed": -1}, "speed -1 cannot be"),
)


async def test_wrong_questions_are_answered_with_a_sentence(where: Site) -> None:
    """Final, and nothing was published."""
    for number, (wanted, words) in enumerate(WRONG):
        handle = await where.client.start_workflow(
            REPLAY,
            {"speed": 0, **wanted},
            id=f"wrong/{number}",
            task_queue=REPLAY_QUEUE,
            result_type=ReplayReport,
        )
        report = await failure(handle)
        assert words in report.sentence
        assert report.messages == 0


async def test_range_with_a_hole_is_refused(where: Site, spoilt: Path) -> None:
    """It names what is missing, before anything is published."""
    _, lane = next(
        one for one in await where.lake.hours("raw", VENUE) if one[0].start_us == SECOND_HOUR
    )
    folder = spoilt / lane.folder(Hour.of(SECOND_HOUR))
    first = min(int(path.stem.partition("-")[0]) for path in folder.glob("*.parquet"))
    shutil.rmtree(folder)
    report = await failure(await start(where, "holes"))
    assert f"positions {first} to" in report.sentence
    assert "are missing" in report.sentence
    assert report.messages == 0
    before = await replay(where, "before", until=BEGIN.start_us + 1800 * SECOND_US)
    assert before.outcome == "complete"


@pytest.mark.usefixtures("spoilt")
async def test_range_that_was_never_archived_whole_says_so(where: Site) -> None:
    """A hole that the archive has put down is one, too."""
    hour, lane = (await where.lake.hours("raw", VENUE))[-1]
    last = max(end for _, end in (await where.lake.manifest(lane, hour)).ranges())
    await where.lake.note_hole(lane, hour, Hole(last + 1, last + 9, 1, "the test wants it"))
    report = await failure(await start(where, "lost", since=SECOND_HOUR))
    assert "the test wants it" in report.sentence


async def test_product_whose_state_is_not_known_is_named(where: Site, spoilt: Path) -> None:
    """Nothing is published that could be wrong."""
    shutil.rmtree(spoilt / "state" / f"venue={VENUE}" / str(BEGIN).partition("/")[0])
    report = await failure(await start(where, "unknown", since=SECOND_HOUR))
    assert "cannot be normalized from position" in report.sentence
    assert any(product in report.sentence for product in PRODUCTS)
    assert report.messages == 0


async def test_damaged_object_ends_it_with_what_came_before(where: Site, spoilt: Path) -> None:
    """Everything up to the object is published and normalized, and the failure says how much."""
    hour, lane = next(one for one in await where.lake.hours("raw", VENUE) if one[1].shard == 0)
    entry = (await where.lake.manifest(lane, hour)).entries[1]
    key = lane.key(hour, entry.first, entry.last)
    path = spoilt / key
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    report = await failure(await start(where, "damaged"))
    assert key in report.sentence
    assert "up to there:" in report.sentence
    assert 0 < report.position < entry.first
    said, archived = (
        await in_namespace(where.log, "replay-damaged"),
        await in_lake(where.lake, "ticks"),
    )
    assert ticks_in(said) == report.ticks
    for product, lines in said.items():
        assert lines == archived[product][: len(lines)]
    raw = await in_namespace(where.log, "replay-damaged", "raw")
    assert sum(map(len, raw.values())) == report.frames


async def test_speed_ten_takes_a_tenth_of_the_time(where: Site) -> None:
    """Within one percent, by the times at which the records came into the namespace."""
    await replay(where, "tenth", until=BEGIN.start_us + 60 * SECOND_US, speed=10)
    streams = Streams.of_replay("replay-tenth")
    pages = Pages(where.log, streams.raw, streams.every("raw"), after=0)
    messages = await pages.upto(await where.log.end(streams.raw))
    due = [(ingest_time(one.payload), one.time_us) for one in messages]
    paced = [(time_us, came_us) for time_us, came_us in due if time_us is not None]
    took_us = paced[-1][1] - paced[0][1]
    wanted_us = (paced[-1][0] - paced[0][0]) / 10
    assert wanted_us > 5 * SECOND_US
    assert abs(took_us / wanted_us - 1) < 0.01
