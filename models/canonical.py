"""Canonical messages: what MD_TICKS holds and what subscribers receive. DESIGN.md section 4.

The streaming core renders these lines itself, digit by digit as the venue sent them; the types
here are for whoever reads them. Decoding a price into `Decimal` keeps every digit.

The chain rule, per product and feed: each message's `prev_seq` is the `seq` of the message
before it; a `snapshot` starts a new chain; a tick whose `prev_seq` is `ORIGIN` is the first
that this log ever held.
"""

from decimal import Decimal
from typing import Literal

import msgspec

VERSION = 1
"""The `v` of every canonical message; readers ignore fields they do not know."""

ORIGIN = 0
"""`prev_seq` of the very first message of a product and feed."""

Feed = Literal["ticker", "trades", "book"]
FEEDS: tuple[Feed, ...] = ("ticker", "trades", "book")
"""All feeds, in the order in which they are listed everywhere."""

SnapshotReason = Literal["subscribe", "resync"]
"""Why a chain starts anew: the venue's own subscription, or a recovery."""

State = Literal["live", "gap", "resyncing", "stale"]
Side = Literal["bid", "ask"]
Level = tuple[str, str]
"""Price and size, as text."""


class Trade(msgspec.Struct, frozen=True):
    """A print: `side` is the taker's, whatever the venue's own convention is."""

    px: Decimal
    qty: Decimal
    side: Literal["buy", "sell"]
    id: int


class Quote(msgspec.Struct, frozen=True, omit_defaults=True):
    """The best price of one side; `qty` is absent where the venue did not send it."""

    px: Decimal
    qty: Decimal | None = None


class Fields(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a tick changes, or a snapshot's whole state; each feed uses its own part."""

    last_trade: Trade | None = None
    best_bid: Quote | None = None
    best_ask: Quote | None = None
    changes: list[tuple[Side, str, str]] | None = None
    bids: list[Level] | None = None
    asks: list[Level] | None = None
    last_px: Decimal | None = None
    """Price of the newest trade, where the venue tells no more of it than that."""


class Tick(msgspec.Struct, frozen=True, tag_field="type", tag="tick"):
    """One change. Times in microseconds UTC."""

    v: int
    venue: str
    product: str
    feed: Feed
    seq: int
    prev_seq: int
    ts_event: int
    ts_ingest: int
    fields: Fields


class Snapshot(msgspec.Struct, frozen=True, tag_field="type", tag="snapshot"):
    """The whole state at `seq`; starts a new chain."""

    v: int
    venue: str
    product: str
    feed: Feed
    seq: int
    ts_snapshot: int
    reason: str
    state: Fields
    resync_id: str | None = None


class GapRange(msgspec.Struct, frozen=True):
    """What is missing: everything after `after` and before `before`, in the gap's own numbers.

    Trades count by trade id, everything else by `seq`; `before` is null while it is unknown.
    """

    after: int
    before: int | None = None


class Status(msgspec.Struct, frozen=True, tag_field="type", tag="status"):
    """A feed of a product changed its state at `since` (microseconds)."""

    v: int
    venue: str
    product: str
    feed: Feed
    state: State
    since: int
    gap: GapRange | None = None
    resync_id: str | None = None


Message = Tick | Snapshot | Status


class Head(msgspec.Struct, frozen=True):
    """The part of a canonical line that routing needs; everything else is skipped unread."""

    type: Literal["tick", "snapshot", "status"]
    feed: Feed
    seq: int = 0
    prev_seq: int = 0


decode_message = msgspec.json.Decoder(Message).decode
"""Decode one canonical line."""

decode_heads = msgspec.json.Decoder(Head).decode_lines
"""Decode the heads of a whole NDJSON payload, in order."""
