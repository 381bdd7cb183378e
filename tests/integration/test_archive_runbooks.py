"""Every command of the archive's runbooks, run as written; and the worker as a process."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from temporalio.client import Client
from typer.testing import CliRunner

from cli.main import app
from models.archiving import ArchiveProgress
from tests.archiving import ArchiveProcess, Site, publish, site
from tests.commands import run
from tests.servers import PATIENCE_S, eventually, free_port, port_open
from workflows.schedules import ensure_schedules, lanes_of

pytestmark = pytest.mark.long

RUNBOOKS = Path(__file__).parents[2] / "docs" / "runbooks"
LABELS = '{shard="0",stream="ticks",venue="coinbase"}'
NAMES = ("archive-behind", "archive-hole", "audit-failed")


def commands() -> list[str]:
    """Return the runbooks' commands in order; our own ones, which may be repeated, once."""
    found: list[str] = []
    for name in NAMES:
        text = (RUNBOOKS / f"{name}.md").read_text(encoding="utf-8")
        boxes = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        lines = [line for box in boxes for line in box.splitlines()]
        found += [one for one in lines if one not in found or not one.startswith("ledgerflux")]
    return found


async def lanes(**env: str) -> dict[str, dict[str, object]]:
    """Return what `ledgerflux archive` tells of each lane."""
    _, out, _ = await run("ledgerflux archive --json", **env)
    return {row["schedule"]: row for row in map(json.loads, out.splitlines())}


async def metrics(worker: ArchiveProcess) -> dict[str, float]:
    """Read the worker's samples."""
    async with httpx.AsyncClient(timeout=PATIENCE_S) as http:
        text = (await http.get(f"http://127.0.0.1:{worker.metrics_port}/metrics")).text
    samples = (line.rpartition(" ") for line in text.splitlines() if line.startswith("md_"))
    return {name: float(value) for name, _, value in samples}


async def lag_is(worker: ArchiveProcess, right: Callable[[float], bool]) -> None:
    """Wait until the lag of the ticks is right."""

    async def check() -> bool:
        return right((await metrics(worker)).get(f"md_archive_lag_seconds{LABELS}", -1.0))

    await eventually(check)


async def test_every_command_of_the_runbooks_works_as_written(tmp_path: Path) -> None:
    """Started by its schedules alone, the worker archives; each command ends with status 0."""
    async with site(tmp_path, workers=False) as running:
        await publish(running, 20)
        settings = running.settings
        secret = settings.s3_secret_key
        assert secret is not None
        env = {
            "TEMPORAL_ADDRESS": settings.temporal_address,
            "NATS_URLS": settings.nats_urls[0],
            "S3_ENDPOINT": str(settings.s3_endpoint),
            "S3_BUCKET": settings.s3_bucket,
            "S3_ACCESS_KEY": str(settings.s3_access_key),
            "S3_SECRET_KEY": secret.get_secret_value(),
            "LANE": "ticks/coinbase/0",
        }
        with ArchiveProcess(tmp_path, settings, ARCHIVE_FLUSH_S="0.2") as worker:

            async def archived() -> bool:
                row = (await lanes(**env)).get("archive/ticks/coinbase/0")
                told = None if row is None else row["progress"]
                progress = ArchiveProgress.model_validate(told)
                env["ID"] = str(row and row["workflow_id"])
                return progress.position == 20

            await eventually(lambda: _stored(worker, 40))
            await eventually(lambda: _quietly(archived))
            for command in commands():
                status, out, err = await run(command, **env)
                assert status == 0, f"{command}\n{out}\n{err}"
            told = await lanes(**env)
            assert set(told) == {"archive/raw/coinbase/0", "archive/ticks/coinbase/0"}
            await publish(running, 10)
            await lag_is(worker, lambda lag_s: lag_s == 0.0)
            assert (await metrics(worker))[f"md_archive_rows_total{LABELS}"] >= 40
            running.store.away = True
            await publish(running, 1)
            await lag_is(worker, lambda lag_s: lag_s > 2.0)
            assert await _paused_stays_paused(running.client, running)
        assert worker.returncode == 0
        _, _, err = await run("ledgerflux audit", **{**env, "TEMPORAL_ADDRESS": "127.0.0.1:1"})
        assert "TEMPORAL_ADDRESS" in err
        assert "Traceback" not in err


async def _stored(worker: ArchiveProcess, rows: int) -> bool:
    """Tell whether the worker counts so many rows of ticks; far cheaper than the command."""
    try:
        return (await metrics(worker)).get(f"md_archive_rows_total{LABELS}", 0) >= rows
    except httpx.HTTPError:
        return False


async def _quietly(check: object) -> bool:
    try:
        return bool(await check())  # type: ignore[operator]
    except ValueError:
        return False


async def _paused_stays_paused(client: Client, running: Site) -> bool:
    """Tell whether a worker's start leaves a schedule as a person has set it."""
    handle = client.get_schedule_handle("archive/ticks/coinbase/0")
    await handle.pause(note="by hand")
    await ensure_schedules(client, running.settings, lanes_of(running.settings, []))
    return (await handle.describe()).schedule.state.paused


def test_loss_is_not_accepted_where_nothing_may_be_changed() -> None:
    """The two options contradict each other; nobody is asked anything."""
    result = CliRunner().invoke(app, ["audit", "--accept-loss", "--no-repair"])
    assert result.exit_code == 2
    assert "--no-repair" in result.output


async def test_lag_of_the_archive_is_told_while_temporal_is_away(tmp_path: Path) -> None:
    """What the lake has is known from the lake, so only what came since counts."""
    async with site(tmp_path, workers=False) as running:
        await publish(running, 20)
        settings = running.settings
        with ArchiveProcess(tmp_path, settings, ARCHIVE_FLUSH_S="0.2") as worker:
            await eventually(lambda: _stored(worker, 20))
        published_s = time.time()
        await publish(running, 1)
        away = settings.model_copy(update={"temporal_address": f"127.0.0.1:{free_port()}"})
        with ArchiveProcess(tmp_path, away) as worker:
            await port_open(worker.metrics_port)
            await lag_is(worker, lambda lag_s: lag_s >= 0)
            lag_s = (await metrics(worker))[f"md_archive_lag_seconds{LABELS}"]
            assert lag_s < time.time() - published_s + 0.5
            await lag_is(worker, lambda later_s: later_s > lag_s + 1)
