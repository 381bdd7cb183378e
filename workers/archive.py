"""The archive process: the lake's workflows, their activities, and their schedules.

Two workers, because each lane's archiving keeps an activity busy all the time, and compaction and
audit, few at once for the memory they take, must not wait behind it. Any number of these
processes share the work.
"""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import timedelta

import structlog
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.worker import Worker

from activities.archive import ArchiveActivities
from activities.audit import AuditActivities
from activities.compaction import CompactionActivities
from models.archiving import ARCHIVE_QUEUE, LAKE_QUEUE, LaneName
from models.settings import Settings
from storage.lake import Lake
from storage.objects import ObjectStore
from streaming.broker.jetstream import JetStreamLog
from streaming.metrics import serve_metrics
from workers.archive_lag import LagMonitor
from workers.process import run_worker
from workers.temporal import until
from workflows.archive import ArchiveWorkflow
from workflows.compact import CompactWorkflow
from workflows.connect import connect_patiently, leave
from workflows.lake_audit import LakeAuditWorkflow
from workflows.schedules import STREAMS, ensure_schedules, lanes_of

_GRACE = timedelta(seconds=2)
_STICKY = timedelta(seconds=1)
_LANES_AT_ONCE = 200
_HOURS_AT_ONCE = 2
_RETRY_S = 1.0
_log = structlog.get_logger(__name__)


def archive_worker(client: Client, archive: ArchiveActivities, *, cached: int = 1000) -> Worker:
    """Return the worker that archives lanes."""
    return Worker(
        client,
        task_queue=ARCHIVE_QUEUE,
        workflows=[ArchiveWorkflow],
        activities=[archive.archive],
        max_cached_workflows=cached,
        sticky_queue_schedule_to_start_timeout=_STICKY,
        max_concurrent_activities=_LANES_AT_ONCE,
        graceful_shutdown_timeout=_GRACE,
    )


def lake_worker(
    client: Client, log: JetStreamLog, settings: Settings, lake: Lake, *, cached: int = 1000
) -> Worker:
    """Return the worker that compacts and audits."""
    compaction = CompactionActivities(lake)
    audit = AuditActivities(log, settings.streams, lake)
    return Worker(
        client,
        task_queue=LAKE_QUEUE,
        workflows=[CompactWorkflow, LakeAuditWorkflow],
        activities=[
            compaction.find_hours,
            compaction.compact_hour,
            compaction.sweep_hour,
            audit.list_hours,
            audit.audit_hour,
        ],
        max_cached_workflows=cached,
        sticky_queue_schedule_to_start_timeout=_STICKY,
        max_concurrent_activities=_HOURS_AT_ONCE,
        graceful_shutdown_timeout=_GRACE,
    )


async def archive(settings: Settings, stop: asyncio.Event) -> None:
    """Archive until told to stop; what runs at that moment goes on at the next start."""
    async with AsyncExitStack() as stack:
        log = await JetStreamLog.of(settings, name="archive")
        await stack.enter_async_context(log)
        await log.ensure_streams(settings)
        store = await stack.enter_async_context(ObjectStore.connect(settings))
        client = await until(stop, connect_patiently(settings))
        if client is not None:
            await _serve(client, log, settings, Lake(store), stop)


async def _serve(
    client: Client, log: JetStreamLog, settings: Settings, lake: Lake, stop: asyncio.Event
) -> None:
    streams = settings.streams
    names = (streams.raw, streams.ticks)
    subjects = [
        subject
        for kind, name in zip(STREAMS, names, strict=True)
        for subject in await log.subjects(name, streams.every(kind))
    ]
    lanes = lanes_of(settings, subjects)
    activities = ArchiveActivities(log, streams, lake)
    monitor = LagMonitor(client, log, streams, lanes)
    collectors = (monitor.lag, activities.rows, activities.bytes_, activities.holes)
    activities.expect(lanes)
    serve_metrics(settings.metrics_port, collectors, host=settings.metrics_host)
    async with asyncio.TaskGroup() as tasks:
        workers = (
            archive_worker(client, activities),
            lake_worker(client, log, settings, lake),
        )
        for worker in workers:
            tasks.create_task(worker.run())
        watching = [
            tasks.create_task(_schedule(client, settings, lanes)),
            tasks.create_task(monitor.run()),
        ]
        await stop.wait()
        for task in watching:
            task.cancel()
        await asyncio.wait(watching)
        for worker in workers:
            tasks.create_task(worker.shutdown())


async def _schedule(client: Client, settings: Settings, lanes: Sequence[LaneName]) -> None:
    """Make the schedules, however often Temporal has to be asked."""
    while True:
        try:
            await ensure_schedules(client, settings, lanes)
        except RPCError as error:
            _log.warning("cannot make the archive's schedules yet", error=str(error))
            await asyncio.sleep(_RETRY_S)
        else:
            return


def main() -> int:
    """Run; return the exit status."""
    return run_worker("archive", archive)


if __name__ == "__main__":
    leave(main())
