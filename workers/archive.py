"""The archive process: the lake's workflows, their activities, and their schedules.

Two workers, because each lane's archiving keeps an activity busy all the time, and compaction and
audit, few at once for the memory they take, must not wait behind it. Any number of these
processes share the work.
"""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

import structlog
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.worker import Worker

from activities.archive import ArchiveActivities
from activities.audit import AuditActivities
from activities.compaction import CompactionActivities
from models.archiving import ARCHIVE_QUEUE, LAKE_QUEUE, LaneName
from models.settings import Settings
from models.subjects import Streams
from storage.lake import Lake
from storage.objects import ObjectStore
from streaming.broker.jetstream import JetStreamLog
from streaming.metrics import serve_metrics
from workers.archive_lag import LagMonitor
from workers.process import run_worker
from workers.queues import queue_worker, until, work_until
from workflows.archive import ArchiveWorkflow
from workflows.compact import CompactWorkflow
from workflows.connect import connect_patiently, leave
from workflows.lake_audit import LakeAuditWorkflow
from workflows.schedules import STREAMS, ensure_schedules, lanes_of

_LANES_AT_ONCE = 200
_HOURS_AT_ONCE = 2
_RETRY_S = 1.0
_log = structlog.get_logger(__name__)


def archive_worker(client: Client, archive: ArchiveActivities, *, cached: int = 1000) -> Worker:
    """Return the worker that archives lanes."""
    return queue_worker(
        client,
        ARCHIVE_QUEUE,
        [archive.archive],
        [ArchiveWorkflow],
        at_once=_LANES_AT_ONCE,
        cached=cached,
    )


def lake_worker(
    client: Client, log: JetStreamLog, settings: Settings, lake: Lake, *, cached: int = 1000
) -> Worker:
    """Return the worker that compacts and audits."""
    compaction = CompactionActivities(lake)
    audit = AuditActivities(log, settings.streams, lake)
    return queue_worker(
        client,
        LAKE_QUEUE,
        [
            compaction.find_hours,
            compaction.compact_hour,
            compaction.sweep_hour,
            audit.list_hours,
            audit.audit_hour,
        ],
        [CompactWorkflow, LakeAuditWorkflow],
        at_once=_HOURS_AT_ONCE,
        cached=cached,
    )


async def archive(settings: Settings, stop: asyncio.Event) -> None:
    """Archive until told to stop; what runs at that moment goes on at the next start."""
    async with AsyncExitStack() as stack:
        log = await JetStreamLog.of(settings, name="archive")
        await stack.enter_async_context(log)
        await log.ensure_streams(settings)
        store = await stack.enter_async_context(ObjectStore.connect(settings))
        lanes, lake = lanes_of(settings, await _subjects(log, settings.streams)), Lake(store)
        activities = ArchiveActivities(log, settings.streams, lake)
        activities.expect(lanes)
        monitor = LagMonitor(log, settings.streams, lake, lanes)
        collectors = (monitor.lag, activities.rows, activities.bytes_, activities.holes)
        # Before Temporal: while that is away the lag is what somebody has to be told.
        serve_metrics(settings.metrics_port, collectors, host=settings.metrics_host)
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(monitor.run())
            client = monitor.client = await until(stop, connect_patiently(settings))
            if client is not None:
                workers = (
                    archive_worker(client, activities),
                    lake_worker(client, log, settings, lake),
                )
                await work_until(stop, workers, _schedule(client, settings, lanes))
            watching.cancel()


async def _subjects(log: JetStreamLog, streams: Streams) -> list[str]:
    """Return the subjects of all that is archived."""
    names = (streams.raw, streams.ticks)
    return [
        subject
        for kind, name in zip(STREAMS, names, strict=True)
        for subject in await log.subjects(name, streams.every(kind))
    ]


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
