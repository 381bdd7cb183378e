"""CompactWorkflow, with a reader that never stops, and what can go wrong on the way."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError

from models.archiving import COMPACT_FAILED, CompactReport
from storage.errors import ObjectMissingError
from storage.layout import Hour, Piece
from storage.rows import Message
from tests.archiving import Site, site, trade
from tests.servers import eventually

PARTS = 12


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Site]:
    """Give everything that an archive needs, with its workers in this process."""
    async with site(tmp_path) as running:
        yield running


def messages(hour: Hour, first: int, count: int) -> list[Message]:
    """Return linked trades of an hour, one a message."""
    return [
        Message(at, "BTC-USD", trade("BTC-USD", at, at - 1, hour.start_us + at))
        for at in range(first, first + count)
    ]


async def fill(running: Site, hour: Hour, first: int = 1) -> list[Message]:
    """Store an hour as small objects; return all of it."""
    lane, stored = await running.lane(), list[Message]()
    for number in range(PARTS):
        part = messages(hour, first + 20 * number, 20)
        await running.lake.put(lane, Piece(hour, part[0].position, part[-1].position, part))
        stored += part
    return stored


def hours_ago(hours: int) -> Hour:
    """Return an hour that is over."""
    return Hour.of(time.time_ns() // 1000 - hours * 3600 * 1_000_000)


async def objects(running: Site, hour: Hour) -> int:
    """Count the stored objects of an hour."""
    return len(await running.lake.objects(await running.lane(), hour))


async def test_reader_sees_each_row_once_while_hours_are_compacted(running: Site) -> None:
    """The manifest is swapped at once, and old objects stay long enough to be read."""
    hour = hours_ago(3)
    expected = await fill(running, hour)
    for one in expected:
        await running.log.publish("market.ticks.0.coinbase.BTC-USD", one.payload)
    rounds, stop = 0, asyncio.Event()

    async def read() -> None:
        nonlocal rounds
        while not stop.is_set():
            try:
                assert await running.in_lake() == expected
            except ObjectMissingError:
                continue  # the manifest has changed: load it anew
            rounds += 1

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(read())
        report = await running.compact(settled_s=0.0, linger_s=1.0)
        enough = rounds + 2
        await eventually(lambda: rounds >= enough)
        stop.set()
    assert (report.outcome, report.hours) == ("compacted", 1)
    assert (report.merged, report.into, report.rows, report.swept) == (PARTS, 1, 240, PARTS)
    assert await objects(running, hour) == 1
    assert running.query("SELECT count(*), count(DISTINCT position) FROM {ticks}") == [(240, 240)]
    audited = await running.audit()
    assert (audited.outcome, audited.count.compared) == ("clean", 240)


async def test_only_hours_that_are_over_are_compacted(running: Site) -> None:
    """The present hour, and one that ended a moment ago, may still grow."""
    await fill(running, hours_ago(0))
    report = await running.compact(settled_s=0.0, linger_s=0.0)
    assert report.outcome == "nothing"
    assert await objects(running, hours_ago(0)) == PARTS
    await fill(running, hours_ago(2), 10_000)
    assert (await running.compact(settled_s=3 * 3600.0, linger_s=0.0)).outcome == "nothing"


async def test_objects_are_merged_up_to_a_bound(running: Site) -> None:
    """What is decoded at once stays bounded; a second round finds nothing to do."""
    await fill(running, hours_ago(2))
    bounds = {"settled_s": 0.0, "linger_s": 0.0, "max_rows": 100}
    report = await running.compact(**bounds)
    assert (report.merged, report.into) == (PARTS, 3)
    assert (await running.compact(**bounds)).outcome == "nothing"


async def test_damaged_object_leaves_its_hour_and_is_told(running: Site) -> None:
    """The other hours are compacted; the sentence says what to run."""
    bad, good = hours_ago(3), hours_ago(2)
    await fill(running, bad)
    await fill(running, good, 10_000)
    lane = await running.lane()
    file = running.root / "lake" / lane.key(bad, 21, 40)
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(WorkflowFailureError) as raised:
        await running.compact(settled_s=0.0, linger_s=0.0)
    cause = raised.value.cause
    assert isinstance(cause, ApplicationError)
    assert cause.type == COMPACT_FAILED
    report = CompactReport.model_validate(cause.details[0])
    assert (report.hours, len(report.failures)) == (1, 1)
    assert "run `ledgerflux audit`" in report.failures[0]
    assert (await objects(running, good), await objects(running, bad)) == (1, PARTS)
