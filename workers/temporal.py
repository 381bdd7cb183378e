"""The Temporal worker process: the dispatcher, the workflows and their activities.

Two workers, because requests to the venue have a task queue of their own: the server limits its
rate over all processes together. Eager starts would bypass that limit, and are not used there.
"""

import asyncio
from contextlib import AsyncExitStack

from temporalio.client import Client
from temporalio.worker import Worker

from activities.chain import ChainActivities
from activities.giving_up import GivingUpActivities
from activities.outcome import OutcomeActivities
from activities.venue import VenueActivities
from models.recovery import RESYNC_QUEUE, VENUE_QUEUE
from models.settings import Settings
from streaming.broker.jetstream import JetStreamLog
from streaming.metrics import serve_metrics
from venues.coinbase.limiter import BURST, RateLimiter
from venues.coinbase.rest import CoinbaseRest
from workers.dispatcher import Dispatcher
from workers.process import run_worker
from workers.queues import queue_worker, until, work_until
from workers.venue import VENUES
from workflows.connect import connect_patiently, leave
from workflows.gap_resync import GapResyncWorkflow
from workflows.stretch_resync import StretchResyncWorkflow

_READS_AT_ONCE = 64
_REQUESTS_AT_ONCE = 32


def resync_worker(
    client: Client,
    log: JetStreamLog,
    settings: Settings,
    outcome: OutcomeActivities,
    *,
    cached: int = 1000,
) -> Worker:
    """Return the worker that decides, reads the log and reports."""
    chain = ChainActivities(log, settings.streams, settings.shard_count)
    giving_up = GivingUpActivities(log, settings.shard_count)
    return queue_worker(
        client,
        RESYNC_QUEUE,
        [
            chain.note_position,
            chain.await_reopening,
            chain.verify_chain,
            giving_up.give_up,
            outcome.note_outcome,
        ],
        [GapResyncWorkflow, StretchResyncWorkflow],
        at_once=_READS_AT_ONCE,
        cached=cached,
    )


def venue_worker(
    client: Client, log: JetStreamLog, settings: Settings, rest: CoinbaseRest
) -> Worker:
    """Return the worker that asks the venue, no faster than all together may."""
    # Exchange's REST is public, and both of Coinbase's feeds speak of the same market.
    venue = VenueActivities(dict.fromkeys(VENUES, rest), log, settings.shard_count)
    return queue_worker(
        client,
        VENUE_QUEUE,
        [venue.fetch_and_publish],
        at_once=_REQUESTS_AT_ONCE,
        max_task_queue_activities_per_second=settings.coinbase_rest_per_s,
    )


async def recover(settings: Settings, stop: asyncio.Event) -> None:
    """Recover gaps until told to stop; what runs at that moment goes on at the next start."""
    outcome = OutcomeActivities(settings.coinbase_products)
    async with AsyncExitStack() as stack:
        log = await JetStreamLog.of(settings, name="temporal-worker")
        await stack.enter_async_context(log)
        await log.ensure_streams(settings)
        rest = await stack.enter_async_context(rest_client(settings))
        collectors = (outcome.total, outcome.seconds)
        serve_metrics(settings.metrics_port, collectors, host=settings.metrics_host)
        client = await until(stop, connect_patiently(settings))
        if client is not None:
            workers = (
                resync_worker(client, log, settings, outcome),
                venue_worker(client, log, settings, rest),
            )
            dispatcher = Dispatcher(log, settings.streams, client, settings.shard_count)
            await work_until(stop, workers, dispatcher.run())


def rest_client(settings: Settings) -> CoinbaseRest:
    """Return a client whose own limit is no lower than that of the task queue."""
    rate = settings.coinbase_rest_per_s
    limiter = RateLimiter(rate, burst=max(BURST, rate))
    return CoinbaseRest(
        settings.coinbase_rest_url, limiter=limiter, timeout_s=settings.coinbase_rest_timeout_s
    )


def main() -> int:
    """Run; return the exit status."""
    return run_worker("temporal", recover)


if __name__ == "__main__":
    leave(main())
