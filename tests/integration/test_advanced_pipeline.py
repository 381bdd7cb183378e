"""Advanced Trade from the socket to the canonical log: equal to the exchange's truth, loss told.

One process: simulator, feed, ingest and normalizer around a real nats-server.
"""

import asyncio
import json
from decimal import Decimal
from pathlib import Path

from models.canonical import Message, Snapshot, Tick
from models.subjects import META_PRODUCT
from streaming.broker.jetstream import JetStreamLog
from streaming.core.latest import LatestState
from tests.chains import assert_linked, messages, statuses, ticks
from tests.integration.advanced_line import (
    PRODUCTS,
    STREAMS,
    canonical,
    consumed,
    line,
    normalize,
    pure,
    raw,
)
from venues.coinbase_advanced.mapper import VENUE
from venues.simulator.fault_spec import FaultSpec
from venues.simulator.server import Simulator


def assert_book(lines: list[bytes], simulator: Simulator, product: str) -> None:
    """Compare the canonical book at its end with the engine's."""
    latest = LatestState(VENUE, product, "book")
    for text in lines:
        if json.loads(text)["feed"] == "book":
            latest.apply(text)
    listed = simulator.venue.exchange.listed[product]
    places = listed.product.price_places, listed.product.size_places
    for mine, side in ((latest.book.bids(), "bids"), (latest.book.asks(), "asks")):
        levels = getattr(listed.engine, side).levels
        truth = {
            Decimal(price).scaleb(-places[0]): Decimal(level.total).scaleb(-places[1])
            for price, level in levels.items()
        }
        assert {Decimal(price): Decimal(size) for price, size in mine} == truth, side


def assert_trades(found: list[Message], simulator: Simulator, product: str) -> None:
    """Compare every print with the engine's, without a hole up to its newest."""
    listed = simulator.venue.exchange.listed[product]
    truth = {one.match.trade_id: one.match for one in listed.history.page(10**6, None, None)}
    prints = [
        (message.state if isinstance(message, Snapshot) else message.fields).last_trade
        for message in found
        if isinstance(message, Snapshot | Tick) and message.feed == "trades"
    ]
    ids = [one.id for one in prints if one is not None]
    assert ids == list(range(ids[0], listed.engine.trade_id + 1))
    pp, sp = listed.product.price_places, listed.product.size_places
    for one in prints:
        assert one is not None
        match = truth[one.id]
        exact = (Decimal(match.price).scaleb(-pp), Decimal(match.size).scaleb(-sp))
        assert (one.px, one.qty) == exact
        assert one.side != match.side, "the taker's side, not the maker's"


def assert_tickers(lines: list[bytes], truth: Path, product: str) -> None:
    """Compare every ticker with what was said."""
    said = [
        told["frame"]["events"][0]["tickers"][0]
        for told in map(json.loads, truth.read_text().splitlines())
        if told.get("channel") == "advanced/ticker" and told["product"] == product
    ]
    mine = [
        tuple(str(value) for value in (fields.last_px, fields.best_bid.px, fields.best_ask.qty))
        for fields in (tick.fields for tick in ticks(lines, "ticker"))
        if fields.best_bid is not None and fields.best_ask is not None
    ]
    keys = ("price", "best_bid", "best_ask_quantity")
    assert mine[-len(said) :] == [tuple(one[key] for key in keys) for one in said]
    assert len(mine) == len(said) + 1, "and the state at the time of subscribing"


async def test_canonical_feeds_equal_the_exchange(log: JetStreamLog, tmp_path: Path) -> None:
    """Ticker, trades and book of two products are linked and equal to the engine's truth."""
    truth = tmp_path / "truth.ndjson"
    async with line(log, ground_truth=truth) as feed:
        for _ in range(10):
            feed.trade()
            await asyncio.sleep(0.01)
        await feed.settled()
        await normalize(log, consumed(log))
        feed.simulator.venue.flush_truth()
        for product in PRODUCTS:
            lines = await canonical(log, product)
            assert assert_linked(lines) > 600
            assert statuses(lines) == []
            assert_trades(messages(lines), feed.simulator, product)
            assert_book(lines, feed.simulator, product)
            assert_tickers(lines, truth, product)
    assert feed.sink.dead.counts.values == {}
    assert not any(feed.sink.lost.values.values())


async def test_dropped_frame_is_told_to_every_product_and_opens_gaps(log: JetStreamLog) -> None:
    """One lost frame of one product: the note is in every raw log, and both books have a gap."""
    async with line(log) as feed:
        feed.trade(2)
        fault = FaultSpec(kind="drop", product="ETH-USD", channel="advanced/level2", count=3)
        feed.simulator.venue.inject(fault)
        feed.trade(5)
        await feed.settled()
        await normalize(log, consumed(log))
        assert feed.sink.lost.values[VENUE,] == 3
        for product in (*PRODUCTS, META_PRODUCT):
            told = await raw(log, product)
            notes = [one["bad"] for one in told if "bad" in one]
            assert {note["reason"] for note in notes} == {"connection_gap"}
            assert sum(note["before"] - note["after"] - 1 for note in notes) == 3
            assert [one["n"] for one in told] == list(range(1, len(told) + 1))
        for product in PRODUCTS:
            lines = await canonical(log, product)
            assert_linked(lines)
            gaps = {status.feed for status in statuses(lines) if status.state == "gap"}
            assert gaps >= {"book"}
            assert_trades(messages(lines), feed.simulator, product)


async def test_next_connection_heals_what_the_count_missed(log: JetStreamLog) -> None:
    """After a loss and a disconnect the feeds are live again, whole, and equal to the truth."""
    async with line(log) as feed:
        feed.trade(2)
        venue = feed.simulator.venue
        venue.inject(FaultSpec(kind="drop", product="BTC-USD", channel="advanced/ticker"))
        feed.trade(5)
        await feed.settled()
        await feed.reconnect(trades=30)  # the snapshot of the next connection has them
        feed.trade(5)
        await feed.settled()
        await normalize(log, consumed(log))
        for product in PRODUCTS:
            lines = await canonical(log, product)
            assert_linked(lines)
            assert_trades(messages(lines), feed.simulator, product)
            assert_book(lines, feed.simulator, product)
            last = {status.feed: status.state for status in statuses(lines)}
            assert set(last.values()) == {"live"}, last


async def test_damaged_and_doubled_frames_harm_only_what_they_must(log: JetStreamLog) -> None:
    """A doubled frame is a dead letter and no news; one cut short is a loss like any other."""
    async with line(log) as feed:
        feed.trade(2)
        venue = feed.simulator.venue
        venue.inject(FaultSpec(kind="duplicate", channel="advanced/level2", count=2))
        venue.inject(FaultSpec(kind="malformed", channel="advanced/ticker", replace=True))
        feed.trade(5)
        await feed.settled()
        await normalize(log, consumed(log))
        assert feed.sink.dead.counts.values == {
            (VENUE, "repeated_frame"): 2,
            (VENUE, "malformed"): 1,
        }
        assert feed.sink.lost.values == {(VENUE,): 1}
        for product in PRODUCTS:
            lines = await canonical(log, product)
            assert_linked(lines)
            assert_trades(messages(lines), feed.simulator, product)


async def test_restarts_at_any_moment_give_the_same_log(log: JetStreamLog) -> None:
    """The canonical log is a function of the raw log, losses and reconnects included."""
    async with line(log) as feed:
        venue = feed.simulator.venue
        for number in range(6):
            if number == 2:
                venue.inject(FaultSpec(kind="drop", product="ETH-USD", count=2))
            if number == 4:
                await feed.reconnect(trades=5)
            feed.trade(3)
            await feed.settled()
            reached = await log.end(STREAMS.ticks)

            async def more(reached: int = reached) -> bool:
                return await log.end(STREAMS.ticks) > reached

            await normalize(log, more)
        await normalize(log, consumed(log))
        for product in PRODUCTS:
            expected = await pure(log, product)
            assert [text.decode() for text in await canonical(log, product)] == expected
