"""DBN files through ReplayWorkflow, on real servers: what subscribers of `market.futures` get."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from databento_dbn import Schema
from temporalio.client import WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError

from models.dbn import decode_dbn_tick
from models.replaying import (
    REPLAY,
    REPLAY_FAILED,
    REPLAY_QUEUE,
    ReplayInput,
    ReplayReport,
)
from storage.dbn import DbnMessage, opened
from streaming.broker.log import LogMessage, StreamMissingError
from streaming.broker.pages import Pages
from tests import dbn_files as dbn
from tests.archiving import STREAMS, ArchiveProcess, Site, site
from tests.servers import PATIENCE_S, eventually
from workers.replay import replay_worker

STREAM = STREAMS.derivatives


@asynccontextmanager
async def replaying(root: Path, *, workers: bool = True) -> AsyncIterator[Site]:
    """Run servers and a replay worker."""
    async with site(root, workers=False) as place:
        if not workers:
            yield place
            return
        async with replay_worker(place.client, place.log, place.settings, place.lake, cached=100):
            yield place


async def start(
    place: Site, name: str, *files: Path | str, **more: Any
) -> WorkflowHandle[Any, Any]:
    """Start a replay of files."""
    wanted: dict[str, Any] = {"speed": 0, "dbn_kind": "futures", **more}
    return await place.client.start_workflow(
        REPLAY,
        ReplayInput(dbn=list(map(str, files)), **wanted),
        id=name,
        task_queue=REPLAY_QUEUE,
        result_type=ReplayReport,
    )


async def stored(place: Site) -> list[LogMessage]:
    """Return everything in the stream of futures and options."""
    end = await place.log.end(STREAM)
    return await Pages(place.log, STREAM, "market.>", after=0).upto(end)


async def expected(place: Site, *files: Path | str) -> list[DbnMessage]:
    """Return what files hold."""
    async with opened(list(map(str, files)), place.objects, kind="futures") as found:
        return [one async for batch in found.messages() for one in batch]


async def position(place: Site) -> int:
    """Return the stream's newest position; 0 while there is none."""
    try:
        return await place.log.end(STREAM)
    except StreamMissingError:
        return 0


def said(messages: list[LogMessage]) -> list[tuple[str, bytes]]:
    """Return subjects and payloads."""
    return [(one.subject, one.payload) for one in messages]


def meant(messages: list[DbnMessage]) -> list[tuple[str, bytes]]:
    """Return the same of a file's messages."""
    return [(one.subject, one.payload) for one in messages]


async def test_files_go_to_the_live_subjects_in_order(tmp_path: Path) -> None:
    """A path and an object of the lake's bucket, merged by time; a second replay comes behind."""
    trades = dbn.write(tmp_path / "t.dbn.zst", map(dbn.trade, range(1500)))
    ladder = dbn.write(
        tmp_path / "l.dbn", map(dbn.depth, range(700)), dbn.metadata(Schema("mbp-10"))
    )
    async with replaying(tmp_path) as place:
        await place.objects.put_new("dbn/ladder.dbn", ladder.read_bytes())
        kept = f"s3://{place.settings.s3_bucket}/dbn/ladder.dbn"
        reading = place.log.read(STREAM, "market.futures.trades.>")
        report = await (await start(place, "replay/one", trades, kept)).result()
        assert (report.outcome, report.messages, report.frames) == ("complete", 2200, 2200)
        whole = await expected(place, trades, ladder)
        assert said(await stored(place)) == meant(whole)
        async with aclosing(reading) as messages:
            got = [(await anext(messages)).payload for _ in range(1500)]
        ticks = [decode_dbn_tick(payload) for payload in got]
        assert [one.prev_seq for one in ticks[1:]] == [one.seq for one in ticks[:-1]]

        again = await by_hand(place, "two", "--dbn", str(trades), "--dbn-kind", "futures")
        assert (again.outcome, again.messages, again.position) == ("complete", 1500, 1500)
        assert said(await stored(place)) == meant(whole) + meant(await expected(place, trades))


async def by_hand(place: Site, *words: str) -> ReplayReport:
    """Run `ledgerflux replay start`, unpaced; return the report that it prints."""
    command = ("-m", "cli.main", "replay", "start", *words, "--speed", "0", "--json")
    env = {**os.environ, "TEMPORAL_ADDRESS": place.settings.temporal_address}
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, env=env, stdout=subprocess.PIPE
    )
    async with asyncio.timeout(PATIENCE_S):
        out, _ = await process.communicate()
    assert process.returncode == 0
    return ReplayReport.model_validate_json(out)


async def failure(handle: WorkflowHandle[Any, Any]) -> ApplicationError:
    """Return how a replay failed."""
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()
    error = caught.value.cause
    assert isinstance(error, ApplicationError)
    assert error.type == REPLAY_FAILED
    return error


async def test_file_that_is_cut_fails_with_what_was_published(
    replays: Site, tmp_path: Path
) -> None:
    """Every whole record before the cut is there; the failure names file, record and count."""
    before = 0
    for name, least in (("cut.dbn", 5997), ("cut.dbn.zst", 2730)):
        whole = dbn.write(tmp_path / f"whole-{name}", map(dbn.trade, range(6000)))
        path = tmp_path / name
        path.write_bytes(whole.read_bytes()[:-100])
        error = await failure(await start(replays, f"replay/{name}", path))
        report = ReplayReport.model_validate(error.details[0])
        got = (await stored(replays))[before:]
        assert said(got) == meant(await expected(replays, whole))[: len(got)]
        assert report.messages == report.position == len(got) >= least
        assert f"{path}: record {len(got) + 1} at byte " in error.message
        assert f"up to there: {len(got):,} frames" in error.message
        before += len(got)


async def test_what_cannot_be_meant_fails_at_once(replays: Site, tmp_path: Path) -> None:
    """Final, in a sentence that names the file; nothing is published."""
    cases: tuple[tuple[bytes, Any, str], ...] = (
        (b"", "futures", "is empty"),
        (b"no such file at all", "futures", "is no DBN file"),
        (b"DBN\x09" + dbn.metadata()[4:], "futures", "is of DBN version 9"),
        (dbn.metadata() + bytes(dbn.trade(0)), None, "say with dbn_kind what these"),
    )
    for number, (data, kind, why) in enumerate(cases):
        path = tmp_path / f"{number}.dbn"
        path.write_bytes(data)
        error = await failure(await start(replays, f"replay/{number}", path, dbn_kind=kind))
        assert f"{path}: " in error.message
        assert why in error.message
    gone = await start(replays, "replay/gone", f"s3://{replays.settings.s3_bucket}/none.dbn")
    assert "none.dbn: there is no such object" in (await failure(gone)).message
    assert await position(replays) == 0


@pytest.fixture
async def replays(tmp_path: Path) -> AsyncIterator[Site]:
    """Give servers and a worker."""
    async with replaying(tmp_path) as place:
        yield place


async def test_second_writer_is_refused_while_the_first_one_runs(
    replays: Site, tmp_path: Path
) -> None:
    """Two replays never mix; what was published is told when one is aborted."""
    path = dbn.write(tmp_path / "t.dbn", map(dbn.trade, range(20_000)))
    first = await start(replays, "replay/first", path, speed=1)

    async def speaks() -> bool:
        return await position(replays) > 10

    await eventually(speaks)
    error = await failure(await start(replays, "replay/second", path))
    assert "MD_DERIVATIVES is being written by the replay replay/first" in error.message
    await first.signal("abort", "seen enough")
    report = await first.result()
    assert report.outcome == "aborted"
    got = await stored(replays)
    assert len(got) == report.position
    assert said(got) == meant(await expected(replays, path))[: len(got)]


async def test_speed_is_that_of_the_capture(replays: Site, tmp_path: Path) -> None:
    """Twenty seconds of capture at speed 10 take two, and half of them one."""
    path = dbn.write(tmp_path / "t.dbn", (dbn.trade(20 * at) for at in range(1001)))
    report = await (await start(replays, "replay/paced", path, speed=10)).result()
    assert report.outcome == "complete"
    got = await stored(replays)
    first_us = got[0].time_us
    took_s = (got[-1].time_us - first_us) / 1e6
    # Never early; how much later than that it comes is the machine's affair.
    assert took_s >= 1.96
    half_s = (got[500].time_us - first_us) / 1e6
    assert half_s >= 0.9


class ReplayProcess(ArchiveProcess):
    """The replay worker as a process of its own, which a test can kill."""

    def __init__(self, place: Site, root: Path) -> None:
        super().__init__(root, place.settings)
        self._command = [sys.executable, "-m", "workers.replay"]


async def test_killed_in_the_middle_it_goes_on_at_the_exact_record(tmp_path: Path) -> None:
    """After a `kill -9` of the worker every record is there once, in order, and none else."""
    path = dbn.write(tmp_path / "t.dbn.zst", map(dbn.trade, range(3000)))
    async with replaying(tmp_path, workers=False) as place:
        handle = await start(place, "replay/killed", path, speed=1)

        async def is_midway() -> bool:
            return await position(place) > 1000

        with ReplayProcess(place, tmp_path) as worker:
            await eventually(is_midway)
            worker.kill()
        assert await position(place) < 3000
        with ReplayProcess(place, tmp_path):
            async with asyncio.timeout(PATIENCE_S):
                report = await handle.result()
        assert (report.outcome, report.messages) == ("complete", 3000)
        assert said(await stored(place)) == meant(await expected(place, path))
