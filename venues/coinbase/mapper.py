"""From Coinbase's words to market events: one function per message type.

Maps a field only where the venue's field means the same. Never raises for bad input: a record
that cannot be understood becomes an `Invalid` event with a reason that is counted and a sentence
for whoever reads the dead letters.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from models import events
from models.canonical import Feed, Level, Side
from models.decoding import UNREADABLE
from models.events import Event, Invalid
from models.records import ResyncMarker
from venues.coinbase import wire
from venues.coinbase.rest_types import RestBook, RestTrade
from venues.coinbase.values import (
    BadValueError,
    check_levels,
    check_numbers,
    event_time,
    not_understood,
)

VENUE = "coinbase"
"""The venue's name in subjects and messages."""

FEED_OF_TYPE: dict[str, Feed] = {
    "ticker": "ticker",
    "match": "trades",
    "last_match": "trades",
    "l2update": "book",
    "snapshot": "book",
}
"""The feed that suffers when a message of this type cannot be understood."""

_BOOK_SIDE: dict[str, Side] = {"buy": "bid", "sell": "ask"}
_TAKER_OF_MAKER = {"buy": "sell", "sell": "buy"}


_decode_lines = msgspec.json.Decoder(wire.Line).decode_lines
_decode_line = msgspec.json.Decoder(wire.Line).decode


def decode(payload: bytes, _product: str) -> list[Event]:
    """Turn one MD_RAW payload into one event per line, in order.

    A frame of this venue belongs to one product, so the product need not be looked at.
    """
    try:
        lines = _decode_lines(payload)
    except UNREADABLE:
        return [_decode_alone(line) for line in payload.split(b"\n") if line]
    return [_to_event(line) for line in lines]


def _decode_alone(text: bytes) -> Event:
    """Decode one line of a payload that holds a bad one."""
    try:
        line = _decode_line(text)
    except UNREADABLE as error:
        return not_understood(text, str(error), FEED_OF_TYPE, "type")
    return _to_event(line)


def _to_event(line: wire.Line) -> Event:
    frame = line.frame
    mapper = _MAPPERS.get(type(frame))
    if mapper is not None:
        try:
            return mapper(line, frame)
        except BadValueError as error:
            reason, detail = error.args
            feed = FEED_OF_TYPE.get(str(frame.__struct_config__.tag))  # type: ignore[union-attr]
            return Invalid(line.ts_ingest, line.conn, line.n, reason, detail, feed)
    if line.down is not None:
        return events.Down(line.ts_ingest, line.conn, line.n, line.down.reason)
    if line.marker is not None:
        return _to_marker(line.ts_ingest, line.marker)
    if line.bad is not None:
        # Whatever it was, a change of the book may have been in it; the other feeds notice.
        return Invalid(line.ts_ingest, line.conn, line.n, line.bad.reason, line.bad.detail, "book")
    return Event(line.ts_ingest, line.conn, line.n)


def _ticker(line: wire.Line, frame: wire.Ticker) -> Event:
    bid, ask = frame.best_bid, frame.best_ask
    bid_qty, ask_qty = frame.best_bid_size, frame.best_ask_size
    if bid_qty is None or ask_qty is None:
        check_numbers(f"{bid} {ask}", 2)
        quotes = f'"best_bid":{{"px":{bid}}},"best_ask":{{"px":{ask}}}}}'
    else:
        check_numbers(f"{bid} {ask} {bid_qty} {ask_qty}", 4)
        quotes = (
            f'"best_bid":{{"px":{bid},"qty":{bid_qty}}},"best_ask":{{"px":{ask},"qty":{ask_qty}}}}}'
        )
    ts_ingest, trade_id = line.ts_ingest, frame.trade_id
    if trade_id is None or frame.price is None or frame.last_size is None:
        fields = "{" + quotes
    else:
        trade = _trade_json(frame.price, frame.last_size, frame.side or "", trade_id)
        fields = f'{{"last_trade":{trade},{quotes}'
    ts_event = ts_ingest if frame.time is None else event_time(frame.time, ts_ingest)
    return events.Ticker(ts_ingest, line.conn, line.n, frame.sequence, trade_id, ts_event, fields)


def _trade_json(price: str, size: str, taker: str, trade_id: int) -> str:
    check_numbers(f"{price} {size}", 2)
    if taker not in _TAKER_OF_MAKER:
        raise BadValueError("bad_field", f"side {taker!r} is neither buy nor sell")
    return f'{{"px":{price},"qty":{size},"side":"{taker}","id":{trade_id}}}'


def _match(line: wire.Line, frame: wire.Match) -> Event:
    # The venue names the maker's side here, and the taker's on the ticker.
    taker = _TAKER_OF_MAKER.get(frame.side, frame.side)
    trade = _trade_json(frame.price, frame.size, taker, frame.trade_id)
    return events.Trade(
        line.ts_ingest,
        line.conn,
        line.n,
        frame.sequence,
        frame.trade_id,
        event_time(frame.time, line.ts_ingest),
        f'{{"last_trade":{trade}}}',
        isinstance(frame, wire.LastMatch),
    )


def _l2update(line: wire.Line, frame: wire.L2Update) -> Event:
    changes = frame.changes
    if len(changes) == 1:  # the unbatched channel, always
        side, price, size = changes[0]
        check_numbers(f"{price} {size}", 2)
        mapped = [(_side(side), price, size)]
    else:
        mapped = [(_side(side), price, size) for side, price, size in changes]
        if mapped:
            check_numbers(
                " ".join([f"{price} {size}" for _, price, size in changes]), 2 * len(mapped)
            )
    ts_event = event_time(frame.time, line.ts_ingest)
    return events.BookDelta(line.ts_ingest, line.conn, line.n, ts_event, mapped)


def _side(side: str) -> Side:
    try:
        return _BOOK_SIDE[side]
    except KeyError:
        raise BadValueError("bad_field", f"side {side!r} is neither buy nor sell") from None


def _snapshot(line: wire.Line, frame: wire.Snapshot) -> Event:
    check_levels(frame.bids)
    check_levels(frame.asks)
    ts_event = None if frame.time is None else event_time(frame.time, line.ts_ingest)
    return events.BookSnapshot(line.ts_ingest, line.conn, line.n, ts_event, frame.bids, frame.asks)


def _heartbeat(line: wire.Line, frame: wire.Heartbeat) -> Event:
    return events.Heartbeat(line.ts_ingest, line.conn, line.n, frame.sequence, frame.last_trade_id)


def _order_message(line: wire.Line, frame: wire.Received) -> Event:
    return events.OrderMessage(line.ts_ingest, line.conn, line.n, frame.sequence)


class _TickerBody(msgspec.Struct):
    """REST's best prices with their sequence, and its newest trade."""

    book: RestBook
    trade: RestTrade | None = None


_decode_book = msgspec.json.Decoder(RestBook).decode
_decode_trades = msgspec.json.Decoder(list[RestTrade]).decode
_decode_ticker = msgspec.json.Decoder(_TickerBody).decode


def _to_marker(now: int, marker: ResyncMarker) -> Event:
    """Read a recovery's answer; one that cannot be understood is invalid and opens nothing."""
    if marker.given_up is not None:
        return events.GivenUp(now, "", 0, marker.resync_id)
    read = {"book": _book_marker, "trades": _trades_marker, "ticker": _ticker_marker}[marker.feed]
    try:
        return read(now, marker)
    except BadValueError as error:
        reason, detail = error.args
        return Invalid(now, "", 0, reason, detail)
    except UNREADABLE as error:
        return Invalid(now, "", 0, "bad_marker", str(error))


def _book_marker(now: int, marker: ResyncMarker) -> Event:
    book = _decode_book(marker.body)
    if book.time is None:
        raise BadValueError("bad_marker", "a book without a time cannot be ordered")
    bids, asks = _levels(book.bids), _levels(book.asks)
    ts_event = event_time(book.time, now)
    return events.BookMarker(now, "", 0, marker.resync_id, marker.last, ts_event, bids, asks)


def _levels(rows: list[tuple[str, str, int | str]]) -> list[Level]:
    levels = [(price, size) for price, size, _ in rows]
    check_levels(levels)
    return levels


def _trades_marker(now: int, marker: ResyncMarker) -> Event:
    trades = [_rest_trade(now, trade) for trade in _decode_trades(marker.body)]
    return events.TradesMarker(
        now, "", 0, marker.resync_id, marker.last, trades, marker.accept_loss
    )


def _rest_trade(now: int, trade: RestTrade) -> events.Trade:
    # REST names no sequence: 0 lets the core number it between its neighbours.
    taker = _TAKER_OF_MAKER.get(trade.side, trade.side)
    print_ = _trade_json(trade.price, trade.size, taker, trade.trade_id)
    ts_event = event_time(trade.time, now)
    return events.Trade(now, "", 0, 0, trade.trade_id, ts_event, f'{{"last_trade":{print_}}}')


def _ticker_marker(now: int, marker: ResyncMarker) -> Event:
    body = _decode_ticker(marker.body)
    book, fields, ts_event = body.book, [], now
    if body.trade is not None:
        trade = body.trade
        taker = _TAKER_OF_MAKER.get(trade.side, trade.side)
        print_ = _trade_json(trade.price, trade.size, taker, trade.trade_id)
        fields.append(f'"last_trade":{print_}')
        ts_event = event_time(trade.time, now)
    for name, rows in (("best_bid", book.bids), ("best_ask", book.asks)):
        for price, size in _levels(rows[:1]):
            fields.append(f'"{name}":{{"px":{price},"qty":{size}}}')
    trade_id = None if body.trade is None else body.trade.trade_id
    state = "{" + ",".join(fields) + "}"
    ticker = events.Ticker(now, "", 0, book.sequence, trade_id, ts_event, state)
    return events.TickerMarker(now, "", 0, marker.resync_id, marker.last, ticker)


_MAPPERS: dict[type, Callable[[wire.Line, Any], Event]] = {
    wire.Ticker: _ticker,
    wire.Match: _match,
    wire.LastMatch: _match,
    wire.L2Update: _l2update,
    wire.Snapshot: _snapshot,
    wire.Heartbeat: _heartbeat,
    wire.Received: _order_message,
    wire.Open: _order_message,
    wire.Done: _order_message,
    wire.Change: _order_message,
}
