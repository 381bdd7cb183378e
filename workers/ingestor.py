"""The ingestor process: one venue line into MD_RAW."""

import asyncio
import sys

from models.settings import Settings
from streaming.broker.jetstream import JetStreamLog
from streaming.ingest import Ingest
from streaming.metrics import serve_metrics
from venues.coinbase.auth import Credentials
from venues.coinbase.feed import CoinbaseFeed, FeedConfig
from venues.coinbase.mapper import VENUE
from workers.process import STOP_WITHIN_S, run_worker


def feed_config(settings: Settings) -> FeedConfig:
    """Return what the feed needs of the settings.

    Raises:
        FeedConfigError, CredentialsError: a setting cannot be used; the text names it.
    """
    key, secret = settings.coinbase_api_key, settings.coinbase_api_secret
    passphrase = settings.coinbase_api_passphrase
    credentials = None
    if key is not None and secret is not None and passphrase is not None:
        credentials = Credentials(
            key.get_secret_value(), secret.get_secret_value(), passphrase.get_secret_value()
        )
    return FeedConfig(
        primary=settings.coinbase_ws_primary,
        fallback=settings.coinbase_ws_fallback,
        products=settings.coinbase_products,
        channels=settings.coinbase_channels,
        credentials=credentials,
        line=settings.ingest_line,
        max_frame_bytes=settings.coinbase_max_frame_bytes,
        silence_s=settings.coinbase_silence_s,
    )


async def ingest(settings: Settings, stop: asyncio.Event) -> None:
    """Keep the feed of these settings open and store what it brings until told to stop."""
    config = feed_config(settings)
    name = f"ingestor-{settings.ingest_line}"
    async with (
        await JetStreamLog.connect(settings.nats_urls, name=name) as log,
        asyncio.TaskGroup() as tasks,
    ):
        await log.ensure_streams(settings)
        sink = Ingest(log, VENUE, settings.coinbase_products, settings.shard_count, tasks)
        serve_metrics(settings.metrics_port, (sink.counts, sink.dead.counts))
        feeding = tasks.create_task(CoinbaseFeed(config, sink).run())
        await stop.wait()
        feeding.cancel()
        await asyncio.wait([feeding])
        async with asyncio.timeout(STOP_WITHIN_S):
            await sink.flush()


def main() -> int:
    """Run; return the exit status."""
    return run_worker("ingestor", ingest)


if __name__ == "__main__":
    sys.exit(main())
