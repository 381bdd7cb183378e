"""From a tick in MD_TICKS to the row that has it, with both stores, while all products change.

DynamoDB is moto's server, which is one Python process: it is what most of that time goes to.
"""

import asyncio
import random
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop

from bench.harness import percentile
from models.settings import Settings, load_settings
from storage.latest_store import latest_store
from streaming.broker.jetstream import JetStreamLog
from tests.gateways import tick
from tests.servers import NatsServer, Process, port_open
from tests.servers_s3 import MotoServer, store_settings

PRODUCTS = [f"P{number}-USD" for number in range(4)]
LOAD_PER_S = 400
"""Ticks of all products together, beside those that are timed."""

ROUNDS = 300
WARM_UP_S = 2
WITHIN_S = 30
POLL_S = {"nats": 0.0005, "dynamodb": 0.005}
"""Between two looks at the row; moto would be busy with nothing else otherwise."""

BETWEEN_S = 0.06
"""At most so long between two timed ticks, so that they meet every phase of the period."""


def latest() -> dict[str, float]:
    """Time ticks until their row is there: a NATS bucket, then moto's DynamoDB."""
    with TemporaryDirectory() as directory, NatsServer(Path(directory) / "nats") as nats:
        kv = uvloop.run(_measure(nats, load_settings(nats_urls=(nats.url,)), Path(directory)))
    with (
        TemporaryDirectory() as directory,
        NatsServer(Path(directory) / "nats") as nats,
        MotoServer(Path(directory)) as moto,
    ):
        settings = store_settings(moto.port, latest_store="dynamodb", nats_urls=(nats.url,))
        dynamodb = uvloop.run(_measure(nats, settings, Path(directory), port=moto.port))
    return {
        "latest_kv_p50_ms": percentile(kv, 0.5),
        "latest_kv_p99_ms": percentile(kv, 0.99),
        "latest_dynamodb_p50_ms": percentile(dynamodb, 0.5),
        "latest_dynamodb_p99_ms": percentile(dynamodb, 0.99),
    }


async def _measure(
    nats: NatsServer, settings: Settings, root: Path, *, port: int | None = None
) -> list[float]:
    """Return how long each timed tick took, in ms."""
    for waited in (nats.port, port):
        if waited is not None:
            await port_open(waited)
    env = {"NATS_URLS": nats.url, "LATEST_STORE": settings.latest_store}
    if port is not None:
        env |= {"DDB_ENDPOINT": f"http://127.0.0.1:{port}", "S3_REGION": "us-east-1"}
        env |= {"S3_ACCESS_KEY": "test", "S3_SECRET_KEY": "test"}
    worker = Process([sys.executable, "-m", "workers.snapshot"], root / "snapshot.log", env)
    with worker:
        async with await JetStreamLog.connect([nats.url], name="bench") as log:
            await log.ensure_streams(settings)
            loading = asyncio.create_task(_load(log))
            await asyncio.sleep(WARM_UP_S)
            try:
                return await _time(log, settings)
            finally:
                loading.cancel()
                await asyncio.wait([loading])


async def _load(log: JetStreamLog) -> None:
    """Change every product in turn, at a rate."""
    began, sent = time.monotonic(), 0
    while True:
        while sent < (time.monotonic() - began) * LOAD_PER_S:
            product = PRODUCTS[sent % len(PRODUCTS)]
            seq = sent // len(PRODUCTS) + 1
            await log.publish(_subject(product), tick(seq, product=product))
            sent += 1
        await asyncio.sleep(1 / LOAD_PER_S)


async def _time(log: JetStreamLog, settings: Settings) -> list[float]:
    """Publish ticks of one feed of one product, each once the one before is in its row."""
    rng, found_ms = random.Random(1), []
    async with latest_store(settings, create=True) as store:
        for seq in range(1, ROUNDS + 1):
            await asyncio.sleep(rng.uniform(0, BETWEEN_S))
            product = rng.choice(PRODUCTS)
            began = time.perf_counter()
            position = await log.publish(_subject(product), tick(seq, feed="trades"))
            row = await store.get("coinbase", product)
            while row is None or row.position < position:
                assert time.perf_counter() - began < WITHIN_S, row
                await asyncio.sleep(POLL_S[settings.latest_store])
                row = await store.get("coinbase", product)
            found_ms.append((time.perf_counter() - began) * 1000)
            assert any(f'"feed":"trades","seq":{seq},' in line for line in row.lines), row
    return found_ms


def _subject(product: str) -> str:
    return f"market.ticks.0.coinbase.{product}"
