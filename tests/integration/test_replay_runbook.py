"""Every command of the replay's runbook, run as written; and how the command behaves beside it."""

import asyncio
import json
import os
import re
import signal
import sysconfig
from contextlib import suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.replay import app
from models.replaying import ReplayProgress
from models.subjects import Streams
from storage.history import text_of
from tests.archiving import Site
from tests.commands import run
from tests.past import BEGIN, ReplayProcess, Told, replaying
from tests.servers import eventually

pytestmark = pytest.mark.long

RUNBOOK = Path(__file__).parents[2] / "docs" / "runbooks" / "replay.md"
_MINUTE_US = 60_000_000


def commands() -> list[str]:
    """Return the commands of the replay's half."""
    text = RUNBOOK.read_text(encoding="utf-8").partition("## Canary")[0]
    boxes = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return [line for box in boxes for line in box.splitlines()]


async def test_every_command_of_the_runbook_works_as_written(tmp_path: Path, told: Told) -> None:
    """In the order of the page, each ends with status 0; by then nothing of `monday` is left."""
    async with replaying(tmp_path, told, workers=False) as where:
        env = {
            "TEMPORAL_ADDRESS": where.settings.temporal_address,
            "SINCE": text_of(BEGIN.start_us),
            "UNTIL": text_of(BEGIN.start_us + 60 * _MINUTE_US),
        }
        with ReplayProcess(tmp_path, where.settings) as worker:
            said = {}
            for command in commands():
                status, out, err = await run(command, **env)
                assert status == 0, f"{command}\n{out}\n{err}"
                said[command] = out
            await _wrong_questions(env)
            await _detached(env, where)
            assert await _shown(env) == 0
        assert worker.returncode == 0
    assert len(commands()) >= 12
    started = next(out for command, out in said.items() if "start monday" in command)
    assert started.startswith("complete: replayed ")
    shown = ReplayProgress.model_validate_json(said["ledgerflux replay status btc --json"])
    assert shown.namespace == "replay-btc"
    assert "deleted: replay-monday_RAW" in said["ledgerflux replay forget monday"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("start --feed candles", "no such feed"),
        ("start Not_This", "is no namespace of a replay"),
        ("start --since yesterday", "is no time"),
        ("start --speed -1", "speed -1 cannot be"),
        ("start --keep-minutes nan", "keep_minutes nan cannot be"),
        ("forget Not_This", "is no namespace of a replay"),
        ("pause Not_This", "is no namespace of a replay"),
    ],
)
def test_what_cannot_be_meant_is_told_before_anybody_is_asked(words: str, sentence: str) -> None:
    """Exit status 2, and one sentence."""
    result = CliRunner().invoke(app, words.split(), env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert sentence in " ".join(result.output.replace("│", " ").split())


async def _wrong_questions(env: dict[str, str]) -> None:
    """Check the statuses of what fails, and of what is not there."""
    for words, expected, sentence in (
        ("start nothing --since 2001-01-01T00 --until 2001-01-01T01", 1, "nothing of that"),
        ("pause nobody", 2, "replay/nobody does not run"),
        ("status nobody", 2, "there is no replay/nobody"),
    ):
        status, _, err = await run(f"ledgerflux replay {words}", **env)
        assert status == expected, f"{words}\n{err}"
        assert sentence in err
        assert "Traceback" not in err


async def _detached(env: dict[str, str], where: Site) -> None:
    """Check that Ctrl-C leaves the replay running, with a sentence."""
    command = Path(sysconfig.get_path("scripts")) / "ledgerflux"
    process = await asyncio.create_subprocess_exec(
        command,
        *("replay", "start", "slow", "--speed", "1", "--json"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **env},
    )
    handle = where.client.get_workflow_handle("replay/slow")

    async def runs() -> bool:
        return await where.log.end(Streams.of_replay("replay-slow").raw) > 0

    await eventually(lambda: _quietly(runs))
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    assert process.returncode == 0
    assert out == b""
    assert b"replay/slow goes on" in err
    assert json.loads(json.dumps(await handle.query("progress")))["state"] == "running"
    status, _, _ = await run("ledgerflux replay abort slow", **env)
    assert status == 0
    await handle.result()


async def _shown(env: dict[str, str]) -> int:
    """Run on a terminal, where a bar shows the progress; return the exit status."""
    command = Path(sysconfig.get_path("scripts")) / "ledgerflux"
    ours, theirs = os.openpty()
    process = await asyncio.create_subprocess_exec(
        command,
        *("replay", "start", "shown", "--until", env["UNTIL"], "--speed", "2000"),
        stdout=theirs,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, **env, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # the other end is closed
        while data := await asyncio.to_thread(os.read, ours, 65536):
            shown += data
    os.close(ours)
    assert b"frames/s" in shown
    assert b"complete: replayed" in shown
    return await process.wait()


async def _quietly(check: object) -> bool:
    try:
        return bool(await check())  # type: ignore[operator]
    except Exception:  # noqa: BLE001  # the stream is not there yet
        return False
