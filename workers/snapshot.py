"""The snapshot process: MD_TICKS into the latest-state store."""

import asyncio
import sys
from contextlib import AsyncExitStack

from models.settings import Settings
from storage.errors import StorageError
from storage.latest_store import latest_store
from streaming.broker.jetstream import JetStreamLog
from streaming.metrics import serve_metrics
from workers.process import STOP_WITHIN_S, run_worker
from workers.snapshotter import Snapshotter

READER = "snapshot"
"""What this process calls itself where it reads the log."""


async def snapshot(settings: Settings, stop: asyncio.Event) -> None:
    """Keep the rows up to date until told to stop."""
    async with AsyncExitStack() as stack:
        log = await JetStreamLog.of(settings, name=READER)
        await stack.enter_async_context(log)
        await log.ensure_streams(settings)
        store = await stack.enter_async_context(latest_store(settings, create=True))
        period_s = settings.snapshot_period_ms / 1000
        snapshotter = Snapshotter(log, settings.streams, store, period_s)
        serve_metrics(settings.metrics_port, snapshotter.metrics, host=settings.metrics_host)
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(snapshotter.read()),
                tasks.create_task(snapshotter.write()),
                tasks.create_task(snapshotter.unread.watch()),
            ]
            await stop.wait()
            for task in running:
                task.cancel()
            await asyncio.wait(running)
            async with asyncio.timeout(STOP_WITHIN_S):
                await snapshotter.flush()


def main() -> int:
    """Run; return the exit status."""
    return run_worker("snapshot", snapshot, told=(StorageError,))


if __name__ == "__main__":
    sys.exit(main())
