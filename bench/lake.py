"""What the lake costs: time to encode and bytes per tick, beside gzip of the same lines."""

import asyncio
import gzip
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.harness import note
from models.canonical import FEEDS, Feed, decode_heads
from models.settings import load_settings
from storage.layout import Lane
from storage.parcel import decode, encode
from storage.rows import Message, messages_of
from streaming.broker.jetstream import JetStreamLog
from tests.servers import NatsServer, Process, free_port, port_open

PRODUCTS = "BTC-USD,ETH-USD,SOL-USD,ADA-USD,DOT-USD"
RATE = 20_000
"""Messages of the simulated venue a second, or as many as it manages."""

SECONDS = 30
REPEATS = 5
GZIP_LEVEL = 6
LANE = Lane("ticks", "coinbase", 0, 1)
_PAGE = 5000


def lake() -> dict[str, float]:
    """Take what the simulated market gives, feed by feed, and put it into objects."""
    with TemporaryDirectory() as directory:
        messages = asyncio.run(_record(Path(directory)))
    figures: dict[str, float] = {}
    for feed in FEEDS:
        chosen = _only(messages, feed)
        rows = sum(one.payload.count(b"\n") + 1 for one in chosen)
        note(f"{feed}: {rows:,} lines in {len(chosen):,} messages")
        name = "" if feed == "ticker" else f"{feed}_"
        for key, value in _weigh(chosen, rows).items():
            figures[key.format(name)] = value
    return figures


async def _record(root: Path) -> list[Message]:
    """Run simulator, ingestor and normalizer for a while; return what MD_TICKS then has."""
    nats, port = NatsServer(root / "nats"), free_port()
    env = {
        "NATS_URLS": nats.url,
        "COINBASE_WS_PRIMARY": f"ws://127.0.0.1:{port}",
        "COINBASE_PRODUCTS": PRODUCTS,
        "COINBASE_CHANNELS": "ticker,heartbeat,level2_batch,matches",
    }
    options = ["--port", str(port), "--products", PRODUCTS, "--rate", str(RATE), "--seed", "1"]
    simulator = Process([sys.executable, "-m", "cli.main", "sim", *options], root / "sim.log")
    normalizer, ingestor = (
        Process([sys.executable, "-m", f"workers.{name}"], root / f"{name}.log", env)
        for name in ("normalizer", "ingestor")
    )
    with nats, simulator, normalizer:
        await port_open(nats.port)
        await port_open(port)
        with ingestor:
            await asyncio.sleep(SECONDS)
        return await _read(nats.url)


async def _read(url: str) -> list[Message]:
    settings = load_settings(nats_urls=(url,))
    found: list[Message] = []
    async with await JetStreamLog.connect([url], name="bench") as log:
        while page := await log.fetch(
            settings.streams.ticks,
            "market.ticks.>",
            after=found[-1].position if found else 0,
            limit=_PAGE,
            max_bytes=8 * 1024**2,
        ):
            found += messages_of(page)
    return found


def _only(messages: Sequence[Message], feed: Feed) -> list[Message]:
    """Return the lines of one feed, as they are in their messages."""
    chosen = []
    for one in messages:
        heads, lines = decode_heads(one.payload), one.payload.split(b"\n")
        kept = [line for head, line in zip(heads, lines, strict=True) if head.feed == feed]
        if kept:
            chosen.append(one._replace(payload=b"\n".join(kept)))
    return chosen


def _weigh(messages: Sequence[Message], rows: int) -> dict[str, float]:
    """Encode (in processor time), verify, and compare; `{}` in a key stands for the feed."""
    first, last = messages[0].position, messages[-1].position
    seconds = []
    for _ in range(REPEATS):
        began = time.process_time()
        parcel = encode(LANE, first, last, messages)
        seconds.append(time.process_time() - began)
    assert decode("ticks", parcel.data) == messages
    text = b"\n".join(one.payload for one in messages)
    return {
        "lake_{}encode_ticks_per_s": rows / min(seconds),
        "lake_{}bytes_per_tick": len(parcel.data) / rows,
        "gzip_jsonl_{}bytes_per_tick": len(gzip.compress(text, GZIP_LEVEL)) / rows,
    }
