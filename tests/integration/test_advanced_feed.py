"""The feed client in Advanced Trade's dialect, and the workers that INGEST_VENUE makes of it."""

import asyncio
import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from models.subjects import Streams, ticks_subject
from streaming.broker.jetstream import JetStreamLog
from tests.chains import assert_linked
from tests.ingesting import lines_of
from tests.servers import NatsServer, Process, eventually
from tests.unit.simulator.client import still
from venues.coinbase.backoff import BackoffSettings
from venues.coinbase.feed import CoinbaseFeed, FeedConfig
from venues.coinbase_advanced.dialect import AdvancedDialect
from venues.simulator.server import Simulator

STREAMS = Streams()


class Sink:
    """Keeps what a feed gives."""

    def __init__(self) -> None:
        self.frames: list[dict[str, Any]] = []
        self.ends: list[str] = []

    def opened(self, conn: str) -> None:
        """Do nothing."""

    def frame(self, ts_ingest_us: int, conn: str, frame: bytes) -> None:
        """Keep a frame."""
        del ts_ingest_us, conn
        self.frames.append(json.loads(frame))

    def rejected(self, ts_ingest_us: int, conn: str, reason: str, detail: str) -> None:
        """Do nothing."""

    def closed(self, ts_ingest_us: int, conn: str, reason: str) -> None:
        """Keep the reason."""
        del ts_ingest_us, conn
        self.ends.append(reason)

    async def room(self) -> None:
        """Return at once."""


def config(simulator: Simulator, *products: str, channels: tuple[str, ...]) -> FeedConfig:
    """Return the settings of a feed that loses patience quickly."""
    return FeedConfig(
        primary=simulator.advanced_ws_url,
        products=products,
        channels=channels,
        dialect=AdvancedDialect(),
        ack_timeout_s=1.0,
        backoff=BackoffSettings(first_s=0.01, cap_s=0.01),
    )


async def test_feed_brings_every_frame_of_the_count() -> None:
    """From 0 on, acknowledgements included; and it stays, once a channel with data has answered."""
    async with Simulator(still()) as simulator, asyncio.TaskGroup() as tasks:
        sink = Sink()
        both = config(simulator, "BTC-USD", "NOPE-USD", channels=("ticker", "market_trades"))
        feeding = tasks.create_task(CoinbaseFeed(both, sink).run())
        await eventually(lambda: len(sink.frames) >= 5)
        await asyncio.sleep(2 * both.ack_timeout_s)
        feeding.cancel()
    numbers = [frame["sequence_num"] for frame in sink.frames]
    assert numbers == list(range(len(numbers)))
    assert sink.ends == ["stopped"]


async def test_subscription_without_data_is_not_taken_for_one() -> None:
    """Unknown products are left out without a word, and heartbeats alone are no feed."""
    async with Simulator(still()) as simulator, asyncio.TaskGroup() as tasks:
        sink = Sink()
        wrong = config(simulator, "NOPE-USD", channels=("ticker",))
        feeding = tasks.create_task(CoinbaseFeed(wrong, sink).run())
        await eventually(lambda: len(sink.ends) >= 2)
        feeding.cancel()
    assert sink.ends[0] == "subscribe unanswered for 1 s"


async def test_workers_serve_the_venue_that_the_setting_names(
    nats_server: NatsServer, log: JetStreamLog, tmp_path: Path
) -> None:
    """Ingestor and normalizer as processes, on the channel names of Exchange."""
    async with Simulator(still(paused=False, rate=200)) as simulator:
        env = {
            "NATS_URLS": nats_server.url,
            "INGEST_VENUE": "coinbase-advanced",
            "COINBASE_ADVANCED_WS": simulator.advanced_ws_url,
            "COINBASE_PRODUCTS": "BTC-USD,ETH-USD",
            "COINBASE_CHANNELS": "ticker,heartbeat,level2_batch,matches",
        }
        subject = ticks_subject(0, "coinbase-advanced", "ETH-USD")
        with ExitStack() as stack:
            for name in ("normalizer", "ingestor"):
                command = [sys.executable, "-m", f"workers.{name}"]
                stack.enter_context(Process(command, tmp_path / f"{name}.log", env))

            async def flowing() -> bool:
                lines = await lines_of(log, STREAMS.ticks, subject)
                feeds = {json.loads(line)["feed"] for line in lines}
                return feeds == {"ticker", "trades", "book"} and assert_linked(lines) > 200

            await eventually(flowing)
