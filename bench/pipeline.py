"""Frames per second through ingest and normalize, both durable, on this machine's cores."""

import asyncio
import json
import time
from contextlib import aclosing

import uvloop

from bench.harness import Pipeline, pipeline
from models.subjects import Streams
from streaming.broker.jetstream import JetStreamLog

FRAMES = 400_000
PRODUCTS = 20


def ingest_normalize() -> dict[str, float]:
    """Flood the pipeline and time it from its first to its last canonical message."""
    with pipeline(
        ["flood", str(FRAMES), str(PRODUCTS)], ("normalizer", "ingestor"), PRODUCTS
    ) as run:
        return uvloop.run(_measure(run))


async def _measure(run: Pipeline) -> dict[str, float]:
    async with await JetStreamLog.connect([run.nats.url], name="bench") as log:
        ticks, snapshots, began = 0, 0, 0.0
        newest: dict[tuple[str, str], int] = {}
        payloads: list[bytes] = []
        async with asyncio.timeout(60), aclosing(log.read(Streams().ticks, ">")) as messages:
            async for message in messages:
                began = began or time.perf_counter()
                ticks += message.payload.count(b'"type":"tick"')
                snapshots += message.payload.count(b'"type":"snapshot"')
                payloads.append(message.payload)
                if ticks == FRAMES:
                    break
        taken = time.perf_counter() - began
    for payload in payloads:
        _check(payload, newest)
    assert snapshots >= PRODUCTS, snapshots
    return {"ingest_normalize_frames_per_s": FRAMES / taken}


def _check(payload: bytes, newest: dict[tuple[str, str], int]) -> None:
    """Verify every link."""
    for line in payload.split(b"\n"):
        message = json.loads(line)
        key = (message["product"], message["feed"])
        if message["type"] == "tick":
            assert message["prev_seq"] == newest.get(key, 0), message
        newest[key] = message.get("seq", newest.get(key, 0))
