"""Requests for recovery: what the normalizer puts onto MD_RESYNC when a gate closes."""

from typing import Literal

import msgspec

from models.canonical import Feed

GapReason = Literal[
    "trade_id",
    "sequence",
    "watermark",
    "lost_record",
    "crossed",
    "no_snapshot",
    "connection",
    "manual",
]
"""How a loss was noticed: by which numbering, by a book that cannot be true, or by a person."""

MANUAL = "/manual-"
"""Stands in the id of a resync that a person has ordered without a gap."""


class ResyncRequest(msgspec.Struct, frozen=True):
    """One gap of one feed of one product.

    `after` and `before` bound what is missing, exclusively: trade ids for `trade_id` and
    `watermark` of the trades feed, times in microseconds for the book, venue sequences for
    everything else; `before` is none while it is unknown. `since`: microseconds.
    """

    venue: str
    product: str
    feed: Feed
    resync_id: str
    reason: GapReason
    after: int
    before: int | None
    since: int
    stretch: str | None = None
    """Names the lost stretch of a connection, where one loss hit every product on it."""
    v: int = 1


def resync_id(venue: str, product: str, feed: Feed, after: int, before: int | None) -> str:
    """Return the id of a gap: the same gap has the same id, whoever sees it and however often."""
    return f"resync/{venue}/{product}/{feed}/{after}-{'open' if before is None else before}"
