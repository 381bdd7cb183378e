"""Simulator, feed, ingest and normalizer of Advanced Trade in one process, for tests only."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from models.subjects import Streams, raw_subject, ticks_subject
from streaming.broker.jetstream import JetStreamLog
from streaming.broker.log import LogMessage
from streaming.core.normalizer import ProductNormalizer
from streaming.core.outputs import Outputs
from streaming.ingest import Ingest
from streaming.normalize import Normalizer
from tests.servers import PATIENCE_S, eventually
from tests.unit.simulator.client import still, trade_some
from venues.coinbase.backoff import BackoffSettings
from venues.coinbase.feed import CoinbaseFeed, FeedConfig
from venues.coinbase_advanced.dialect import AdvancedDialect
from venues.coinbase_advanced.mapper import VENUE, decode
from venues.coinbase_advanced.route import route
from venues.simulator.fault_spec import FaultSpec
from venues.simulator.server import Simulator

PRODUCTS = ("BTC-USD", "ETH-USD")
CHANNELS = ("ticker", "level2", "market_trades")
STREAMS = Streams()


@dataclass
class Line:
    """A simulator, and the ingest that a feed fills from it."""

    simulator: Simulator
    sink: Ingest
    log: JetStreamLog

    def trade(self, count: int = 20) -> None:
        """Let both products trade, and send what is batched."""
        for product in PRODUCTS:
            trade_some(self.simulator, count, product)
        self.simulator.venue.flush_advanced()

    async def reconnect(self, trades: int) -> None:
        """Cut the connection, trade while nobody listens, and wait for the next one."""
        hub = self.simulator.venue.hub
        (old,) = hub.connections
        self.simulator.venue.inject(FaultSpec(kind="disconnect"))
        self.trade(trades)
        await eventually(lambda: old not in hub.connections)
        await subscribed(self.simulator)

    async def settled(self) -> None:
        """Wait until everything that was sent is in the raw log."""
        venue = self.simulator.venue
        sessions: list[Any] = list(venue.hub.connections.values())
        await eventually(lambda: all(not one._bytes for one in sessions))
        sent = sessions[0]._next - 1
        await eventually(
            lambda: any(counter.newest == sent for counter in self.sink._counters.values())
        )
        await self.sink.flush()


@asynccontextmanager
async def line(log: JetStreamLog, **changes: Any) -> AsyncIterator[Line]:
    """Run a simulator that moves only when told to, and a subscribed feed into the log."""
    async with Simulator(still(**changes)) as simulator, asyncio.TaskGroup() as tasks:
        sink = Ingest(log, VENUE, PRODUCTS, 1, tasks, route=route)
        config = FeedConfig(
            primary=simulator.advanced_ws_url,
            products=PRODUCTS,
            channels=CHANNELS,
            dialect=AdvancedDialect(),
            backoff=BackoffSettings(first_s=0.01, cap_s=0.01),
        )
        feeding = tasks.create_task(CoinbaseFeed(config, sink).run())
        await subscribed(simulator)
        yield Line(simulator, sink, log)
        feeding.cancel()


async def subscribed(simulator: Simulator) -> None:
    """Wait until a connection has subscribed to everything."""
    hears = simulator.venue.hub.hears
    await eventually(lambda: hears("advanced/heartbeats", ""))


async def stored(log: JetStreamLog, stream: str, subject: str) -> list[LogMessage]:
    """Return all messages that a subject holds now."""
    newest = await log.last(stream, subject)
    found: list[LogMessage] = []
    if newest is None:
        return found
    async with asyncio.timeout(PATIENCE_S), aclosing(log.read(stream, subject)) as reading:
        async for message in reading:
            found.append(message)
            if message.seq >= newest.seq:
                break
    return found


async def raw(log: JetStreamLog, product: str) -> list[Any]:
    """Return the product's raw lines."""
    found = await stored(log, STREAMS.raw, raw_subject(0, VENUE, product))
    return [json.loads(text) for message in found for text in message.payload.split(b"\n")]


async def canonical(log: JetStreamLog, product: str) -> list[bytes]:
    """Return the product's canonical lines."""
    found = await stored(log, STREAMS.ticks, ticks_subject(0, VENUE, product))
    return [text for message in found for text in message.payload.split(b"\n")]


def consumed(log: JetStreamLog) -> Callable[[], Awaitable[bool]]:
    """Return a check that as much is canonical as the raw log gives.

    Positions alone would not do: a heartbeat at the end of the raw log gives nothing.
    """

    async def check() -> bool:
        for product in PRODUCTS:
            if len(await canonical(log, product)) < len(await pure(log, product)):
                return False
        return True

    return check


async def normalize(log: JetStreamLog, until: Callable[[], Awaitable[bool]]) -> None:
    """Run a normalizer until the check is true, then drop it, as a crash would."""
    async with asyncio.TaskGroup() as tasks:
        normalizer = Normalizer(log, STREAMS, VENUE, 0, decode, tasks)
        reading = tasks.create_task(normalizer.run())
        await eventually(until)
        reading.cancel()


async def pure(log: JetStreamLog, product: str) -> list[str]:
    """Return what the pure core makes of the raw log, in one go."""
    core, out = ProductNormalizer(VENUE, product), Outputs()
    for message in await stored(log, STREAMS.raw, raw_subject(0, VENUE, product)):
        for event in decode(message.payload, product):
            core.apply(event, message.seq, out)
    return out.lines
