"""A plain client of the exchange's feed, and an emitter that keeps everything; for tests only."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import httpx
import msgspec
from websockets.asyncio.client import ClientConnection, connect

from tests.servers import PATIENCE_S
from venues.simulator.config import Limits, SimConfig
from venues.simulator.server import Simulator

Message = dict[str, Any]
QUIET_S = 0.15
"""Longer than a level2 batch takes."""
GREETED_S = 0.03
"""Longer than the rest of a greeting takes, which is sent in one go."""


class Collector:
    """Keeps what an exchange emits; `wanted` none means every channel."""

    def __init__(self, wanted: set[str] | None = None) -> None:
        self.frames: list[tuple[str, str, str]] = []
        self._wanted = wanted

    def wants(self, channel: str, product: str) -> bool:
        """Take the wanted channels of every product."""
        del product
        return self._wanted is None or channel in self._wanted

    def emit(self, channel: str, product: str, frame: str) -> None:
        """Keep one message."""
        self.frames.append((channel, product, frame))

    def of(self, channel: str, product: str | None = None) -> list[Message]:
        """Return a channel's messages, decoded."""
        return [
            msgspec.json.decode(frame)
            for name, of_product, frame in self.frames
            if name == channel and product in {None, of_product}
        ]


class Book:
    """What a client makes of a snapshot and its updates."""

    def __init__(self, snapshot: Message) -> None:
        self.sides = {"buy": _levels(snapshot["bids"]), "sell": _levels(snapshot["asks"])}

    def apply(self, update: Message) -> None:
        """Apply one l2update."""
        for side, price, size in update["changes"]:
            level = Decimal(size)
            if level:
                self.sides[side][Decimal(price)] = level
            else:
                del self.sides[side][Decimal(price)]

    def equals(self, rest: Message) -> bool:
        """Compare with REST's book of level 2."""
        return self.sides == {"buy": _levels(rest["bids"]), "sell": _levels(rest["asks"])}


class Feed:
    """One connection to the feed."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def send(self, **message: object) -> None:
        """Send one message."""
        await self.socket.send(msgspec.json.encode(message).decode())

    async def subscribe(self, *channels: object, products: tuple[str, ...] = ("BTC-USD",)) -> None:
        """Subscribe, without waiting for an answer."""
        await self.send(type="subscribe", product_ids=products, channels=channels)

    async def raw(self, within_s: float = PATIENCE_S) -> str:
        """Return the next frame."""
        async with asyncio.timeout(within_s):
            return str(await self.socket.recv())

    async def next(self, within_s: float = PATIENCE_S) -> Message:
        """Return the next message."""
        message: Message = msgspec.json.decode(await self.raw(within_s))
        return message

    async def until(self, kind: str) -> list[Message]:
        """Return the messages up to and including the first of a type."""
        seen = [await self.next()]
        while seen[-1]["type"] != kind:
            seen.append(await self.next())
        return seen

    async def rest(self, quiet_s: float = QUIET_S) -> list[Message]:
        """Return what comes until it is quiet; frames that are no JSON appear as `broken`."""
        seen: list[Message] = []
        with contextlib.suppress(TimeoutError):
            while True:
                text = await self.raw(quiet_s)
                try:
                    seen.append(msgspec.json.decode(text))
                except msgspec.DecodeError:
                    seen.append({"type": "broken", "text": text})
        return seen


def still(**changes: Any) -> SimConfig:
    """Return a configuration whose market moves only when told to, on a free port."""
    settings: dict[str, Any] = {"port": 0, "paused": True, "limits": Limits.none(), "levels": 50}
    return SimConfig(**(settings | changes))


@contextlib.asynccontextmanager
async def listening(
    simulator: Simulator,
    *channels: object,
    products: tuple[str, ...] = ("BTC-USD",),
) -> AsyncIterator[Feed]:
    """Connect; with channels, subscribe and read past what every subscriber gets first."""
    async with connect(simulator.ws_url, proxy=None, max_size=None) as socket:
        feed = Feed(socket)
        if channels:
            await feed.subscribe(*channels, products=products)
            await feed.until("subscriptions")
            await feed.rest(GREETED_S)
        yield feed


def rest_client(simulator: Simulator) -> httpx.AsyncClient:
    """Return a client of REST and control, made cheaply: no certificates are loaded."""
    plain = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return httpx.AsyncClient(
        base_url=simulator.rest_url, trust_env=False, verify=plain, timeout=PATIENCE_S
    )


def of_type(messages: list[Message], *kinds: str) -> list[Message]:
    """Return the messages of some types."""
    return [message for message in messages if message["type"] in kinds]


def trade_some(simulator: Simulator, trades: int, product: str = "BTC-USD") -> None:
    """Let one product trade until it has made at least so many trades."""
    engine = simulator.venue.exchange.listed[product].engine
    goal = engine.trade_id + trades
    while engine.trade_id < goal:
        simulator.venue.step(product)


def _levels(rows: list[list[str]]) -> dict[Decimal, Decimal]:
    return {Decimal(row[0]): Decimal(row[1]) for row in rows}
