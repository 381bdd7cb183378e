"""What the processes that work for Temporal do alike: their workers, and when these begin and end.

Whoever waits for Temporal is told to stop as promptly as one that works.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from datetime import timedelta
from typing import Any

from temporalio.client import Client
from temporalio.worker import Worker

GRACE = timedelta(seconds=2)
"""So long activities may go on once their worker is told to stop."""

STICKY = timedelta(seconds=1)
"""A worker that was killed must not keep its workflows waiting for the ten seconds of default."""

HEARTBEATS = timedelta(seconds=0.5)
"""Heartbeats are sent up to this often: the answer to one tells an activity of its cancellation."""


def queue_worker(
    client: Client,
    queue: str,
    activities: Sequence[Callable[..., Any]],
    workflows: Sequence[type] = (),
    *,
    at_once: int,
    cached: int = 1000,
    **more: Any,  # noqa: ANN401  # options of Worker
) -> Worker:
    """Return the worker of a task queue that runs so many activities at once."""
    return Worker(
        client,
        task_queue=queue,
        workflows=workflows,
        activities=activities,
        max_cached_workflows=cached,
        sticky_queue_schedule_to_start_timeout=STICKY,
        max_concurrent_activities=at_once,
        graceful_shutdown_timeout=GRACE,
        max_heartbeat_throttle_interval=HEARTBEATS,
        **more,
    )


async def work_until(
    stop: asyncio.Event, workers: Sequence[Worker], *beside: Coroutine[Any, Any, None]
) -> None:
    """Run workers, and what is beside them, until told to stop; that ends first."""
    async with asyncio.TaskGroup() as tasks:
        for worker in workers:
            tasks.create_task(worker.run())
        others = [tasks.create_task(work) for work in beside]
        await stop.wait()
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others)
        for worker in workers:
            tasks.create_task(worker.shutdown())


async def until(stop: asyncio.Event, work: Coroutine[Any, Any, Client]) -> Client | None:
    """Return the result of work, or none if the order to stop came first."""
    task, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    await asyncio.wait([task, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if task.done():
        return task.result()
    task.cancel()
    await asyncio.wait([task])
    return None
