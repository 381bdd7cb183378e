"""The simulator's Advanced Trade endpoint: envelopes, one count per connection, and faults."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from websockets.asyncio.client import connect

from tests.servers import PATIENCE_S
from tests.unit.simulator.client import QUIET_S, Feed, still, trade_some
from venues.coinbase_advanced.route import route
from venues.simulator.advanced_messages import ticker
from venues.simulator.fault_spec import FaultSpec
from venues.simulator.server import Simulator

Message = dict[str, Any]
PRODUCTS = ("BTC-USD", "ETH-USD")


@contextlib.asynccontextmanager
async def listening(simulator: Simulator, *channels: str) -> AsyncIterator[Feed]:
    """Connect and subscribe, one message per channel."""
    async with connect(simulator.advanced_ws_url, proxy=None, max_size=None) as socket:
        feed = Feed(socket)
        for channel in channels:
            await feed.send(type="subscribe", product_ids=PRODUCTS, channel=channel)
        yield feed


async def seen(feed: Feed) -> list[Message]:
    """Return what comes until it is quiet."""
    messages: list[Message] = []
    with contextlib.suppress(TimeoutError):
        while True:
            text = await feed.raw(QUIET_S)
            try:
                messages.append(msgspec.json.decode(text))
            except msgspec.DecodeError:
                messages.append({"channel": "broken"})
    return messages


def channels_of(messages: list[Message]) -> list[str]:
    """Return what each message is."""
    return [str(message.get("channel", message.get("type"))) for message in messages]


async def test_subscriber_gets_snapshots_then_the_ack_in_one_count() -> None:
    """Data precedes its acknowledgement; the acknowledgement lists everything so far."""
    async with Simulator(still()) as simulator, listening(simulator, "ticker", "level2") as feed:
        messages = await seen(feed)
        assert channels_of(messages) == ["ticker"] * 2 + ["subscriptions"] + ["l2_data"] * 2 + [
            "subscriptions"
        ]
        assert [message["sequence_num"] for message in messages] == list(range(6))
        assert messages[-1]["events"] == [
            {"subscriptions": {"ticker": list(PRODUCTS), "level2": list(PRODUCTS)}}
        ]
        engine = simulator.venue.exchange.listed["BTC-USD"].engine
        (snapshot,) = messages[3]["events"]
        assert snapshot["type"] == "snapshot"
        assert len(snapshot["updates"]) == len(engine.bids.levels) + len(engine.asks.levels)
        await feed.send(type="unsubscribe", product_ids=["BTC-USD"], channel="ticker")
        await feed.send(type="unsubscribe", channel="mystery")
        *_, error = await seen(feed)
        assert error == {"type": "error", "message": "authentication failure"}


async def test_trades_are_batched_newest_first_as_the_other_feed_has_them() -> None:
    """The snapshot holds a hundred prints of the past; ids agree with Exchange's engine."""
    simulator = Simulator(still(history_trades=150))
    async with simulator, listening(simulator, "market_trades") as feed:
        btc, *_ = await seen(feed)
        past = [int(trade["trade_id"]) for trade in btc["events"][0]["trades"]]
        newest = simulator.venue.exchange.listed["BTC-USD"].engine.trade_id
        assert past == list(range(newest, newest - 100, -1))
        trade_some(simulator, 5)
        simulator.venue.flush_advanced()
        (batch,) = await seen(feed)
        assert batch["events"][0]["type"] == "update"
        ids = [int(trade["trade_id"]) for trade in batch["events"][0]["trades"]]
        assert ids == list(range(newest + len(ids), newest, -1))
        assert len(ids) >= 5
        assert {trade["side"] for trade in batch["events"][0]["trades"]} <= {"BUY", "SELL"}


async def test_heartbeat_status_and_ticker_batch_are_numbered_too() -> None:
    """Every channel shares the count, also those without products."""
    channels = ("heartbeats", "status", "ticker_batch")
    async with Simulator(still()) as simulator, listening(simulator, *channels) as feed:
        await seen(feed)
        trade_some(simulator, 1)
        simulator.venue.beat(1_790_733_824_000_000)
        simulator.venue.say_status()
        simulator.venue.flush_advanced_tickers()
        messages = [one for one in await seen(feed) if one["channel"] != "subscriptions"]
        assert {"heartbeats", "status", "ticker_batch"} <= set(channels_of(messages))
        numbers = [message["sequence_num"] for message in messages]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        (batch,) = (one for one in messages if one["channel"] == "ticker_batch")
        assert "best_bid" not in batch["events"][0]["tickers"][0]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (FaultSpec(kind="drop", channel="advanced/ticker"), [3, 4]),
        (FaultSpec(kind="drop", channel="advanced/ticker", conn=1), [3, 4]),
        (FaultSpec(kind="duplicate", channel="advanced/ticker"), [2, 2, 3, 4]),
        (FaultSpec(kind="reorder", channel="advanced/ticker"), [3, 2, 4]),
        (FaultSpec(kind="malformed", channel="advanced/ticker"), [-1, 2, 3, 4]),
        (FaultSpec(kind="malformed", channel="advanced/ticker", replace=True), [-1, 3, 4]),
        (FaultSpec(kind="drop", channel="ticker"), [2, 3, 4]),
    ],
)
async def test_fault_takes_a_number_of_the_connection(spec: FaultSpec, expected: list[int]) -> None:
    """What is lost leaves a hole in the count; a duplicate and a late frame keep their numbers."""
    simulator = Simulator(still(products=("BTC-USD",)))
    async with simulator, listening(simulator, "ticker") as feed:
        await seen(feed)
        simulator.venue.inject(spec)
        listed = simulator.venue.exchange.listed["BTC-USD"]
        for _ in range(3):
            simulator.venue.hub.emit("advanced/ticker", "BTC-USD", ticker_text(listed))
        messages = await seen(feed)
        assert [message.get("sequence_num", -1) for message in messages] == expected


def ticker_text(listed: Any) -> str:
    """Render a ticker as the desk does."""
    return ticker(listed, "update", 1_790_733_824_000_000)


async def test_stall_that_holds_keeps_the_numbers() -> None:
    """What a stall held back comes late, with the numbers it had: nothing was lost."""
    simulator = Simulator(still(products=("BTC-USD",)))
    async with simulator, listening(simulator, "ticker") as feed:
        await seen(feed)
        spec = FaultSpec(kind="stall", channel="advanced/ticker", duration_ms=60_000, hold=True)
        simulator.venue.inject(spec)
        trade_some(simulator, 2)
        assert await seen(feed) == []
        simulator.venue.clear()
        numbers = [message["sequence_num"] for message in await seen(feed)]
        assert numbers == list(range(2, 2 + len(numbers)))
        assert numbers


@pytest.mark.parametrize("variant", ["unknown_type", "bad_number", "absurd_time"])
async def test_garbage_is_an_envelope_that_makes_no_sense(variant: Any) -> None:
    """Damage is where this feed has its values, so that it reaches whoever reads them."""
    simulator = Simulator(still(products=("BTC-USD",)))
    async with simulator, listening(simulator, "market_trades") as feed:
        await seen(feed)
        spec = FaultSpec(kind="garbage", channel="advanced/market_trades", variant=variant)
        simulator.venue.inject(spec)
        trade_some(simulator, 1)
        simulator.venue.flush_advanced()
        bad, good = await seen(feed)
        assert bad != good
        assert route(msgspec.json.encode(bad))[2] == good["sequence_num"]


async def test_client_that_does_not_subscribe_is_cut_off() -> None:
    """Here too, a connection that asks for nothing ends."""
    async with Simulator(still(subscribe_deadline_s=0.05)) as simulator:
        async with listening(simulator) as feed, asyncio.timeout(PATIENCE_S):
            await feed.socket.wait_closed()
        assert feed.socket.close_code == 1008
