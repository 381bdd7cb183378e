"""The normalizer process: one shard of MD_RAW into MD_TICKS."""

import asyncio
import sys

from models.settings import Settings
from models.subjects import Streams
from streaming.broker.jetstream import JetStreamLog
from streaming.core.hold import Hold
from streaming.core.normalizer import DEFAULT_HOLD
from streaming.metrics import serve_metrics
from streaming.normalize import Normalizer
from workers.process import STOP_WITHIN_S, run_worker
from workers.venue import VENUES, Venue


def make_normalizer(
    log: JetStreamLog,
    settings: Settings,
    streams: Streams,
    venue: Venue,
    shard: int,
    tasks: asyncio.TaskGroup,
) -> Normalizer:
    """Return a shard's normalizer as these settings want it, live or in a replay."""
    hold = Hold(
        DEFAULT_HOLD.messages,
        settings.resync_max_queue_ms * 1000,
        settings.resync_stale_ms * 1000,
    )
    return Normalizer(
        log,
        streams,
        venue.name,
        shard,
        venue.decode,
        tasks,
        hold=hold,
        ticker_watermark="ticker" in settings.coinbase_channels,
    )


async def normalize(settings: Settings, stop: asyncio.Event) -> None:
    """Normalize the shard of these settings until told to stop."""
    name = f"normalizer-{settings.shard_index}"
    venue = VENUES[settings.ingest_venue]
    async with await JetStreamLog.of(settings, name=name) as log:
        await log.ensure_streams(settings)
        async with asyncio.TaskGroup() as tasks:
            normalizer = make_normalizer(
                log, settings, settings.streams, venue, settings.shard_index, tasks
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
                host=settings.metrics_host,
            )
            working = [
                tasks.create_task(normalizer.run()),
                tasks.create_task(normalizer.unread.watch()),
            ]
            await stop.wait()
            for task in working:
                task.cancel()
            async with asyncio.timeout(STOP_WITHIN_S):
                await normalizer.stop()


def main() -> int:
    """Run; return the exit status."""
    return run_worker("normalizer", normalize)


if __name__ == "__main__":
    sys.exit(main())
