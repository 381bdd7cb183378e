"""Latency from the venue's frame to a subscriber, over two durable hops, at 2,000 messages/s."""

import asyncio
import json
import time

import msgspec
import uvloop
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from bench.harness import Pipeline, percentile, pipeline
from bench.source import products
from tests.servers import eventually

RATE = 2000
SECONDS = 30
WARM_UP_S = 5
PRODUCTS = 10
WORKERS = ("normalizer", "gateway", "ingestor")


class _Data(msgspec.Struct):
    type: str
    product: str
    feed: str
    seq: int = 0
    prev_seq: int = 0
    ts_event: int = 0


class _Message(msgspec.Struct):
    op: str
    data: _Data | None = None


def venue_to_subscriber() -> dict[str, float]:
    """Pace the source and compare each tick's stamp with its arrival at a subscriber."""
    source = ["pace", str(RATE), str(PRODUCTS), str(SECONDS)]
    with pipeline(source, WORKERS, PRODUCTS, later=("ingestor",)) as run:
        return uvloop.run(_measure(run))


async def _measure(run: Pipeline) -> dict[str, float]:
    connections: list[ClientConnection] = []
    url = f"ws://127.0.0.1:{run.gateway_port}/ws"

    async def reach() -> bool:
        try:
            connections.append(await connect(url, compression=None, max_size=None))
        except InvalidStatus:
            return False  # not warm yet
        return True

    await eventually(reach)
    async with connections[0] as subscriber:
        await subscriber.send(json.dumps({"op": "subscribe", "products": products(PRODUCTS)}))
        run.processes["ingestor"].start()
        async with asyncio.timeout(SECONDS + 30):
            latencies = await _collect(subscriber)
    figures = {
        "venue_to_subscriber_p50_ms": percentile(latencies, 0.5),
        "venue_to_subscriber_p99_ms": percentile(latencies, 0.99),
    }
    return figures | run.rss_mb()


async def _collect(subscriber: ClientConnection) -> list[float]:
    """Receive every tick of the paced time; verify links and that none is missing."""
    decode = msgspec.json.Decoder(_Message).decode
    newest: dict[tuple[str, str], int] = {}
    latencies: list[float] = []
    ticks = 0
    while ticks < RATE * SECONDS:
        message = decode(await subscriber.recv(decode=False))
        now_us = time.time_ns() // 1000
        data = message.data
        if data is None or message.op == "status":
            continue
        key = (data.product, data.feed)
        if message.op == "incr":
            assert data.prev_seq == newest.get(key, 0), data
            ticks += 1
            latencies.append((now_us - data.ts_event) / 1000)
        newest[key] = data.seq
    return latencies[RATE * WARM_UP_S :]
