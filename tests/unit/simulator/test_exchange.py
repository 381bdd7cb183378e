"""All channels of one market agree with each other and with REST."""

from collections import Counter
from decimal import Decimal
from itertools import pairwise

import msgspec

from tests.unit.simulator.client import Book, Collector, Message
from venues.simulator.catalogue import product
from venues.simulator.exchange import Exchange
from venues.simulator.market import Market

PRODUCTS = ("BTC-USD", "ADA-USD")
START_US = 1_790_000_000_000_000


def _exchange(collector: Collector) -> Exchange:
    return Exchange((Market(product(name), 3, levels=40) for name in PRODUCTS), collector)


def _run(exchange: Exchange, steps: int = 1500, *, batch: int = 25) -> None:
    for number in range(steps):
        exchange.step(PRODUCTS[number % 2], START_US + number * 1000)
        if number % batch == 0:
            for name in PRODUCTS:
                exchange.flush_levels(name)


def _rest_book(exchange: Exchange, name: str) -> Message:
    listed = exchange.listed[name]
    book: Message = msgspec.json.decode(listed.wire.rest_book(listed.engine, 2, "now"))
    return book


def _greeting(exchange: Exchange, channel: str, name: str) -> Message:
    message: Message = msgspec.json.decode(exchange.greeting(channel, name, START_US)[0])
    return message


def test_level2_replayed_from_its_snapshot_equals_the_book() -> None:
    """Both channels lead to REST's book, and no update removes an unknown level."""
    for channel in ("level2", "level2_batch"):
        collector = Collector()
        exchange = _exchange(collector)
        books = {name: Book(_greeting(exchange, channel, name)) for name in PRODUCTS}
        _run(exchange)
        for name in PRODUCTS:
            exchange.flush_levels(name)
            for update in collector.of(channel, name):
                books[name].apply(update)
            assert books[name].equals(_rest_book(exchange, name))


def test_level2_update_has_one_change_and_a_batch_several() -> None:
    """The plain channel tells single changes, in order of time; the batch gathers them."""
    collector = Collector()
    _run(_exchange(collector))
    assert {len(one["changes"]) for one in collector.of("level2")} == {1}
    assert max(len(one["changes"]) for one in collector.of("level2_batch")) > 3
    for channel in ("level2", "level2_batch"):
        for name in PRODUCTS:
            times = [one["time"] for one in collector.of(channel, name)]
            assert times == sorted(times)


def test_zero_size_is_spelled_in_several_ways() -> None:
    """Real feeds do not agree on how to write nothing."""
    collector = Collector({"level2"})
    _run(_exchange(collector))
    sizes = Counter(change[2] for one in collector.of("level2") for change in one["changes"])
    assert {"0", "0.0", "0.00", "0.00000000"} <= set(sizes)


def test_full_sequence_is_contiguous_and_others_share_it() -> None:
    """+1 on full, trade ids +1 on matches, and a match is the same on both."""
    collector = Collector()
    _run(_exchange(collector))
    for name in PRODUCTS:
        full, matches = collector.of("full", name), collector.of("matches", name)
        assert _steps([one["sequence"] for one in full]) == {1}
        assert _steps([one["trade_id"] for one in matches]) == {1}
        assert matches == [one for one in full if one["type"] == "match"]
        assert 1 not in _steps([one["sequence"] for one in matches])
        assert {one["type"] for one in full} == {"received", "open", "done", "match", "change"}


def test_ticker_shows_the_last_match_with_the_takers_side() -> None:
    """Same sequence, price, size and time; the other side; cascades are told once."""
    collector = Collector()
    _run(_exchange(collector))
    matches = {one["trade_id"]: one for one in collector.of("matches", "BTC-USD")}
    tickers = collector.of("ticker", "BTC-USD")
    assert 100 < len(tickers) < len(matches)
    for ticker in tickers:
        match = matches[ticker["trade_id"]]
        assert {ticker["side"], match["side"]} == {"buy", "sell"}
        assert all(ticker[name] == match[name] for name in ("sequence", "price", "time"))
        assert ticker["last_size"] == match["size"]
        assert Decimal(ticker["best_bid"]) < Decimal(ticker["best_ask"])


def test_heartbeat_tells_the_sequence_and_last_trade() -> None:
    """It equals the last full message's, and consumes none."""
    collector = Collector()
    exchange = _exchange(collector)
    _run(exchange, 300)
    exchange.beat("BTC-USD", START_US)
    beat = collector.of("heartbeat")[0]
    assert beat["sequence"] == collector.of("full", "BTC-USD")[-1]["sequence"]
    assert beat["last_trade_id"] == collector.of("matches", "BTC-USD")[-1]["trade_id"]
    assert beat["sequence"] == exchange.listed["BTC-USD"].engine.sequence


def test_ticker_batch_is_sent_only_after_trades() -> None:
    """One message per period in which something traded."""
    collector = Collector()
    exchange = _exchange(collector)
    _run(exchange, 200)
    exchange.flush_ticker("BTC-USD")
    exchange.flush_ticker("BTC-USD")
    (batch,) = collector.of("ticker_batch")
    newest = collector.of("ticker", "BTC-USD")[-1]
    assert batch["trade_id"] == newest["trade_id"]
    assert batch["type"] == "ticker"


def test_stats_and_candles_are_sums_of_the_trades() -> None:
    """Volume and extremes are those of the matches; candle numbers are exact."""
    collector = Collector({"matches"})
    exchange = _exchange(collector)
    _run(exchange)
    trades = collector.of("matches", "BTC-USD")
    listed = exchange.listed["BTC-USD"]
    stats = msgspec.json.decode(listed.wire.rest_stats(listed.history))
    assert Decimal(stats["volume"]) == sum(Decimal(one["size"]) for one in trades)
    assert Decimal(stats["high"]) == max(Decimal(one["price"]) for one in trades)
    text = listed.wire.rest_candles(listed.history, 60, 0, 2e9)
    rows = msgspec.json.decode(text, type=list[tuple[int, *(Decimal,) * 5]])  # type: ignore[misc]
    assert sum(row[5] for row in rows) == Decimal(stats["volume"])
    assert min(row[1] for row in rows) == Decimal(stats["low"])


def test_book_levels_of_rest_agree() -> None:
    """Level 1 is the best of level 2, which is the sum of level 3."""
    exchange = _exchange(Collector(set()))
    _run(exchange, 500)
    listed = exchange.listed["ADA-USD"]
    best, levels, orders = (
        msgspec.json.decode(listed.wire.rest_book(listed.engine, level, "now"))
        for level in (1, 2, 3)
    )
    for side in ("bids", "asks"):
        assert best[side] == levels[side][:1]
        sums: Counter[str] = Counter()
        for price, size, _ in orders[side]:
            sums[price] += Decimal(size)  # type: ignore[assignment]
        assert {row[0]: Decimal(row[1]) for row in levels[side]} == sums
        assert sum(row[2] for row in levels[side]) == len(orders[side])
    assert levels["asks"][-1][0] == "9999999999.0000"


def test_market_with_a_deep_book_has_so_many_levels() -> None:
    """Fifty thousand levels a side fit, in one snapshot of megabytes."""
    market = Market(product("BTC-USD"), 1, levels=50_000)
    assert len(market.engine.bids.levels) == len(market.engine.asks.levels) == 50_000


def _steps(numbers: list[int]) -> set[int]:
    return {after - before for before, after in pairwise(numbers)}
