"""Advanced Trade's words become market events; what cannot be true becomes Invalid."""

import json
from typing import Any

import msgspec
import pytest

from models import events
from models.records import (
    BadFrame,
    LineDown,
    LostFrames,
    ResyncMarker,
    frame_line,
    marker_line,
    note_line,
)
from tests.unit.coinbase_advanced.frames import (
    NOW,
    book,
    envelope,
    level,
    level2,
    ticker,
    tickers,
    trade,
    trades,
)
from venues.coinbase_advanced.mapper import decode

ABSURD = "0001-01-01T00:00:00.000000Z"


def line(frame: dict[str, Any]) -> bytes:
    """Return the raw line of a frame."""
    return frame_line(NOW, "a-1", 7, json.dumps(frame).encode())


def all_of(frame: dict[str, Any], product: str = "BTC-USD") -> list[Any]:
    """Decode one frame; its first event, and no other, carries the record's number."""
    found = decode(line(frame), product)
    assert [(event.conn, event.n) for event in found] == [("a-1", 7)] + [("", 0)] * (len(found) - 1)
    assert {event.ts_ingest for event in found} == {NOW}
    return list(found)


def one(frame: dict[str, Any], product: str = "BTC-USD") -> Any:
    """Decode a frame that gives one event."""
    (event,) = all_of(frame, product)
    return event


def test_ticker_keeps_the_digits_and_is_numbered_by_time() -> None:
    """The channel has no sequence and no trade: time numbers it, and only the price is told."""
    event = one(tickers(ticker()))
    assert isinstance(event, events.Ticker)
    assert event.fields == (
        '{"last_px":100.50,"best_bid":{"px":100.4,"qty":1},"best_ask":{"px":100.60,"qty":2.0}}'
    )
    assert (event.seq, event.ts_event) == (NOW + 123_456, NOW + 123_456)
    assert event.trade_id is None
    assert event.by_time


def test_ticker_batch_without_best_prices_maps() -> None:
    """The batched channel sends the price only; a price without its size is one all the same."""
    bare = {key: value for key, value in ticker().items() if not key.startswith("best_")}
    assert one(envelope("ticker_batch", {"tickers": [bare]})).fields == '{"last_px":100.50}'
    half = {key: value for key, value in ticker().items() if not key.endswith("_quantity")}
    assert json.loads(one(tickers(half)).fields)["best_ask"] == {"px": 100.6}


def test_frame_of_several_products_gives_each_its_own() -> None:
    """What belongs to another product is left out; who is not in it gets an empty record."""
    frame = tickers(ticker("ETH-USD", price="9"), ticker(price="1"), ticker(price="2"))
    assert json.loads(one(frame).fields)["last_px"] == 2, "the newest of one time"
    assert json.loads(one(frame, "ETH-USD").fields)["last_px"] == 9
    assert type(one(frame, "SOL-USD")) is events.Event
    mixed = trades(trade(2, "ETH-USD"), trade(1))
    assert one(mixed, "ETH-USD").trade_id == 2
    assert type(one(mixed, "SOL-USD")) is events.Event
    books = level2(book("update", level("bid", "1", "2")), book("update", product="ETH-USD"))
    assert isinstance(one(books), events.BookDelta)
    assert type(one(books, "ETH-USD")) is events.Event


def test_market_trades_come_out_in_order_with_the_taker() -> None:
    """Newest first in the frame, oldest first out of it; the maker bought, so the taker sold."""
    found = all_of(trades(trade(12), trade(11, side="SELL"), trade(10)))
    assert [event.trade_id for event in found] == [10, 11, 12]
    assert [event.seq for event in found] == [10, 11, 12]
    assert [json.loads(event.fields)["last_trade"]["side"] for event in found] == [
        "sell", "buy", "sell",
    ]  # fmt: skip
    assert found[0].fields == '{"last_trade":{"px":100.50,"qty":0.10,"side":"sell","id":10}}'
    assert found[0].ts_event == NOW + 123_400
    assert not any(event.is_last for event in found)


def test_market_trades_snapshot_is_the_past() -> None:
    """Ids are compared as numbers, not as text."""
    found = all_of(trades(trade(100), trade(99), trade(98), kind="snapshot"))
    assert [(event.trade_id, event.is_last) for event in found] == [
        (98, True), (99, True), (100, True),
    ]  # fmt: skip


def test_bad_print_does_not_hurt_its_neighbours() -> None:
    """The record says so first, once, and the good ones follow."""
    bad, *good = all_of(trades(trade(3), trade(2, size="0.-10000"), trade(1), trade(4, side="UP")))
    assert isinstance(bad, events.Invalid)
    assert (bad.reason, bad.feed) == ("bad_number", "trades")
    assert [event.trade_id for event in good] == [1, 3]


def test_book_messages_map_sides_and_times() -> None:
    """Offer is ask; a change is as new as its newest level, a snapshot as its envelope."""
    later = "2026-09-30T02:03:44.1219Z"
    frame = level2(
        book("update", level("bid", "100.4", "0")),
        book("update", level("offer", "9999999999.00", "0.5", event_time=later)),
    )
    delta = one(frame)
    assert delta.changes == [("bid", "100.4", "0"), ("ask", "9999999999.00", "0.5")]
    assert delta.ts_event == NOW + 121_900
    nothing = {"event_time": "1970-01-01T00:00:00Z"}
    snapshot = one(
        level2(book("snapshot", level("bid", "1", "2", **nothing), level("offer", "3", "4")))
    )
    assert (snapshot.bids, snapshot.asks) == ([("1", "2")], [("3", "4")])
    assert snapshot.ts_event == NOW + 123_456


def test_snapshot_with_updates_in_one_frame_is_one_book() -> None:
    """A record is one event of the book: what follows the snapshot is applied, what was is past."""
    frame = level2(
        book("update", level("bid", "7", "7")),
        book("snapshot", level("bid", "1.0", "2"), level("bid", "0.5", "2")),
        book("update", level("bid", "1.00", "0"), level("offer", "3.0", "5")),
    )
    snapshot = one(frame)
    assert isinstance(snapshot, events.BookSnapshot)
    assert (snapshot.bids, snapshot.asks) == ([("0.5", "2")], [("3.0", "5")])


@pytest.mark.parametrize(
    ("frame", "reason", "feed"),
    [
        (trades(trade(1, size="0.-10000")), "bad_number", "trades"),
        (trades(trade(1, price="-1")), "bad_number", "trades"),
        (trades(trade(1, price="1e5")), "bad_number", "trades"),
        (trades(trade(1, price="NaN")), "bad_number", "trades"),
        (trades(trade(1, price="")), "bad_number", "trades"),
        (trades(trade(1, price="01.5")), "bad_number", "trades"),
        (trades(trade(1, price="1 2")), "bad_number", "trades"),
        (trades(trade(1, price=1.5)), "bad_field", "trades"),
        (trades(trade(1, time=ABSURD)), "absurd_time", "trades"),
        (trades(trade(1, time="2036-01-01T00:00:00Z")), "absurd_time", "trades"),
        (trades(trade(1, time="yesterday")), "bad_time", "trades"),
        (trades(trade(1, time="2026-09-30T02:03:44")), "bad_time", "trades"),
        (trades(trade(1, side="buy")), "bad_field", "trades"),
        (trades(trade(1, trade_id=5)), "bad_field", "trades"),
        (trades(trade(1, trade_id="-5")), "bad_field", "trades"),
        (trades(trade(1, trade_id="\u0665")), "bad_field", "trades"),
        (trades(trade(1, trade_id="9" * 19)), "bad_field", "trades"),
        (trades(trade(1), kind="rumour"), "bad_field", "trades"),
        (tickers(ticker(price="x")), "bad_number", "ticker"),
        (tickers(ticker(best_bid="x")), "bad_number", "ticker"),
        (tickers(ticker(best_ask_quantity="")), "bad_number", "ticker"),
        (tickers(ticker(price=None)), "bad_field", "ticker"),
        (tickers(ticker()) | {"timestamp": ABSURD}, "absurd_time", "ticker"),
        (tickers(ticker()) | {"timestamp": None}, "bad_field", "ticker"),
        (level2(book("update", level("bid", "1", "0.-10000"))), "bad_number", "book"),
        (level2(book("update", level("ask", "1", "1"))), "bad_field", "book"),
        (level2(book("update", level("bid", "1", "1", event_time=ABSURD))), "absurd_time", "book"),
        (level2(book("snapshot", level("bid", "1", "two"))), "bad_number", "book"),
        (level2(book("snapshot")) | {"timestamp": "never"}, "bad_time", "book"),
        (envelope("l2_data") | {"events": "none"}, "bad_field", "book"),
        (envelope("surprise"), "unknown_type", None),
        ({"type": "ticker", "product_id": "BTC-USD"}, "unknown_type", None),
    ],
)
def test_what_cannot_be_true_is_invalid_with_a_reason(
    frame: dict[str, Any], reason: str, feed: str | None
) -> None:
    """Each kind of dirty data has its reason, a sentence, and the feed that suffers."""
    event = one(frame)
    assert isinstance(event, events.Invalid)
    assert (event.reason, event.feed) == (reason, feed)
    assert event.detail


def test_bad_line_does_not_hurt_its_neighbours() -> None:
    """Good lines around a bad one are decoded, in order."""
    good = line(trades(trade(2), trade(1)))
    payload = b"\n".join(
        [good, line(envelope("surprise")), b'{"ts_ingest":', line(tickers(ticker()))]
    )
    kinds = [type(event).__name__ for event in decode(payload, "BTC-USD")]
    assert kinds == ["Trade", "Trade", "Invalid", "Invalid", "Ticker"]


def test_own_notes_are_understood() -> None:
    """The end of a connection, a frame that was no JSON, and a stretch that never came."""
    gap = LostFrames("connection_gap", "", 4, 9)
    notes: list[LineDown | BadFrame] = [LineDown("gone"), BadFrame("malformed", "no"), gap]
    lines = (note_line(NOW, "a-1", number, note) for number, note in enumerate(notes, 8))
    down, bad, lost = decode(b"\n".join(lines), "BTC-USD")
    assert isinstance(down, events.Down)
    assert isinstance(bad, events.Invalid)
    assert bad.feed == "book"
    assert isinstance(lost, events.Lost)
    assert (lost.conn, lost.n, lost.after, lost.before) == ("a-1", 10, 4, 9)


def test_recovery_answers_are_read_as_exchange_sends_them() -> None:
    """One matching engine, one REST; only the ticker is numbered by time, like its channel."""
    stamp = "2026-09-30T02:03:43.5Z"
    rest_book = {"bids": [["1", "2", 1]], "asks": [], "sequence": 5, "time": stamp}
    print_ = {"trade_id": 9, "side": "buy", "size": "1", "price": "2", "time": stamp}

    def answer(feed: Any, body: object) -> Any:
        raw = msgspec.Raw(json.dumps(body).encode())
        (event,) = decode(marker_line(NOW, ResyncMarker("id", feed, raw)), "BTC-USD")
        return event

    assert answer("book", rest_book).bids == [("1", "2")]
    assert [trade.trade_id for trade in answer("trades", [print_]).trades] == [9]
    marked = answer("ticker", {"book": rest_book, "trade": print_}).ticker
    assert (marked.seq, marked.by_time) == (marked.ts_event, True)


@pytest.mark.parametrize("channel", ["heartbeats", "subscriptions", "status", "candles"])
def test_frames_without_market_data_say_nothing(channel: str) -> None:
    """They are records all the same, so that the numbering stays whole."""
    assert type(one(envelope(channel, {"heartbeat_counter": 3}))) is events.Event
