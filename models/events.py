"""Market events: what a venue's mapper makes of raw records, and the streaming core consumes.

They speak no venue's dialect. Prices and sizes are text, checked to be plain decimals; `fields`
is finished JSON that the core only places. Every event carries its record's `ts_ingest`
(microseconds), `conn` and `n` (see `models.records.RawLine`).
"""

from collections.abc import Callable, Sequence

import msgspec

from models.canonical import Feed, Level, Side


class Event(msgspec.Struct):
    """A record that says nothing to the core but that it was there."""

    ts_ingest: int
    conn: str
    n: int


class Lost(Event):
    """Frames of this record's connection never arrived: any product's news may have been in them.

    Numbers count the connection's frames, exclusively: `after` was the newest received (-1: none
    yet), `before` the one that came next (not above `after` where the venue began to count anew).
    """

    after: int
    before: int


class Ticker(Event):
    """The newest trade and the best prices. `seq` grows but jumps, `trade_id` may skip.

    `by_time`: the venue numbers no tickers and `seq` is only the time it stamped, so that on one
    connection an equal one is not a repeat.
    """

    seq: int
    trade_id: int | None
    ts_event: int
    fields: str
    by_time: bool = False


class Trade(Event):
    """One print. `trade_id` is contiguous per product.

    `is_last`: not news but the venue's newest print at the time of subscribing.
    """

    seq: int
    trade_id: int
    ts_event: int
    fields: str
    is_last: bool = False


class OrderMessage(Event):
    """A message of a channel whose `seq` is contiguous per product, without a print in it."""

    seq: int


class BookSnapshot(Event):
    """All levels. `ts_event` is none where the venue does not say."""

    ts_event: int | None
    bids: list[Level]
    asks: list[Level]


class BookDelta(Event):
    """New absolute sizes of some levels, in order."""

    ts_event: int
    changes: list[tuple[Side, str, str]]


class Heartbeat(Event):
    """The venue's watermark: its newest sequence and trade id (0 = unknown)."""

    seq: int
    last_trade_id: int


class Down(Event):
    """The connection ended."""

    reason: str


class Invalid(Event):
    """A record that cannot be understood.

    `feed` is set where the record certainly belonged to one; `detail` is a sentence for people.
    """

    reason: str
    detail: str
    feed: Feed | None = None


class Marker(Event):
    """The answer to a resync request, in the log among the frames it has to be ordered with.

    `last`: whether more markers of the same `resync_id` follow.
    """

    resync_id: str
    last: bool


class TradesMarker(Marker):
    """Prints from the venue's history, oldest first.

    `accept_loss`: what is missing even so is lost, and new chains begin behind it.
    """

    trades: list[Trade]
    accept_loss: bool = False


class BookMarker(Marker):
    """A whole book as of `ts_event`."""

    ts_event: int
    bids: list[Level]
    asks: list[Level]


class TickerMarker(Marker):
    """The newest state of the ticker."""

    ticker: Ticker


class GivenUp(Event):
    """The recovery of a gap has failed for good; the gap stays open."""

    resync_id: str


Decode = Callable[[bytes, str], Sequence[Event]]
"""Turns one MD_RAW payload of one product into one or more events per line, in order.

The first event of a line carries its `conn` and `n`, further ones have neither. Never raises for
bad input: what cannot be understood is an `Invalid` event.
"""
