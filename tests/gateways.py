"""A gateway in the test's own process on a free port, canonical lines, and plain clients."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
from websockets.asyncio.client import ClientConnection, connect

from gateway.listening import Place, listen
from gateway.server import serve
from models.checkpoint import Checkpoint, encode_checkpoint
from models.settings import Settings
from models.subjects import state_subject
from streaming.broker.jetstream import JetStreamLog
from tests.servers import PATIENCE_S, eventually

PRODUCT = "BTC-USD"
SUBJECT = f"market.ticks.0.coinbase.{PRODUCT}"


def tick(
    seq: int, prev: int | None = None, *, feed: str = "ticker", product: str = PRODUCT
) -> bytes:
    """Return a tick that links to `prev`, the number before it by default; px is its seq."""
    fields = {
        "ticker": f'{{"last_trade":{{"px":{seq}.50,"qty":0.010,"side":"buy","id":{seq}}}}}',
        "trades": f'{{"last_trade":{{"px":{seq}.50,"qty":0.010,"side":"buy","id":{seq}}}}}',
        "book": f'{{"changes":[["bid","{seq}.50","1.0"]]}}',
    }[feed]
    prev = seq - 1 if prev is None else prev
    return (
        f'{{"v":1,"type":"tick","venue":"coinbase","product":"{product}","feed":"{feed}",'
        f'"seq":{seq},"prev_seq":{prev},"ts_event":{seq},"ts_ingest":{seq},"fields":{fields}}}'
    ).encode()


def snapshot(seq: int, state: str = "{}", *, feed: str = "ticker", product: str = PRODUCT) -> bytes:
    """Return a snapshot line."""
    return (
        f'{{"v":1,"type":"snapshot","venue":"coinbase","product":"{product}","feed":"{feed}",'
        f'"seq":{seq},"ts_snapshot":{seq},"reason":"resync","resync_id":null,"state":{state}}}'
    ).encode()


def status(state: str, *, feed: str = "ticker", product: str = PRODUCT, since: int = 7) -> bytes:
    """Return a status line."""
    return (
        f'{{"v":1,"type":"status","venue":"coinbase","product":"{product}","feed":"{feed}",'
        f'"state":"{state}","since":{since},"gap":null,"resync_id":null}}'
    ).encode()


class RunningGateway:
    """Where a gateway is; `get` asks its HTTP side, `stop` begins its end, `ended` awaits it."""

    def __init__(self, port: int, stop: asyncio.Event, serving: asyncio.Task[None]) -> None:
        self.stop = stop.set
        self.ended = serving
        self.port = port
        self.url = f"ws://127.0.0.1:{port}/ws"
        self.http = f"http://127.0.0.1:{port}"

    async def get(self, path: str) -> httpx.Response:
        """Return the answer to a GET."""
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as client:
            return await client.get(self.http + path)

    async def ready(self) -> bool:
        """Tell whether the gateway may be sent traffic."""
        return (await self.get("/readyz")).status_code == httpx.codes.OK

    async def there(self) -> bool:
        """Tell whether the gateway works at all."""
        return (await self.get("/healthz")).status_code == httpx.codes.OK

    async def metric(self, name: str) -> float:
        """Return one metric without labels."""
        for line in (await self.get("/metrics")).text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
        raise AssertionError(f"no metric {name}")


@asynccontextmanager
async def running_gateway(
    settings: Settings, *, warm: bool = True, **overrides: object
) -> AsyncIterator[RunningGateway]:
    """Run a gateway that is ready (or at least there), and stop it in the end."""
    given = {"gateway_port": 0, "log_level": "WARNING", "gateway_drain_s": 0, **overrides}
    settings = settings.model_copy(update=given)
    stop = asyncio.Event()
    with listen(settings) as listener:
        serving = asyncio.create_task(serve(settings, Place(0, listener), stop))
        running = RunningGateway(listener.getsockname()[1], stop, serving)
        try:
            await eventually(running.ready if warm else running.there)
            yield running
        finally:
            stop.set()
            async with asyncio.timeout(PATIENCE_S):
                await serving


@asynccontextmanager
async def subscriber(gateway: RunningGateway, **request: object) -> AsyncIterator[ClientConnection]:
    """Connect a plain client and, with fields of a subscription, subscribe."""
    async with connect(
        gateway.url, max_size=None, compression=None, proxy=None, close_timeout=1
    ) as client:
        if request:
            await client.send(json.dumps({"op": "subscribe", **request}))
        yield client


async def receive(client: ClientConnection, count: int) -> list[Any]:
    """Read the next messages."""
    async with asyncio.timeout(PATIENCE_S):
        return [json.loads(await client.recv()) for _ in range(count)]


def numbers(messages: Sequence[Any]) -> list[tuple[str, int]]:
    """Return (op, seq) of canonical messages."""
    return [(message["op"], message["data"].get("seq", -1)) for message in messages]


async def publish_checkpoint(
    log: JetStreamLog, ticks_seq: int, lines: list[bytes], *, shard: int = 0
) -> None:
    """Store a checkpoint of the product."""
    checkpoint = Checkpoint(
        "coinbase", PRODUCT, 0, ticks_seq, [msgspec.Raw(line) for line in lines], msgspec.Raw(b"{}")
    )
    payload, headers = encode_checkpoint(checkpoint)
    await log.publish(state_subject(shard, "coinbase", PRODUCT), payload, headers=headers)


def why(answer: Any) -> str | None:
    """Return where from, or why not."""
    assert answer["op"] == "resumed"
    assert answer["recovered"] == (answer["reason"] is None) == (answer["source"] is not None)
    found: str | None = answer["source"] or answer["reason"]
    return found
