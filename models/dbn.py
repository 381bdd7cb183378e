"""Canonical ticks of Databento DBN files: what a replay of such files publishes.

The form is that of `models.canonical`, with what these files have beside it: the venue's own
numbers, nanoseconds, and a whole ladder of ten levels instead of changes. `seq` is the venue's
time in microseconds, made strictly increasing per product and feed, because the file's own
`sequence` repeats within a packet and skips for other products; `prev_seq` links as everywhere.
"""

from decimal import Decimal
from typing import Literal

import msgspec

Kind = Literal["futures", "options"]
"""What an instrument is, and so which subjects it goes to."""

DbnFeed = Literal["trades", "mbp10"]
"""`trades`: single prints. `mbp10`: ten price levels a side, the whole of them each time."""

Action = Literal["add", "modify", "cancel", "clear", "trade", "fill", "none"]


class Print(msgspec.Struct, frozen=True):
    """A print. `side` is the taker's; null where the venue does not tell, as is `px`."""

    px: Decimal | None
    qty: int
    side: Literal["buy", "sell"] | None


class Change(msgspec.Struct, frozen=True):
    """What led to a new ladder. `depth`: the level that it was on, from 0."""

    action: Action
    side: Literal["bid", "ask"] | None
    px: Decimal | None
    qty: int
    depth: int


DepthLevel = tuple[str, str, int]
"""Price and size as text, and how many orders."""


class DbnFields(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of `trades` the print; of `mbp10` the change and the ladder after it, best prices first."""

    last_trade: Print | None = None
    change: Change | None = None
    bids: list[DepthLevel] | None = None
    asks: list[DepthLevel] | None = None


class DbnTick(msgspec.Struct, frozen=True, tag_field="type", tag="tick"):
    """One record. `venue`: the dataset, such as `GLBX.MDP3`; `product`: the venue's own symbol.

    `ts_event`, `ts_ingest` (when it was captured): microseconds; with `_ns` the same as the file
    has them. `sequence`: the venue's number of the packet. `publisher`: DBN's number of the place
    that published it, where a dataset has several. `flags`: DBN's bits, such as 8 for a bad
    capture time and 4 for a book that may be wrong.
    """

    v: int
    venue: str
    product: str
    feed: DbnFeed
    seq: int
    prev_seq: int
    ts_event: int
    ts_ingest: int
    ts_event_ns: int
    ts_ingest_ns: int
    sequence: int
    publisher: int
    flags: int
    fields: DbnFields


decode_dbn_tick = msgspec.json.Decoder(DbnTick).decode
"""Decode one line."""
