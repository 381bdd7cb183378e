"""The ways that replays and their deletion can go; `record` writes a history of each."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from temporalio.client import WorkflowHandle

from models.replaying import FORGET_REPLAY, REPLAY, REPLAY_QUEUE, ForgetInput, forget_id
from tests.archiving import Site
from tests.past import replaying, tell
from tests.servers import eventually

Handle = WorkflowHandle[Any, Any]


async def _start(where: Site, name: str, **wanted: Any) -> Handle:
    return await where.client.start_workflow(
        REPLAY,
        {"name": name, "speed": 0, **wanted},
        id=f"replay/{name}",
        task_queue=REPLAY_QUEUE,
    )


async def _state(handle: Handle, state: str) -> None:
    async def there() -> bool:
        told = await handle.query("progress")
        return bool(told["state"] == state and (told["frames"] or state != "running"))

    await eventually(there)


async def _replayed(where: Site) -> Handle:
    return await _start(where, "replayed")


async def _replay_paused(where: Site) -> Handle:
    handle = await _start(where, "paused", speed=10)
    await _state(handle, "running")
    await handle.signal("pause", "by hand")
    await _state(handle, "paused")
    await handle.signal("resume", 0)
    return handle


async def _replay_aborted(where: Site) -> Handle:
    handle = await _start(where, "aborted", speed=10)
    await _state(handle, "running")
    await handle.signal("abort", "by hand")
    return handle


async def _replay_cancelled(where: Site) -> Handle:
    handle = await _start(where, "cancelled", speed=10)
    await _state(handle, "running")
    await handle.cancel()
    return handle


async def _replay_failed(where: Site) -> Handle:
    return await _start(where, "failed", products=["DOGE-USD"])


async def _replay_refused(where: Site) -> Handle:
    return await _start(where, "refused", feeds=["candles"])


async def _forgotten(where: Site) -> Handle:
    return await where.client.start_workflow(
        FORGET_REPLAY,
        ForgetInput(namespace="replay-nothing", keep_minutes=60),
        id=forget_id("replay-nothing"),
        task_queue=REPLAY_QUEUE,
        start_signal="now",
    )


async def _forgotten_in_time(where: Site) -> Handle:
    return await where.client.start_workflow(
        FORGET_REPLAY,
        ForgetInput(namespace="replay-never", keep_minutes=0.01, owner="nobody"),
        id=forget_id("replay-never"),
        task_queue=REPLAY_QUEUE,
    )


REPLAY_PATHS: tuple[Callable[[Site], Awaitable[Handle]], ...] = (
    *(_replayed, _replay_paused, _replay_aborted, _replay_cancelled, _replay_failed),
    *(_replay_refused, _forgotten, _forgotten_in_time),
)
"""Every way; a history is named after each."""


@asynccontextmanager
async def replays(root: Path) -> AsyncIterator[Site]:
    """Give a small past, and a worker that replays it."""
    (root / "told").mkdir()
    told = await tell(root / "told", frames=2000)
    (root / "again").mkdir()
    async with replaying(root / "again", told) as where:
        yield where
