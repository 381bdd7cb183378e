"""From the exchange's socket to a subscriber, through every process, and over `kill -9`."""

import asyncio
import json
import time
from collections import defaultdict
from contextlib import aclosing
from decimal import Decimal
from pathlib import Path

import pytest

from client.subscriber import Subscriber, Update
from models.canonical import Snapshot, Tick
from models.subjects import Streams, ticks_subject
from streaming.broker.jetstream import JetStreamLog
from streaming.core.book import Book
from tests.recordings import LEVEL2, level2_frames, needs_recordings
from tests.servers import PATIENCE_S, eventually
from tests.stack import Stack, audit, canonical, emitted, exact, key_of, running, settled

pytestmark = pytest.mark.long

PRODUCTS = ("BTC-USD", "ETH-USD", "SOL-USD")


def recorded() -> dict[tuple[str, str], list[object]]:
    """Return the keys of the recording's messages in order, by product and feed."""
    kinds = {"ticker": "ticker", "match": "trades", "l2update": "book"}
    keys: dict[tuple[str, str], list[object]] = defaultdict(list)
    for _, text in level2_frames():
        frame = json.loads(text)
        kind = kinds.get(frame["type"])
        if kind == "ticker":
            keys[frame["product_id"], kind].append(frame["sequence"])
        elif kind == "trades":
            keys[frame["product_id"], kind].append(frame["trade_id"])
        elif kind == "book":
            (change,) = frame["changes"]
            side = {"buy": "bid", "sell": "ask"}[change[0]]
            keys[frame["product_id"], kind].append((side, *change[1:]))
    return dict(keys)


def plain_books() -> dict[str, tuple[dict[Decimal, Decimal], dict[Decimal, Decimal]]]:
    """Replay the recording's level 2 into dictionaries."""
    books: dict[str, tuple[dict[Decimal, Decimal], dict[Decimal, Decimal]]] = {}
    for _, text in level2_frames():
        frame = json.loads(text)
        if frame["type"] == "snapshot":
            books[frame["product_id"]] = (exact(frame["bids"]), exact(frame["asks"]))
        elif frame["type"] == "l2update":
            for side, price, size in frame["changes"]:
                levels = books[frame["product_id"]][side == "sell"]
                levels[Decimal(price)] = Decimal(size)
                if not levels[Decimal(price)]:
                    del levels[Decimal(price)]
    return books


class View:
    """What one subscriber sees: ticks in order and the books that follow from them."""

    def __init__(self) -> None:
        self.ticks: dict[tuple[str, str], list[Tick]] = defaultdict(list)
        self.books: dict[str, Book] = {}
        self.count = 0

    def take(self, update: Update) -> None:
        """Take one message."""
        message = update.message
        if isinstance(message, Snapshot) and message.feed == "book":
            self.books[message.product] = Book(message.state.bids or (), message.state.asks or ())
        elif isinstance(message, Tick):
            self.count += 1
            self.ticks[message.product, message.feed].append(message)
            if message.feed == "book":
                self.books[message.product].apply(message.fields.changes or [])


@needs_recordings
async def test_recording_reaches_a_subscriber_whole(tmp_path: Path) -> None:
    """Every ticker, match and l2update of the file, once, in order; the books are the file's."""
    expected = recorded()
    products = sorted({product for product, _ in expected})
    total = sum(len(keys) for keys in expected.values())
    assert total == 9719 + 107 + 97
    cassette = ("--cassette", str(LEVEL2), "--speed", "10")
    channels = ("level2", "ticker", "matches")
    view = View()
    async with running(tmp_path, products, channels, cassette, without=["ingestor"]) as stack:
        subscriber = Subscriber(stack.gateway_url, products)

        async def subscribe() -> None:
            async with aclosing(aiter(subscriber)) as updates:
                async for update in updates:
                    view.take(update)
                    if view.count == total:
                        return

        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
            tasks.create_task(subscribe())
            await eventually(lambda: subscriber.connects == 1)
            stack.processes["ingestor"].start()
        assert subscriber.verifier.broken == 0
    for (product, feed), keys in expected.items():
        seen = [
            tick.fields.changes[0] if tick.fields.changes else key_of(tick)
            for tick in view.ticks[product, feed]
        ]
        assert seen == keys
    for product, (bids, asks) in plain_books().items():
        assert exact(view.books[product].bids()) == bids
        assert exact(view.books[product].asks()) == asks


async def test_deep_book_reaches_a_subscriber(tmp_path: Path) -> None:
    """A snapshot of 50,000 levels a side passes from the venue to a subscriber."""
    options = ("--deep", "BTC-USD=50000", "--paused")
    async with running(tmp_path, ["BTC-USD"], ["level2_batch"], options) as stack:
        async with (
            asyncio.timeout(PATIENCE_S),
            aclosing(aiter(Subscriber(stack.gateway_url, ["BTC-USD"], ["book"]))) as updates,
        ):
            async for update in updates:
                message = update.message
                if isinstance(message, Snapshot) and message.state.bids:
                    break
        assert isinstance(message, Snapshot)
        book = await stack.simulator("GET", "/products/BTC-USD/book?level=2")
    assert len(message.state.bids or []) >= 50_000
    assert len(message.state.asks or []) >= 50_000
    assert exact(message.state.bids) == exact([level[:2] for level in book["bids"]])
    assert exact(message.state.asks) == exact([level[:2] for level in book["asks"]])


@pytest.mark.parametrize("victim", ["ingestor", "normalizer", "gateway", "nats"])
async def test_kill_9_loses_doubles_and_reorders_nothing_unannounced(
    tmp_path: Path, victim: str
) -> None:
    """Each process is killed twice at 2,000 messages/s; then the log is held against the truth."""
    channels = ("ticker", "heartbeat", "level2", "matches")
    async with running(tmp_path, PRODUCTS, channels, ("--rate", "2600")) as stack:
        subscriber = Subscriber(stack.gateway_url, PRODUCTS)
        watching = asyncio.create_task(drain(subscriber))
        for _ in range(2):
            await linked(subscriber, 2000)
            stack.processes[victim].kill()
            stack.processes[victim].start()
        await linked(subscriber, 2000)
        await stack.ready()
        await settled(stack)
        watching.cancel()
        await asyncio.wait([watching])
        lines = await canonical(stack)
    truth = emitted(stack.truth_file, "level2")
    result = audit([line for product in lines.values() for line in product], truth)
    count = sum(len(keys) for keys in truth.keys.values())
    assert count > 3 * 2000, "the market was too quiet to prove anything"
    assert subscriber.verifier.broken == 0
    assert set(lines) == {ticks_subject(0, "coinbase", product) for product in PRODUCTS}
    if victim == "ingestor":
        # While nobody listens messages are lost; each such stretch is announced.
        assert result.announced_breaks >= 2
        assert result.new_chains >= 2 * len(PRODUCTS)
        assert result.delivered > count // 4
    else:
        # One unbroken chain from the first message to the last: `audit` found them neighbours.
        assert (result.announced_breaks, result.new_chains, result.open_gaps) == (0, 0, 0)
        assert result.delivered > count // 2


async def linked(subscriber: Subscriber, count: int) -> None:
    """Wait until the subscriber has verified so many more links."""
    wanted = subscriber.verifier.verified + count
    await eventually(lambda: subscriber.verifier.verified >= wanted)


async def drain(subscriber: Subscriber) -> None:
    """Read until cancelled; a broken link raises."""
    async with aclosing(aiter(subscriber)) as updates:
        async for _ in updates:
            pass


async def test_loss_on_one_line_alone_opens_no_gap(tmp_path: Path) -> None:
    """Two ingestors: prints lost on one, then a killed one, are noticed by no subscriber."""
    channels = ("ticker", "heartbeat", "level2", "matches")
    async with running(tmp_path, PRODUCTS, channels, ("--rate", "1000"), two_lines=True) as stack:
        await grown(stack, 50)
        for number in range(6):
            # One line at a time: what both lose is lost.
            loss = {"kind": "drop", "channel": "matches", "conn": 1 + number % 2, "count": 5}
            await stack.simulator("POST", "/sim/faults", loss)

            async def used_up() -> bool:
                listed = await stack.simulator("GET", "/sim/faults")
                return not any(fault["active"] for fault in listed["faults"])

            await eventually(used_up)
            await grown(stack, 50)
        stack.processes["ingestor"].kill()
        # A line that fell silent without a word is left after three seconds.
        await grown(stack, 1, seconds=4.0)
        await settled(stack)
        lines = await canonical(stack)
    truth = emitted(stack.truth_file, "level2")
    result = audit([line for product in lines.values() for line in product], truth)
    assert (result.announced_breaks, result.open_gaps) == (0, 0)
    assert result.delivered > 2000


async def grown(stack: Stack, messages: int, *, seconds: float = 0.0) -> None:
    """Wait until the canonical log is so many messages and so many seconds longer."""
    async with await JetStreamLog.connect([stack.nats.url], name="test") as log:
        begun_s, end = time.monotonic(), await log.end(Streams().ticks)

        async def check() -> bool:
            is_later = time.monotonic() >= begun_s + seconds
            return is_later and await log.end(Streams().ticks) >= end + messages

        await eventually(check)
