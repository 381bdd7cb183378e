"""The canary as people and gates run it: real candidate processes, the command, the runbook."""

import asyncio
import contextlib
import json
import os
import pty
import re
from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from models.canary import CanaryReport
from tests.canaries import CandidateProcess, Court, court
from tests.commands import run
from tests.judged_past import BEGIN, Story
from tests.servers import eventually, free_port

pytestmark = pytest.mark.long

pytestmark = pytest.mark.asyncio(loop_scope="module")

RUNBOOK = Path(__file__).parents[2] / "docs" / "runbooks" / "replay.md"
_HOUR_US = 3_600_000_000


@cache
def story() -> Story:
    """Return an hour and a half with losses and recoveries."""
    return Story(frames=6000, hours=1.5)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def past(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Court]:
    """Give a past that all tests of this file only read."""
    async with court(tmp_path_factory.mktemp("past"), story()) as found:
        yield found


def commands() -> list[str]:
    """Return the commands of the runbook's canary half."""
    text = RUNBOOK.read_text(encoding="utf-8").partition("\n## Canary\n")[2]
    boxes = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return [line for box in boxes for line in box.splitlines()]


def environment(past: Court) -> dict[str, str]:
    """Return what commands need."""
    return {
        "TEMPORAL_ADDRESS": past.settings.temporal_address,
        "SINCE": str(BEGIN.start_us + _HOUR_US),
        "UNTIL": str(BEGIN.start_us + _HOUR_US + _HOUR_US // 4),
    }


async def under_way(past: Court, name: str) -> int:
    """Return how many frames of slices that are not done have been judged."""
    shown = await past.client.get_workflow_handle(name).describe()
    details = [
        msgspec.json.decode(payload.data, type=int)
        for one in shown.raw_description.pending_activities
        for payload in one.heartbeat_details.payloads
    ]
    return sum(details)


async def attempts(past: Court, name: str) -> list[int]:
    """Return how often each activity of a workflow was tried."""
    history = await past.client.get_workflow_handle(name).fetch_history()
    return [
        event.activity_task_started_event_attributes.attempt
        for event in history.events
        if event.HasField("activity_task_started_event_attributes")
    ]


async def test_killed_candidate_changes_nothing(past: Court, tmp_path: Path) -> None:
    """Killed in the middle of a slice, the slice is judged again alone; the report is the same."""
    handle = await past.start("killed", candidate_queue="killed")
    slow = CandidateProcess(tmp_path, past.settings, "killed", "slow", module="tests.candidates")
    with slow:

        async def in_the_middle() -> bool:
            return await under_way(past, "killed") > 0

        await eventually(in_the_middle)
        slow.kill()
    async with past.candidate("killed"):
        report = await handle.result()
    assert max(await attempts(past, "killed")) > 1
    async with past.candidate("whole"):
        whole = await past.judge("whole", candidate_queue="whole")
    assert (report.verdict, report.counts) == ("agrees", whole.counts)
    assert report.frames == whole.frames


async def test_every_command_of_the_runbook_works_as_written(past: Court, tmp_path: Path) -> None:
    """In the order of the page, with a candidate process of today's build; each ends with 0."""
    told: dict[str, str] = {}
    process = CandidateProcess(tmp_path, past.settings, module="workers.candidate")
    with process:
        for command in commands():
            status, out, err = await run(command, **environment(past))
            assert status == 0, f"{command}\n{out}\n{err}"
            told[command] = out
    assert process.returncode == 0
    assert len(commands()) >= 7
    report = CanaryReport.model_validate_json(told["ledgerflux canary --queue candidate --json"])
    assert report.verdict == "agrees"
    assert f"agrees: all {report.total.equal:,} canonical messages" in told["ledgerflux canary"]
    plain = told["temporal workflow result --workflow-id by-hand/canary"]
    assert '"verdict":"agrees"' in re.sub(r"\s", "", plain)


async def test_exit_status_tells_a_gate_what_happened(past: Court, tmp_path: Path) -> None:
    """1: it diverges, with both messages; 2: the question is wrong; 3: not judged."""
    env = environment(past)
    wrong = CandidateProcess(tmp_path, past.settings, "wrong", "wrong", module="tests.candidates")
    with wrong:
        status, out, err = await run("ledgerflux canary --queue wrong --json", **env)
        assert status == 1, err
        report: dict[str, Any] = json.loads(out)
        assert report["verdict"] == "diverges"
        assert report["first"]["kind"] == "changed"
        assert '"side":"sell"' in report["first"]["actual"]
        assert '"type":"match"' in report["first"]["raw"] or "ticker" in report["first"]["raw"]
        status, out, _ = await run("ledgerflux canary --queue wrong", **env)
        assert status == 1
        assert "diverges: " in out
        assert "differences: canary/" in out
    for command, wanted, sentence in (
        ("ledgerflux canary --product BTC-XYZ", 2, "nothing of product BTC-XYZ"),
        ("ledgerflux canary --since yesterday", 2, "is no time"),
        ("ledgerflux canary --queue none --wait-s 0.2", 3, "nobody serves the task queue 'none'"),
    ):
        status, _, err = await run(command, **env)
        assert (status, sentence in err) == (wanted, True), f"{command}: {status}\n{err}"
        assert "Traceback" not in err
    away = {**env, "TEMPORAL_ADDRESS": f"127.0.0.1:{free_port()}"}
    status, _, err = await run("ledgerflux canary", **away)
    assert status == 3
    assert "TEMPORAL_ADDRESS" in err


async def test_bar_shows_how_far_it_is(past: Court, tmp_path: Path) -> None:
    """On a terminal, frames and differences are seen to grow; a pipe gets none of it."""
    master, slave = pty.openpty()
    terminal = os.ttyname(slave)
    slow = CandidateProcess(tmp_path, past.settings, "bar", "slow", module="tests.candidates")
    with slow:
        command = f"ledgerflux canary --queue bar --product ETH-USD 2>{terminal}"
        reading = asyncio.create_task(asyncio.to_thread(_read_all, master))
        status, out, err = await run(command, **environment(past), TERM="xterm", COLUMNS="200")
        os.close(slave)
        shown = await reading
    assert (status, err) == (0, "")
    assert "comparing" in shown
    assert "0 differences" in shown
    assert len(set(re.findall(r"([\d,]+) frames", shown))) > 1
    assert "agrees: all" in out


def _read_all(master: int) -> str:
    """Read what a terminal is shown until nobody writes to it any more."""
    shown = b""
    # A terminal that all have left ends with an error.
    with os.fdopen(master, "rb", buffering=0) as reader, contextlib.suppress(OSError):
        while some := reader.read(65536):
            shown += some
    return shown.decode()
