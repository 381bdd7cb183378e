"""The candidate process: judges slices of the past by the build that it is run from.

Run it from the build to be judged, as many as there are cores; they share the slices of their
queue. Needs Temporal and the lake, and neither NATS nor a venue.
"""

import argparse
import asyncio
from contextlib import AsyncExitStack
from functools import partial

import structlog
from temporalio.client import Client
from temporalio.worker import Worker

from activities.candidate import CandidateActivities, MakeCore
from models.canary import CANDIDATE_QUEUE
from models.settings import Settings
from storage.lake import Lake
from storage.objects import ObjectStore
from streaming.core.hold import Hold
from streaming.core.normalizer import DEFAULT_HOLD, ProductNormalizer
from streaming.metrics import serve_metrics
from workers.process import run_worker
from workers.queues import queue_worker, until, work_until
from workers.venue import VENUES
from workflows.connect import connect_patiently, leave

_log = structlog.get_logger(__name__)


def candidate_activities(
    lake: Lake, settings: Settings, make: MakeCore = ProductNormalizer
) -> CandidateActivities:
    """Return the activities that judge by this build and these settings."""
    return CandidateActivities(
        lake,
        {venue.name: venue.decode for venue in VENUES.values()},
        Hold(
            DEFAULT_HOLD.messages,
            settings.resync_max_queue_ms * 1000,
            settings.resync_stale_ms * 1000,
        ),
        ticker_watermark="ticker" in settings.coinbase_channels,
        make=make,
    )


def candidate_worker(client: Client, queue: str, judging: CandidateActivities) -> Worker:
    """Return the worker of a candidate's queue; one slice at a time fills a core."""
    return queue_worker(client, queue, [judging.introduce, judging.judge_slice], at_once=1)


async def candidate(
    settings: Settings, stop: asyncio.Event, *, queue: str, make: MakeCore = ProductNormalizer
) -> None:
    """Judge until told to stop; a slice that is not done by then is judged anew by another."""
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(ObjectStore.connect(settings))
        judging = candidate_activities(Lake(store), settings, make)
        serve_metrics(settings.metrics_port, (judging.frames,), host=settings.metrics_host)
        client = await until(stop, connect_patiently(settings))
        if client is not None:
            _log.info("judging", queue=queue)
            await work_until(stop, [candidate_worker(client, queue, judging)])


def main() -> int:
    """Run; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m workers.candidate", description=__doc__)
    parser.add_argument("--queue", default=CANDIDATE_QUEUE, help="task queue to serve")
    return run_worker("candidate", partial(candidate, queue=parser.parse_args().queue))


if __name__ == "__main__":
    leave(main())
