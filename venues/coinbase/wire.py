"""Coinbase Exchange WebSocket messages as msgspec types, in the venue's own words.

Only what the mapper needs is declared; other fields are skipped unread. Prices and sizes are
text here, because their digits must survive. Source: the venue's channel documentation.
"""

from typing import Annotated

import msgspec

from models.canonical import Level
from models.records import BadFrame, LineDown, ResyncMarker

Number = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""A sequence or an id: what a stream, a Parquet column and a client's integer can hold."""


class Ticker(msgspec.Struct, tag_field="type", tag="ticker"):
    """`side` is the taker's. A product that has never traded has no trade fields."""

    sequence: Number
    best_bid: str
    best_ask: str
    price: str | None = None
    last_size: str | None = None
    trade_id: Number | None = None
    side: str | None = None
    time: str | None = None
    best_bid_size: str | None = None
    best_ask_size: str | None = None


class Match(msgspec.Struct, tag_field="type", tag="match"):
    """`side` is the maker's: the opposite of the ticker's for the same trade."""

    trade_id: Number
    sequence: Number
    side: str
    size: str
    price: str
    time: str


class LastMatch(Match, tag="last_match"):
    """The newest match at the time of subscribing."""


class Snapshot(msgspec.Struct, tag_field="type", tag="snapshot"):
    """The whole level 2 book; `time` is absent in older data."""

    bids: list[Level]
    asks: list[Level]
    time: str | None = None


class L2Update(msgspec.Struct, tag_field="type", tag="l2update"):
    """Absolute sizes; zero removes the level."""

    changes: list[tuple[str, str, str]]
    time: str


class Heartbeat(msgspec.Struct, tag_field="type", tag="heartbeat"):
    """Once a second per product; consumes no sequence."""

    sequence: Number
    last_trade_id: Number = 0


class Received(msgspec.Struct, tag_field="type", tag="received"):
    """Full channel: an order was accepted."""

    sequence: Number


class Open(Received, tag="open"):
    """Full channel: an order rests on the book."""


class Done(Received, tag="done"):
    """Full channel: an order left the book."""


class Change(Received, tag="change"):
    """Full channel: an order was changed."""


class Activate(msgspec.Struct, tag_field="type", tag="activate"):
    """Full channel: a stop order became active; carries no sequence."""


class Subscriptions(msgspec.Struct, tag_field="type", tag="subscriptions"):
    """The answer to subscribe and unsubscribe."""


class Error(msgspec.Struct, tag_field="type", tag="error"):
    """A refusal, in words."""


class Status(msgspec.Struct, tag_field="type", tag="status"):
    """Products and currencies."""


class Auction(msgspec.Struct, tag_field="type", tag="auction"):
    """State of an auction."""


Frame = (
    Ticker
    | Match
    | LastMatch
    | Snapshot
    | L2Update
    | Heartbeat
    | Received
    | Open
    | Done
    | Change
    | Activate
    | Subscriptions
    | Error
    | Status
    | Auction
)


class Line(msgspec.Struct):
    """A line of MD_RAW with its frame understood; see `models.records.RawLine`."""

    ts_ingest: int
    conn: str = ""
    n: int = 0
    frame: Frame | msgspec.UnsetType = msgspec.UNSET
    down: LineDown | None = None
    bad: BadFrame | None = None
    marker: ResyncMarker | None = None
