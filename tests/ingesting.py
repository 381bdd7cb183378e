"""Frames of the venue, and ingest and normalizer in the test's own process around a real log."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

from models.subjects import Streams, raw_subject, ticks_subject
from streaming.broker.jetstream import JetStreamLog
from streaming.broker.outbox import POSITION_HEADER
from streaming.ingest import Ingest
from streaming.normalize import Normalizer
from tests.servers import PATIENCE_S, eventually
from venues.coinbase.mapper import decode

STREAMS = Streams()
PRODUCT = "BTC-USD"
CONN = "a-1"
NOW = 1_790_733_824_000_000


def match(trade_id: int, product: str = PRODUCT) -> bytes:
    """Return a match as the venue sends it."""
    return json.dumps(
        {
            "type": "match",
            "trade_id": trade_id,
            "sequence": trade_id * 10,
            "side": "buy",
            "size": "0.10",
            "price": "100.50",
            "product_id": product,
            "time": "2026-09-30T02:03:44.123456Z",
        }
    ).encode()


async def lines_of(log: JetStreamLog, stream: str, subject: str) -> list[bytes]:
    """Return all lines that a subject holds now."""
    newest = await log.last(stream, subject)
    lines: list[bytes] = []
    if newest is None:
        return lines
    async with asyncio.timeout(PATIENCE_S), aclosing(log.read(stream, subject)) as messages:
        async for message in messages:
            lines += message.payload.split(b"\n")
            if message.seq >= newest.seq:
                break
    return lines


async def ingest(log: JetStreamLog, frames: list[tuple[int, bytes]], products: list[str]) -> Ingest:
    """Store frames as one connection would."""
    async with asyncio.TaskGroup() as tasks:
        sink = Ingest(log, "coinbase", products, 1, tasks)
        sink.opened(CONN)
        for number, (time_us, frame) in enumerate(frames):
            sink.frame(time_us, CONN, frame)
            if number % 50 == 0:
                await sink.room()
                await asyncio.sleep(0)
        await sink.flush()
    return sink


async def normalize(
    log: JetStreamLog, until: Any, *, graceful: bool = False, decoder: Any = decode
) -> None:
    """Run a normalizer until the check is true, then drop it, as a crash would, or stop it."""
    try:
        async with asyncio.TaskGroup() as tasks:
            normalizer = Normalizer(log, STREAMS, "coinbase", 0, decoder, tasks)
            reading = tasks.create_task(normalizer.run())
            await eventually(until)
            reading.cancel()
            if graceful:
                await normalizer.stop()
            else:
                tasks.create_task(crash())
                await asyncio.sleep(20)
    except* InterruptedError:
        pass


async def crash() -> None:
    """End a task group at once."""
    raise InterruptedError


@asynccontextmanager
async def trading(log: JetStreamLog) -> AsyncIterator[Callable[[int], Awaitable[None]]]:
    """Give what stores the trade of a number at this moment, by a real ingest."""
    async with asyncio.TaskGroup() as tasks:
        sink = Ingest(log, "coinbase", [PRODUCT], 1, tasks)
        sink.opened(CONN)

        async def trade(number: int) -> None:
            sink.frame(time.time_ns() // 1000, CONN, match(number))
            await sink.flush()

        yield trade


def consumed(log: JetStreamLog, product: str = PRODUCT) -> Any:
    """Return a check that everything of the product in MD_RAW has been consumed."""

    async def check() -> bool:
        raw = await log.last(STREAMS.raw, raw_subject(0, "coinbase", product))
        ticks = await log.last(STREAMS.ticks, ticks_subject(0, "coinbase", product))
        return (
            raw is not None and ticks is not None and int(ticks.headers[POSITION_HEADER]) >= raw.seq
        )

    return check
