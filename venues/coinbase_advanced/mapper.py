"""From Advanced Trade's words to market events: one function per channel.

A frame may hold several events and several products; ingest stores it once for each product, and
only what belongs to that product is mapped. The first event of a record carries its `conn` and
`n`, further ones carry neither, so that the record counts once. Never raises for bad input.
"""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec

from models import events
from models.canonical import Feed, Level, Side
from models.decoding import UNREADABLE
from models.events import Event, Invalid
from models.numbers import is_zero
from models.records import marker_line
from venues.coinbase import mapper as exchange
from venues.coinbase.values import (
    BadValueError,
    check_levels,
    check_numbers,
    event_time,
    not_understood,
)
from venues.coinbase_advanced import wire

VENUE = "coinbase-advanced"
"""The venue's name in subjects and messages."""

FEED_OF_CHANNEL: dict[str, Feed] = {
    "ticker": "ticker",
    "ticker_batch": "ticker",
    "market_trades": "trades",
    "l2_data": "book",
}
"""The feed that suffers when a message of this channel cannot be understood."""

_BOOK_SIDE: dict[str, Side] = {"bid": "bid", "offer": "ask"}
_TAKER_OF_MAKER = {"BUY": "sell", "SELL": "buy"}
_MAX_ID_DIGITS = 18


_decode_lines = msgspec.json.Decoder(wire.Line).decode_lines
_decode_line = msgspec.json.Decoder(wire.Line).decode


def decode(payload: bytes, product: str) -> list[Event]:
    """Turn one MD_RAW payload of one product into events, one or more per line, in order."""
    try:
        lines = _decode_lines(payload)
    except UNREADABLE:
        return [
            event for text in payload.split(b"\n") if text for event in _decode_alone(text, product)
        ]
    return [event for line in lines for event in _to_events(line, product)]


def _decode_alone(text: bytes, product: str) -> list[Event]:
    """Decode one line of a payload that holds a bad one."""
    try:
        line = _decode_line(text)
    except UNREADABLE as error:
        return [not_understood(text, str(error), FEED_OF_CHANNEL, "channel")]
    return _to_events(line, product)


def _to_events(line: wire.Line, product: str) -> list[Event]:
    frame = line.frame
    mapper = _MAPPERS.get(type(frame))
    if mapper is not None:
        try:
            return mapper(line, frame, product)
        except BadValueError as error:
            feed = FEED_OF_CHANNEL.get(str(frame.__struct_config__.tag))  # type: ignore[union-attr]
            return [_invalid(line, error, feed)]
    if line.down is not None:
        return [events.Down(line.ts_ingest, line.conn, line.n, line.down.reason)]
    if line.bad is not None:
        return [_noted(line, line.bad)]
    if line.marker is not None:
        return _to_marker(line, product)
    return [Event(line.ts_ingest, line.conn, line.n)]


def _invalid(line: wire.Line, error: BadValueError, feed: Feed | None) -> Invalid:
    reason, detail = error.args
    return Invalid(line.ts_ingest, line.conn, line.n, reason, detail, feed)


def _noted(line: wire.Line, bad: wire.Bad) -> Event:
    """Read ingest's own note on frames: lost by the connection's count, or one that was no JSON."""
    if bad.after is not None and bad.before is not None:
        return events.Lost(line.ts_ingest, line.conn, line.n, bad.after, bad.before)
    # Whatever it was, a change of the book may have been in it; the other feeds notice.
    return Invalid(line.ts_ingest, line.conn, line.n, bad.reason, bad.detail, "book")


def _to_marker(line: wire.Line, product: str) -> list[Event]:
    """Read a recovery's answer: Exchange's REST serves the same matching engine.

    Only the ticker's numbering differs: here it is by time.
    """
    assert line.marker is not None  # noqa: S101  # the caller has looked
    marked = exchange.decode(marker_line(line.ts_ingest, line.marker), product)
    for event in marked:
        if isinstance(event, events.TickerMarker):
            event.ticker.seq, event.ticker.by_time = event.ticker.ts_event, True
    return marked


def _ticker(line: wire.Line, frame: wire.Ticker, product: str) -> list[Event]:
    """Map the product's newest ticker of the frame, which has one time: the others are past.

    The channel has neither sequence nor trade id. `seq` is the envelope's time, and the core
    makes it grow where two of one connection carry the same.
    """
    newest: wire.TickerUpdate | None = None
    for event in frame.events:
        for ticker in event.tickers:
            if ticker.product_id == product:
                newest = ticker
    if newest is None:
        return [Event(line.ts_ingest, line.conn, line.n)]
    ts = event_time(frame.timestamp, line.ts_ingest)
    fields = _ticker_fields(newest)
    return [events.Ticker(line.ts_ingest, line.conn, line.n, ts, None, ts, fields, by_time=True)]


def _ticker_fields(ticker: wire.TickerUpdate) -> str:
    """Render the last price, without the trade's size, side and id, and the best prices."""
    check_numbers(ticker.price, 1)
    parts = [f'"last_px":{ticker.price}']
    for name, price, size in (
        ("best_bid", ticker.best_bid, ticker.best_bid_quantity),
        ("best_ask", ticker.best_ask, ticker.best_ask_quantity),
    ):
        if price is not None and size is not None:
            check_numbers(f"{price} {size}", 2)
            parts.append(f'"{name}":{{"px":{price},"qty":{size}}}')
        elif price is not None:
            check_numbers(price, 1)
            parts.append(f'"{name}":{{"px":{price}}}')
    return "{" + ",".join(parts) + "}"


def _market_trades(line: wire.Line, frame: wire.MarketTrades, product: str) -> list[Event]:
    """Map the product's prints, oldest first; of bad ones the record says so before the others."""
    trades: list[Event] = []
    bad: Invalid | None = None
    for event in frame.events:
        for trade in event.trades:
            if trade.product_id == product:
                try:
                    trades.append(_trade(line, trade, is_last=event.type == "snapshot"))
                except BadValueError as error:
                    bad = bad or _invalid(line, error, "trades")
    trades.sort(key=_trade_id)
    found: list[Event] = trades if bad is None else [bad, *trades]
    if not found:
        return [Event(line.ts_ingest, line.conn, line.n)]
    found[0].conn, found[0].n = line.conn, line.n
    return found


def _trade_id(event: Event) -> int:
    assert isinstance(event, events.Trade)  # noqa: S101  # there are no others in the list
    return event.trade_id


def _trade(line: wire.Line, trade: wire.TradeUpdate, *, is_last: bool) -> events.Trade:
    """Map a print; all of a snapshot are what was before, and may fill what a reconnect missed."""
    text = trade.trade_id
    if not (text.isascii() and text.isdecimal()) or len(text) > _MAX_ID_DIGITS:
        raise BadValueError("bad_field", f"trade_id {text[:50]!r} is no number")
    # The venue names the maker's side.
    taker = _TAKER_OF_MAKER.get(trade.side)
    if taker is None:
        raise BadValueError("bad_field", f"side {trade.side!r} is neither BUY nor SELL")
    check_numbers(f"{trade.price} {trade.size}", 2)
    number = int(text)
    fields = (
        f'{{"last_trade":{{"px":{trade.price},"qty":{trade.size},"side":"{taker}","id":{number}}}}}'
    )
    ts = event_time(trade.time, line.ts_ingest)
    # The channel has no sequence: the id, contiguous per product, is as good.
    return events.Trade(line.ts_ingest, "", 0, number, number, ts, fields, is_last)


def _level2(line: wire.Line, frame: wire.Level2, product: str) -> list[Event]:
    """Map everything that the frame says of the product's book to one event."""
    updates: list[wire.LevelUpdate] = []
    whole = False
    for event in frame.events:
        if event.product_id != product:
            continue
        if event.type == "snapshot":
            whole, updates = True, []
        updates += event.updates
    changes = _changes(updates)
    ts_ingest, conn, n = line.ts_ingest, line.conn, line.n
    if whole:
        bids, asks = _sides(changes)
        # The times within are of the levels, or of 1970: the envelope says when it was taken.
        taken = event_time(frame.timestamp, ts_ingest)
        return [events.BookSnapshot(ts_ingest, conn, n, taken, bids, asks)]
    if not changes:
        return [Event(ts_ingest, conn, n)]
    newest = max(event_time(text, ts_ingest) for text in {update.event_time for update in updates})
    return [events.BookDelta(ts_ingest, conn, n, newest, changes)]


def _changes(updates: list[wire.LevelUpdate]) -> list[tuple[Side, str, str]]:
    check_levels([(update.price_level, update.new_quantity) for update in updates])
    return [(_side(update.side), update.price_level, update.new_quantity) for update in updates]


def _side(side: str) -> Side:
    try:
        return _BOOK_SIDE[side]
    except KeyError:
        raise BadValueError("bad_field", f"side {side!r} is neither bid nor offer") from None


def _sides(changes: list[tuple[Side, str, str]]) -> tuple[list[Level], list[Level]]:
    """Apply changes to nothing: a snapshot may be followed by updates in the same frame."""
    levels: dict[Side, dict[Decimal, Level]] = {"bid": {}, "ask": {}}
    for side, price, size in changes:
        if is_zero(size):
            levels[side].pop(Decimal(price), None)
        else:
            levels[side][Decimal(price)] = (price, size)
    return list(levels["bid"].values()), list(levels["ask"].values())


_MAPPERS: dict[type, Callable[[wire.Line, Any, str], list[Event]]] = {
    wire.Ticker: _ticker,
    wire.TickerBatch: _ticker,
    wire.MarketTrades: _market_trades,
    wire.Level2: _level2,
}
