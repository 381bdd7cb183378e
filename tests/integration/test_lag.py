"""How late a reader of the log is, while it reads and while it does not."""

import asyncio
import signal
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from models.settings import Settings
from models.subjects import Streams, raw_subject
from storage.latest_store import latest_store
from streaming.broker.jetstream import JetStreamLog
from streaming.normalize import Normalizer
from streaming.unread import Unread
from tests.gateways import SUBJECT, tick
from tests.ingesting import PRODUCT, consumed, trading
from tests.servers import PATIENCE_S, NatsServer, Process, eventually, free_port
from venues.coinbase.mapper import decode
from workers.snapshotter import Snapshotter

STREAMS = Streams()


@asynccontextmanager
async def normalizing(log: JetStreamLog) -> AsyncIterator[tuple[Normalizer, asyncio.Task[None]]]:
    """Run a normalizer and its watch; give it, and the task that reads."""
    async with asyncio.TaskGroup() as tasks:
        normalizer = Normalizer(log, STREAMS, "coinbase", 0, decode, tasks)
        watching = tasks.create_task(normalizer.unread.watch())
        reading = tasks.create_task(normalizer.run())
        yield normalizer, reading
        watching.cancel()
        reading.cancel()
        await normalizer.stop()


def lag_of(normalizer: Normalizer) -> float:
    """Return what is told at this moment."""
    (family,) = normalizer.lag.collect()
    return family.samples[0].value


async def test_lag_grows_while_the_normalizer_reads_nothing(log: JetStreamLog) -> None:
    """What came since waits, and ages; who goes on has no lag, and none in a quiet time."""
    async with trading(log) as trade:
        async with normalizing(log) as (normalizer, reading):
            await trade(1)
            await eventually(consumed(log))
            assert 0 < lag_of(normalizer) < 5
            reading.cancel()
            await asyncio.wait([reading])
            await trade(2)
            await eventually(lambda: lag_of(normalizer) > 2.5)
            before = lag_of(normalizer)
            await eventually(lambda: lag_of(normalizer) > before + 1)
        async with normalizing(log) as (normalizer, _):
            await eventually(consumed(log))
            assert lag_of(normalizer) > 3  # of a record that came so late
            await eventually(lambda: lag_of(normalizer) == 0)


async def test_lag_grows_while_the_snapshotter_reads_nothing(
    log: JetStreamLog, settings: Settings
) -> None:
    """Rows that nobody knows to be due are late as well."""
    async with latest_store(settings, create=True) as store, asyncio.TaskGroup() as tasks:
        snapshotter = Snapshotter(log, settings.streams, store, 0.01)
        working = [
            tasks.create_task(work()) for work in (snapshotter.write, snapshotter.unread.watch)
        ]
        reading = tasks.create_task(snapshotter.read())
        await log.publish(SUBJECT, tick(1))
        await eventually(lambda: snapshotter._rows.values[()] == 1)
        reading.cancel()
        await asyncio.wait([reading])
        await log.publish(SUBJECT, tick(2))
        await eventually(lambda: snapshotter._lags()[()] > 2)
        reading = tasks.create_task(snapshotter.read())
        await eventually(lambda: snapshotter._lags()[()] == 0)
        for task in (reading, *working):
            task.cancel()


async def test_reader_that_is_far_behind_is_as_late_as_what_it_has_next(
    log: JetStreamLog,
) -> None:
    """A position that moves on takes what was waiting with it; subjects of others do not count."""
    unread = Unread(log, STREAMS.raw, f"{STREAMS.root}.raw.0.coinbase.*")
    watching = asyncio.create_task(unread.watch())
    try:
        await log.publish(raw_subject(1, "coinbase", "ETH-USD"), b"{}")
        first = await log.publish(raw_subject(0, "coinbase", PRODUCT), b"{}")
        unread.position = 0
        await eventually(lambda: unread.oldest_s() > 0.5)
        unread.position = first
        assert unread.oldest_s() == 0
    finally:
        watching.cancel()
        await asyncio.wait([watching])


async def test_lag_of_the_worker_grows_while_the_log_does_not_answer(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    """The server is held: nobody knows what waits, and Prometheus is told so."""
    port = free_port()
    env = {"NATS_URLS": nats_server.url, "METRICS_PORT": str(port)}

    def lag_s() -> float:
        with urllib.request.urlopen(
            f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_S
        ) as answer:
            text = answer.read().decode()
        (line,) = (line for line in text.splitlines() if line.startswith("md_ingest_lag_seconds{"))
        return float(line.split()[1])

    with Process([sys.executable, "-m", "workers.normalizer"], tmp_path / "log", env):
        await eventually(lambda: asyncio.to_thread(lambda: lag_s() == 0))
        nats_server.send(signal.SIGSTOP)
        try:
            await eventually(lambda: asyncio.to_thread(lambda: lag_s() > 5))
        finally:
            nats_server.send(signal.SIGCONT)
        await eventually(lambda: asyncio.to_thread(lambda: lag_s() == 0))
