"""The ingestor process: one venue line into MD_RAW."""

import asyncio
import sys

from models.settings import Settings
from streaming.broker.jetstream import JetStreamLog
from streaming.ingest import Ingest
from streaming.metrics import serve_metrics
from venues.coinbase.auth import BadSecretError
from venues.coinbase.feed import CoinbaseFeed, FeedConfigError
from workers.process import EXIT_BAD_SETTINGS, STOP_WITHIN_S, run_worker
from workers.venue import VENUES, feed_config


async def ingest(settings: Settings, stop: asyncio.Event) -> None:
    """Keep the feed of these settings open and store what it brings until told to stop."""
    config, venue = feed_config(settings), VENUES[settings.ingest_venue]
    name = f"ingestor-{settings.ingest_line}"
    async with (
        await JetStreamLog.of(settings, name=name) as log,
        asyncio.TaskGroup() as tasks,
    ):
        await log.ensure_streams(settings)
        products, shards = settings.coinbase_products, settings.shard_count
        line = settings.ingest_line
        sink = Ingest(log, venue.name, products, shards, tasks, route=venue.route, line=line)
        serve_metrics(settings.metrics_port, sink.metrics, host=settings.metrics_host)
        feeding = tasks.create_task(CoinbaseFeed(config, sink).run())
        await stop.wait()
        feeding.cancel()
        await asyncio.wait([feeding])
        async with asyncio.timeout(STOP_WITHIN_S):
            await sink.flush()


def main() -> int:
    """Run; return the exit status."""
    try:
        return run_worker("ingestor", ingest)
    except (FeedConfigError, BadSecretError) as error:
        print(f"ingestor: {error}", file=sys.stderr)  # noqa: T201  # for a person, one sentence
        return EXIT_BAD_SETTINGS


if __name__ == "__main__":
    sys.exit(main())
