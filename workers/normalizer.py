"""The normalizer process: one shard of MD_RAW into MD_TICKS."""

import asyncio
import sys

from models.settings import Settings
from streaming.broker.jetstream import JetStreamLog
from streaming.core.hold import Hold
from streaming.core.normalizer import DEFAULT_HOLD
from streaming.metrics import serve_metrics
from streaming.normalize import Normalizer
from workers.process import STOP_WITHIN_S, run_worker
from workers.venue import VENUES


async def normalize(settings: Settings, stop: asyncio.Event) -> None:
    """Normalize the shard of these settings until told to stop."""
    name = f"normalizer-{settings.shard_index}"
    venue = VENUES[settings.ingest_venue]
    async with await JetStreamLog.connect(settings.nats_urls, name=name) as log:
        await log.ensure_streams(settings)
        async with asyncio.TaskGroup() as tasks:
            normalizer = Normalizer(
                log,
                settings.streams,
                venue.name,
                settings.shard_index,
                venue.decode,
                tasks,
                hold=Hold(
                    DEFAULT_HOLD.messages,
                    settings.resync_max_queue_ms * 1000,
                    settings.resync_stale_ms * 1000,
                ),
                ticker_watermark="ticker" in settings.coinbase_channels,
            )
            serve_metrics(
                settings.metrics_port,
                (
                    normalizer.ticks,
                    normalizer.gaps,
                    normalizer.lag,
                    normalizer.stale,
                    normalizer.dead.counts,
                ),
            )
            reading = tasks.create_task(normalizer.run())
            await stop.wait()
            reading.cancel()
            async with asyncio.timeout(STOP_WITHIN_S):
                await normalizer.stop()


def main() -> int:
    """Run; return the exit status."""
    return run_worker("normalizer", normalize)


if __name__ == "__main__":
    sys.exit(main())
