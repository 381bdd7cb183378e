"""Half an hour of data in compressed time, while everything around the archive fails.

2,000 messages a second in ranges of half a second or 1 MB stand for 60 s or 5 MB. The store
fails at random and is away for a while, the archiver is killed ten times, Temporal restarted twice.
"""

import asyncio
import itertools
import random
from pathlib import Path

import pytest

from models.archiving import ARCHIVE, ArchiveProgress
from tests.archiving import PRODUCTS, STREAMS, ArchiveProcess, Site, site
from tests.s3_faults import NOTHING, RANDOM
from tests.servers import eventually, port_open
from workflows.schedules import archive_id, lanes_of

KILLS = 10
RESTARTS = 2
OUTAGE_S = 3.0
PER_S = 2000
TICKS_SQL = "SELECT count(*), count(DISTINCT (position, line)) FROM {ticks}"
CHAIN_SQL = (
    "SELECT count(*) FROM (SELECT prev_seq, lag(seq, 1, 0) OVER "
    "(PARTITION BY product, feed ORDER BY position, line) AS before FROM {ticks}) "
    "WHERE prev_seq <> before"
)


async def produce(running: Site, stop: asyncio.Event) -> None:
    """Publish single ticks and bunches, 2,000 messages a second, until told to stop."""
    loop, chance = asyncio.get_running_loop(), random.Random(1)
    began_s = loop.time()
    for number in itertools.count():
        if stop.is_set():
            return
        await running.producer.ticks(PRODUCTS[number % len(PRODUCTS)], chance.choice((1, 1, 1, 2)))
        ahead_s = began_s + number / PER_S - loop.time()
        if ahead_s > 0:
            await asyncio.sleep(ahead_s)


async def disturb(running: Site, worker: ArchiveProcess) -> None:
    """Kill the archiver ten times; restart Temporal twice; take the store away once."""
    running.store.shares = RANDOM
    chance = random.Random(2)
    for number in range(KILLS):
        asked = running.store.done["asked"] + chance.randint(1, 8)
        await eventually(lambda asked=asked: running.store.done["asked"] >= asked, within_s=60)  # type: ignore[misc]
        await asyncio.to_thread(worker.kill)
        worker.start()
        if number in {3, 6}:
            await asyncio.to_thread(running.temporal.kill)
            running.temporal.start()
            await port_open(running.temporal.port)
        if number == 5:
            running.store.away = True
            await asyncio.sleep(OUTAGE_S)
            running.store.away = False


async def progress(running: Site) -> ArchiveProgress:
    """Ask the newest run of the ticks' lane, whatever its id is."""
    lane = next(one for one in lanes_of(running.settings, []) if one.stream == "ticks")
    query = f"WorkflowType='{ARCHIVE}' AND WorkflowId STARTS_WITH '{archive_id(lane)}'"
    runs = [run async for run in running.client.list_workflows(query)]
    assert runs
    newest = max(runs, key=lambda run: run.start_time)
    handle = running.client.get_workflow_handle(newest.id, run_id=newest.run_id)
    told: ArchiveProgress = await handle.query("progress", result_type=ArchiveProgress)
    return told


@pytest.mark.timeout(300)
async def test_lake_equals_the_log_whatever_fails(tmp_path: Path) -> None:
    """Every row once, every chain whole: shown by DuckDB over the files, and by the audit."""
    async with site(tmp_path, workers=False) as running:
        env = {"ARCHIVE_FLUSH_S": "0.5", "ARCHIVE_FLUSH_BYTES": "1000000", "ARCHIVE_EVERY_S": "1"}
        stop = asyncio.Event()
        with ArchiveProcess(tmp_path, running.settings, **env) as worker:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(produce(running, stop))
                await disturb(running, worker)
                stop.set()
            end = await running.log.end(STREAMS.ticks)

            async def archived() -> bool:
                return ((await progress(running)).position or 0) >= end

            await eventually(archived, within_s=120)
            running.store.shares = NOTHING
            told, report = await progress(running), await running.audit()
        in_log, in_lake = await running.in_log(), await running.in_lake()
    assert in_lake == in_log
    lines = running.producer.lines
    assert running.query(TICKS_SQL) == [(lines, lines)]
    assert running.query(CHAIN_SQL) == [(0,)]
    assert told.holes == 0
    assert (report.outcome, report.count.rows, report.findings) == ("clean", lines, [])
    assert report.count.compared == len(in_log)
    assert {"error", "busy", "slow", "cut_request", "cut_answer"} <= set(running.store.done)
