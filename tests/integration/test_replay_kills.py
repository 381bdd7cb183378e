"""A replay that is killed ten times on its way: worker, log and Temporal; nobody can tell."""

import asyncio
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from models.replaying import REPLAY, REPLAY_QUEUE, ReplayReport
from models.subjects import Streams
from streaming.broker.jetstream import JetStreamLog
from tests.archiving import Site
from tests.past import ReplayProcess, Told, in_lake, in_namespace, replaying
from tests.servers import Process, eventually, port_open

pytestmark = pytest.mark.long

STREAM = Streams.of_replay("replay-killed").raw
SPEED = 800
"""Two hours last nine seconds, beside what the kills cost."""


async def test_killed_ten_times_it_is_the_archive_to_the_byte(tmp_path: Path, told: Told) -> None:
    """Each frame once, in order, raw and canonical; the counts are exact, too."""
    async with replaying(tmp_path, told, workers=False) as where:
        raw, ticks = await in_lake(where.lake, "raw"), await in_lake(where.lake, "ticks")
        zombie, worker = (ReplayProcess(tmp_path, where.settings) for _ in range(2))
        with zombie, ExitStack() as exits:
            exits.callback(worker.stop)
            handle = await where.client.start_workflow(
                REPLAY,
                {"name": "killed", "speed": SPEED},
                id="replay/killed",
                task_queue=REPLAY_QUEUE,
                result_type=ReplayReport,
            )
            victims: list[tuple[Process, int | None]] = [
                (worker, None),
                (where.nats, where.nats.port),
                (where.temporal, where.temporal.port),
            ]
            killed_at = [await _succeeded(where, zombie, worker)]
            for number in range(10):
                killed_at.append(await _moved_on(where, killed_at[-1]))
                victim, port = victims[number % 3]
                victim.kill()
                victim.start()
                if port is not None:
                    await port_open(port)
            report = await handle.result()
        assert killed_at == sorted(set(killed_at))
        assert killed_at[-1] < report.messages
        assert report.outcome == "complete"
        assert await in_namespace(where.log, "replay-killed", "raw") == raw
        assert await in_namespace(where.log, "replay-killed") == ticks
        assert report.frames == sum(map(len, raw.values()))
        said = sum(b'"type":"tick"' in line for lines in ticks.values() for line in lines)
        assert report.ticks == said


async def _succeeded(where: Site, zombie: Process, heir: Process) -> int:
    """Stop the worker that replays, have another take over, and wake it: it must not be heard."""
    position = await _moved_on(where, 0)
    zombie.send(signal.SIGSTOP)
    heir.start()
    position = await _moved_on(where, await _end(where.log))
    zombie.send(signal.SIGCONT)
    position = await _moved_on(where, position)
    assert zombie.stop() == 0
    return position


async def _moved_on(where: Site, position: int) -> int:
    """Wait until the raw stream has grown beyond a position; return where it is."""
    found = 0

    async def grown() -> bool:
        nonlocal found
        found = await _end(where.log)
        return found > position

    await eventually(grown)
    return found


async def _end(log: JetStreamLog) -> int:
    try:
        return await log.end(STREAM)
    except Exception:  # noqa: BLE001  # not there yet, or its server was killed just now
        await asyncio.sleep(0.1)
        return 0
