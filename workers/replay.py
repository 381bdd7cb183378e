"""The replay process: replays of the lake into namespaces of their own, and canaries' plans.

Any number of these processes share the work. A replay keeps one of them busy: its normalizers run
in the process that publishes.
"""

import asyncio
from contextlib import AsyncExitStack

from temporalio.client import Client
from temporalio.worker import Worker

from activities.canary import CanaryActivities
from activities.replay import ReplayActivities
from models.replaying import REPLAY_QUEUE
from models.settings import Settings
from models.subjects import Streams
from storage.lake import Lake
from storage.objects import ObjectStore
from streaming.broker.jetstream import JetStreamLog
from streaming.metrics import serve_metrics
from streaming.normalize import Normalizer
from workers.normalizer import make_normalizer
from workers.process import run_worker
from workers.queues import queue_worker, until, work_until
from workers.venue import VENUES
from workflows.canary import CanaryReplayWorkflow
from workflows.connect import connect_patiently, leave
from workflows.replay import ForgetReplayWorkflow, ReplayWorkflow

_REPLAYS_AT_ONCE = 8


def replay_activities(log: JetStreamLog, settings: Settings, lake: Lake) -> ReplayActivities:
    """Return the activities, with normalizers made as the live ones of these settings."""

    def make(streams: Streams, venue: str, shard: int, tasks: asyncio.TaskGroup) -> Normalizer:
        return make_normalizer(log, settings, streams, VENUES[venue], shard, tasks)

    return ReplayActivities(log, settings, lake, VENUES, make)


def replay_worker(
    client: Client,
    log: JetStreamLog,
    settings: Settings,
    lake: Lake,
    canary: CanaryActivities | None = None,
    *,
    cached: int = 1000,
) -> Worker:
    """Return the worker that replays, and that plans canaries and tells of their end."""
    replays = replay_activities(log, settings, lake)
    canary = canary or CanaryActivities(lake)
    return queue_worker(
        client,
        REPLAY_QUEUE,
        [
            replays.open_replay,
            replays.replay,
            replays.forget_replay,
            canary.plan_canary,
            canary.note_canary,
        ],
        [ReplayWorkflow, ForgetReplayWorkflow, CanaryReplayWorkflow],
        at_once=_REPLAYS_AT_ONCE,
        cached=cached,
    )


async def replay(settings: Settings, stop: asyncio.Event) -> None:
    """Replay until told to stop; what runs at that moment goes on at the next start."""
    async with AsyncExitStack() as stack:
        log = await JetStreamLog.of(settings, name="replay")
        await stack.enter_async_context(log)
        store = await stack.enter_async_context(ObjectStore.connect(settings))
        canary = CanaryActivities(Lake(store))
        serve_metrics(settings.metrics_port, canary.collectors, host=settings.metrics_host)
        client = await until(stop, connect_patiently(settings))
        if client is not None:
            await work_until(stop, [replay_worker(client, log, settings, Lake(store), canary)])


def main() -> int:
    """Run; return the exit status."""
    return run_worker("replay", replay)


if __name__ == "__main__":
    leave(main())
