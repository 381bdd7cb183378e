"""Clients that do anything at random on a real gateway and a real log, held against that log."""

import asyncio
import json
import random
import socket
from contextlib import suppress
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from models.canonical import FEEDS, Feed
from models.settings import Settings
from streaming.broker.jetstream import JetStreamLog
from tests.gateways import RunningGateway, running_gateway, snapshot, status, tick
from tests.servers import PATIENCE_S, eventually
from tests.views import CanonicalLog, Connection, Key

PRODUCTS = ["BTC-USD", "ETH-USD"]
CLIENTS = 8
STEPS = 250
NEVER = 10**15
"""A number that no message gets."""


class Writer:
    """The one who writes the log: ticks in batches, new chains, and statuses."""

    def __init__(self, log: JetStreamLog, choice: random.Random) -> None:
        self.canonical = CanonicalLog()
        self._log = log
        self._choice = choice

    async def write(self) -> None:
        """Publish one message of a product."""
        product = self._choice.choice(PRODUCTS)
        lines = [
            line for _ in range(self._choice.choice((1, 10, 300))) for line in self._line(product)
        ]
        # Before it is published: a client may have it before this writer has its answer.
        await self._log.publish(f"market.ticks.0.coinbase.{product}", b"\n".join(lines))

    def _line(self, product: str) -> list[bytes]:
        feed = self._choice.choice(FEEDS)
        seq = self.canonical.number[product, feed]
        new = seq + self._choice.randint(1, 3)
        kind = self._choice.random()
        if kind < 0.02:
            state = self._choice.choice(("gap", "live", "stale"))
            line = status(state, feed=feed, product=product, since=self._choice.getrandbits(40))
        elif kind < 0.03:
            line = snapshot(new, feed=feed, product=product)
        else:
            line = tick(new, seq, feed=feed, product=product)
        self.canonical.append(line)
        return [line]


class Actor:
    """A client: subscribes, resumes, stops reading, goes away, comes again."""

    def __init__(
        self, gateway: RunningGateway, canonical: CanonicalLog, choice: random.Random
    ) -> None:
        self._gateway, self._canonical, self._choice = gateway, canonical, choice
        self._epoch: str | None = None
        self._reading: asyncio.Task[None] | None = None
        self._socket: ClientConnection | None = None
        self.connection = Connection(canonical)
        self.sources: set[str] = set()

    async def act(self) -> None:
        """Do one thing at random."""
        acts = (self._subscribe, self._subscribe, self.resume, self._unsubscribe, self._go)
        await self._choice.choice((*acts, self._stop_reading, self.read_on))()

    async def _come(self) -> None:
        raw = socket.socket()
        # A small window, so that a client that does not read is slow soon.
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", self._gateway.port))
        self._socket = await connect(
            self._gateway.url, sock=raw, max_size=None, compression=None, close_timeout=0
        )
        self.connection = Connection(self._canonical)
        self._reading = asyncio.create_task(self._read(self._socket, self.connection))

    async def _read(self, client: ClientConnection, connection: Connection) -> None:
        with suppress(ConnectionClosed):
            async for text in client:
                message = json.loads(text)
                connection.take(message)
                self._epoch = message.get("epoch", self._epoch)
                self.sources.add(message.get("source") or message.get("reason") or message["op"])

    async def _say(self, **request: object) -> None:
        if self._socket is None:
            await self._come()
        assert self._socket is not None
        with suppress(ConnectionClosed):
            await self._socket.send(json.dumps(request))

    def _some(self) -> dict[str, Any]:
        names = ["*"] if self._choice.random() < 0.2 else self._choice.sample(PRODUCTS, 1)
        feeds = self._choice.sample(FEEDS, self._choice.randint(1, 3))
        return {"products": names, "feeds": feeds}

    async def _subscribe(self) -> None:
        more = {"max_rate": self._choice.choice((2, 50))} if self._choice.random() < 0.2 else {}
        await self._say(op="subscribe", **self._some(), **more)

    async def _unsubscribe(self) -> None:
        await self._say(op="unsubscribe", **self._some())

    async def resume(self, epoch: str | None = None, back: int | None = None) -> None:
        """Go on from anywhere: from a number that is `back`, or of another log."""
        seqs: dict[str, dict[Feed, int]] = {}
        for product in PRODUCTS:
            numbers = {feed: self._number((product, feed), back) for feed in FEEDS}
            seqs[product] = {feed: seq for feed, seq in numbers.items() if seq is not None}
        epoch = epoch or self._epoch
        given = {} if epoch is None else {"epoch": epoch}
        await self._say(op="subscribe", products=PRODUCTS, from_seq=seqs, **given)

    def _number(self, key: Key, back: int | None) -> int | None:
        numbers = self._canonical.numbers(key)
        if back is None:
            if self._choice.random() < 0.3:
                return None
            back = int(len(numbers) * self._choice.random() ** 3)
        return numbers[-1 - back] if 0 <= back < len(numbers) else NEVER

    async def stop_for_long(self) -> None:
        """Want everything, and read nothing."""
        await self._say(op="subscribe", products=["*"])
        await self._stop_reading()

    async def _stop_reading(self) -> None:
        if self._socket is not None:
            self._socket.transport.pause_reading()

    async def read_on(self) -> None:
        """Read whatever there is."""
        if self._socket is not None:
            self._socket.transport.resume_reading()

    async def _go(self) -> None:
        """Lose the connection; what it has been told must have been right."""
        if self._socket is None or self._reading is None or self._choice.random() < 0.5:
            return
        self._socket.transport.abort()
        await self._reading
        self._socket = self._reading = None
        self.connection = Connection(self._canonical)

    def complete(self) -> bool:
        """Tell whether everything that was asked for has come; raise what the reader found."""
        if self._reading is not None and self._reading.done():
            self._reading.result()
        self.connection.assert_complete(PRODUCTS)
        return True

    async def end(self) -> None:
        """Leave, whatever has been found."""
        if self._socket is not None and self._reading is not None:
            self._socket.transport.abort()
            await asyncio.wait([self._reading, asyncio.ensure_future(self._socket.wait_closed())])


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_whatever_clients_do_their_views_are_what_the_log_has(
    log: JetStreamLog, settings: Settings, seed: int
) -> None:
    """Every message is the next one of the log, or a snapshot or a refusal that says otherwise."""
    choice = random.Random(seed)
    writer = Writer(log, choice)
    limits: dict[str, Any] = {"gateway_ring_bytes": 500_000, "ws_max_client_bytes": 64 * 1024}
    async with asyncio.timeout(PATIENCE_S), running_gateway(settings, **limits) as gateway:
        actors = [Actor(gateway, writer.canonical, choice) for _ in range(CLIENTS)]
        try:
            for step in range(STEPS):
                await writer.write()
                if step == STEPS // 4:
                    await actors[0].stop_for_long()
                await choice.choice(actors[step > STEPS // 4 :]).act()
            await actors[1].resume("another", 0)
            await actors[2].resume(back=-1)
            for actor in actors:
                await actor.read_on()
            for actor in actors:
                await eventually(actor.complete)
            seen = set[str]().union(*(actor.sources for actor in actors))
            assert {"ring", "log", "epoch", "unknown_seq", "snapshot", "incr", "status"} <= seen
            assert await gateway.metric("md_gateway_broken_links_total") == 0
            assert await gateway.metric("md_gateway_conflated_total") > 0
        finally:
            for actor in actors:
                await actor.end()
