"""Advanced Trade WebSocket messages as msgspec types, in the venue's own words.

Only what the mapper needs is declared; other fields are skipped unread. Prices and sizes are
text here, because their digits must survive. Every frame is an envelope with a list of events,
each of which may be of another product. Source: the venue's channel documentation.
"""

from typing import Literal

import msgspec

from models.records import BadFrame, LineDown, ResyncMarker


class TickerUpdate(msgspec.Struct):
    """The last price and the best prices; `ticker_batch` sends only the first."""

    product_id: str
    price: str
    best_bid: str | None = None
    best_bid_quantity: str | None = None
    best_ask: str | None = None
    best_ask_quantity: str | None = None


class TickerEvent(msgspec.Struct):
    """A snapshot and an update are alike: each ticker is the whole state."""

    tickers: list[TickerUpdate]


class Ticker(msgspec.Struct, tag_field="channel", tag="ticker"):
    """`timestamp` is the only time that a ticker has."""

    timestamp: str
    events: list[TickerEvent]


class TickerBatch(Ticker, tag="ticker_batch"):
    """The same every five seconds."""


class TradeUpdate(msgspec.Struct):
    """`side` is the maker's."""

    trade_id: str
    product_id: str
    price: str
    size: str
    side: str
    time: str


class TradesEvent(msgspec.Struct):
    """Newest first; a snapshot holds the last prints before the subscription."""

    type: Literal["snapshot", "update"]
    trades: list[TradeUpdate]


class MarketTrades(msgspec.Struct, tag_field="channel", tag="market_trades"):
    """Prints of a quarter of a second."""

    events: list[TradesEvent]


class LevelUpdate(msgspec.Struct):
    """An absolute size; zero removes the level. In a snapshot `event_time` says nothing."""

    side: str
    event_time: str
    price_level: str
    new_quantity: str


class Level2Event(msgspec.Struct):
    """The whole book, or the levels that changed."""

    type: Literal["snapshot", "update"]
    product_id: str
    updates: list[LevelUpdate]


class Level2(msgspec.Struct, tag_field="channel", tag="l2_data"):
    """The channel is called `level2` when it is subscribed to."""

    timestamp: str
    events: list[Level2Event]


class Heartbeats(msgspec.Struct, tag_field="channel", tag="heartbeats"):
    """Once a second and connection: it is alive, and nothing else."""


class Subscriptions(msgspec.Struct, tag_field="channel", tag="subscriptions"):
    """The answer to subscribe and unsubscribe."""


class Status(msgspec.Struct, tag_field="channel", tag="status"):
    """Products and currencies."""


class Candles(msgspec.Struct, tag_field="channel", tag="candles"):
    """Bars of five minutes, which are made here from trades."""


Frame = Ticker | TickerBatch | MarketTrades | Level2 | Heartbeats | Subscriptions | Status | Candles


class Bad(BadFrame, frozen=True):
    """Either of ingest's notes on frames: `LostFrames` has the numbers, `BadFrame` has none."""

    after: int | None = None
    before: int | None = None


class Line(msgspec.Struct):
    """A line of MD_RAW with its frame understood; see `models.records.RawLine`."""

    ts_ingest: int
    conn: str = ""
    n: int = 0
    frame: Frame | msgspec.UnsetType = msgspec.UNSET
    down: LineDown | None = None
    bad: Bad | None = None
    marker: ResyncMarker | None = None
