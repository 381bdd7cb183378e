"""Answers of the Exchange REST API, as documented; prices and sizes are the venue's own text.

Candles are JSON numbers and become exact Decimals. Unknown fields are ignored.
"""

from decimal import Decimal

import msgspec

from venues.coinbase.wire import Number


class Product(msgspec.Struct, frozen=True):
    """A product's rules; increments are the smallest steps of price and size."""

    id: str
    base_currency: str
    quote_currency: str
    quote_increment: str
    base_increment: str
    status: str
    display_name: str = ""
    status_message: str = ""
    min_market_funds: str = ""
    trading_disabled: bool = False
    post_only: bool = False
    limit_only: bool = False
    cancel_only: bool = False
    auction_mode: bool = False


class RestBook(msgspec.Struct, frozen=True):
    """A book of level 1, 2 or 3; rows are price, size, and number of orders or order id."""

    bids: list[tuple[str, str, int | str]]
    asks: list[tuple[str, str, int | str]]
    sequence: Number
    time: str | None = None
    auction_mode: bool = False


class RestTicker(msgspec.Struct, frozen=True):
    """The last trade and the best prices; the venue gives no sequence here."""

    trade_id: Number
    price: str
    size: str
    bid: str
    ask: str
    time: str
    volume: str = ""


class RestTrade(msgspec.Struct, frozen=True):
    """One trade; `side` is the MAKER's, the opposite of what a ticker calls side."""

    trade_id: Number
    side: str
    size: str
    price: str
    time: str


class RestCandle(msgspec.Struct, frozen=True, array_like=True):
    """One bucket that begins at `time`, in UNIX seconds; the venue omits empty buckets."""

    time: int
    low: Decimal
    high: Decimal
    open: Decimal
    close: Decimal
    volume: Decimal


class RestTime(msgspec.Struct, frozen=True):
    """The venue's clock."""

    iso: str
    epoch: Decimal
