"""Coinbase's words become market events; what cannot be true becomes Invalid with a reason."""

import json
from typing import Any

import msgspec
import pytest

from models import events
from models.records import (
    BadFrame,
    LineDown,
    ResyncMarker,
    frame_line,
    marker_line,
    note_line,
)
from venues.coinbase.mapper import decode

NOW = 1_790_733_824_000_000
TIME = "2026-09-30T02:03:44.123456Z"
MATCH = {
    "type": "match", "trade_id": 5, "sequence": 50, "maker_order_id": "m", "taker_order_id": "t",
    "side": "buy", "size": "0.10", "price": "100.50", "product_id": "BTC-USD", "time": TIME,
}  # fmt: skip
TICKER = {
    "type": "ticker", "sequence": 50, "product_id": "BTC-USD", "price": "100.50", "side": "sell",
    "best_bid": "100.4", "best_bid_size": "1", "best_ask": "100.60", "best_ask_size": "2.0",
    "time": TIME, "trade_id": 5, "last_size": "0.10", "open_24h": "1", "volume_24h": "2",
}  # fmt: skip
UPDATE = {
    "type": "l2update", "product_id": "BTC-USD", "time": TIME,
    "changes": [["buy", "100.4", "0.00"], ["sell", "100.60", "3"]],
}  # fmt: skip
SNAPSHOT = {
    "type": "snapshot", "product_id": "BTC-USD", "time": TIME,
    "bids": [["100.4", "1"]], "asks": [["9999999999.00", "0.5"]],
}  # fmt: skip


def line(frame: dict[str, Any]) -> bytes:
    """Return the raw line of a frame."""
    return frame_line(NOW, "a-1", 7, json.dumps(frame).encode())


def one(frame: dict[str, Any]) -> Any:
    """Decode one frame."""
    (event,) = decode(line(frame), "BTC-USD")
    assert (event.ts_ingest, event.conn, event.n) == (NOW, "a-1", 7)
    return event


def test_match_names_the_taker_and_keeps_the_digits() -> None:
    """The maker bought, so the taker sold; 0.10 stays 0.10."""
    trade = one(MATCH)
    assert isinstance(trade, events.Trade)
    assert trade.fields == '{"last_trade":{"px":100.50,"qty":0.10,"side":"sell","id":5}}'
    assert trade.ts_event == NOW + 123_456
    assert not trade.is_last
    assert one(MATCH | {"type": "last_match"}).is_last


def test_ticker_with_and_without_sizes_maps() -> None:
    """Data of 2021 has no sizes at the best prices; a product without trades has no trade."""
    assert json.loads(one(TICKER).fields)["best_ask"] == {"px": 100.6, "qty": 2.0}
    old = {key: value for key, value in TICKER.items() if not key.endswith("_size")}
    old["last_size"] = "1"
    assert json.loads(one(old).fields)["best_bid"] == {"px": 100.4}
    new = {k: v for k, v in TICKER.items() if k not in ("trade_id", "last_size", "side", "time")}
    ticker = one(new)
    assert ticker.trade_id is None
    assert "last_trade" not in json.loads(ticker.fields)
    assert ticker.ts_event == NOW


def test_book_messages_map_sides() -> None:
    """Buy is bid, sell is ask; a snapshot without a time is as good."""
    assert one(UPDATE).changes == [("bid", "100.4", "0.00"), ("ask", "100.60", "3")]
    snapshot = one(SNAPSHOT)
    assert snapshot.asks == [("9999999999.00", "0.5")]
    assert one({k: v for k, v in SNAPSHOT.items() if k != "time"}).ts_event is None


@pytest.mark.parametrize(
    ("frame", "reason", "feed"),
    [
        (MATCH | {"size": "0.-10000"}, "bad_number", "trades"),
        (MATCH | {"price": "-1"}, "bad_number", "trades"),
        (MATCH | {"price": "1e5"}, "bad_number", "trades"),
        (MATCH | {"price": "NaN"}, "bad_number", "trades"),
        (MATCH | {"price": ""}, "bad_number", "trades"),
        (MATCH | {"price": "01.5"}, "bad_number", "trades"),
        (MATCH | {"price": "1 2"}, "bad_number", "trades"),
        (MATCH | {"time": "0001-01-01T00:00:00.000000Z"}, "absurd_time", "trades"),
        (MATCH | {"time": "2036-01-01T00:00:00.000000Z"}, "absurd_time", "trades"),
        (MATCH | {"time": "yesterday"}, "bad_time", "trades"),
        (MATCH | {"side": "both"}, "bad_field", "trades"),
        (MATCH | {"trade_id": "5"}, "bad_field", "trades"),
        (TICKER | {"best_bid": "x"}, "bad_number", "ticker"),
        (TICKER | {"sequence": None}, "bad_field", "ticker"),
        (UPDATE | {"changes": [["buy", "1", "0.-10000"]]}, "bad_number", "book"),
        (UPDATE | {"changes": [["up", "1", "1"]]}, "bad_field", "book"),
        (UPDATE | {"changes": "none"}, "bad_field", "book"),
        (SNAPSHOT | {"bids": [["1", "two"]]}, "bad_number", "book"),
        ({"type": "surprise", "product_id": "BTC-USD"}, "unknown_type", None),
        ({"product_id": "BTC-USD"}, "unknown_type", None),
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
    payload = b"\n".join([line(MATCH), line({"type": "surprise"}), b'{"ts_ingest":', line(TICKER)])
    kinds = [type(event).__name__ for event in decode(payload, "BTC-USD")]
    assert kinds == ["Trade", "Invalid", "Invalid", "Ticker"]


def test_own_notes_are_understood() -> None:
    """The end of a connection and a frame that was no JSON come through."""
    down, bad = decode(
        note_line(NOW, "a-1", 8, LineDown("gone"))
        + b"\n"
        + note_line(NOW, "a-1", 9, BadFrame("malformed", "no JSON")),
        "BTC-USD",
    )
    assert isinstance(down, events.Down)
    assert isinstance(bad, events.Invalid)
    assert bad.feed == "book"


@pytest.mark.parametrize("kind", ["subscriptions", "error", "status", "activate", "auction"])
def test_frames_without_market_data_say_nothing(kind: str) -> None:
    """They are records all the same, so that the numbering stays whole."""
    assert type(one({"type": kind, "product_id": "BTC-USD"})) is events.Event


def test_full_channel_messages_carry_their_sequence() -> None:
    """Every kind that is no print counts in the contiguous sequence."""
    for kind in ("received", "open", "done", "change"):
        assert one({"type": kind, "product_id": "BTC-USD", "sequence": 3}).seq == 3


def marker(feed: Any, body: object) -> Any:
    """Decode a recovery's answer."""
    written = marker_line(NOW, ResyncMarker("id-1", feed, msgspec.Raw(json.dumps(body).encode())))
    (event,) = decode(written, "BTC-USD")
    return event


REST_TRADE = {"trade_id": 5, "side": "buy", "size": "0.10", "price": "100.50", "time": TIME}
REST_BOOK = {"bids": [["100.4", "1", 2]], "asks": [["100.60", "3", 1]], "sequence": 9, "time": TIME}


def test_fetched_book_becomes_a_marker_with_its_time() -> None:
    """Levels without their order counts, ordered by the venue's own time."""
    event = marker("book", REST_BOOK)
    assert isinstance(event, events.BookMarker)
    assert (event.resync_id, event.last, event.conn) == ("id-1", True, "")
    assert (event.bids, event.asks) == ([("100.4", "1")], [("100.60", "3")])
    assert event.ts_event == NOW + 123_456


def test_fetched_trades_name_the_taker_like_live_ones() -> None:
    """REST has the maker's side too."""
    event = marker("trades", [REST_TRADE, REST_TRADE | {"trade_id": 6}])
    assert [trade.trade_id for trade in event.trades] == [5, 6]
    assert event.trades[0].fields == one(MATCH).fields


@pytest.mark.parametrize("trade", [REST_TRADE, None])
def test_fetched_ticker_is_made_of_book_and_trade(trade: dict[str, Any] | None) -> None:
    """The book gives the sequence and the best prices, the trade the rest."""
    event = marker("ticker", {"book": REST_BOOK, "trade": trade})
    fields = json.loads(event.ticker.fields)
    assert event.ticker.seq == 9
    assert fields["best_bid"] == {"px": 100.4, "qty": 1}
    assert ("last_trade" in fields) == (trade is not None)


@pytest.mark.parametrize(
    ("feed", "body"),
    [
        ("book", {"bids": []}),
        ("book", REST_BOOK | {"time": None}),
        ("book", REST_BOOK | {"bids": [["x", "1", 1]]}),
        ("trades", {"message": "NotFound"}),
        ("trades", [REST_TRADE | {"price": "-1"}]),
        ("ticker", []),
    ],
)
def test_fetched_answer_that_cannot_be_read_is_invalid(feed: str, body: object) -> None:
    """It opens nothing; the reason is kept."""
    event = marker(feed, body)
    assert isinstance(event, events.Invalid)
    assert event.feed is None
