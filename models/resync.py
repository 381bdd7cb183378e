"""Requests for recovery: what the normalizer puts onto MD_RESYNC when a gate closes."""

from typing import Literal

import msgspec

from models.canonical import Feed

GapReason = Literal["trade_id", "sequence", "watermark", "lost_record", "crossed", "no_snapshot"]
"""How a loss was noticed: by which numbering, or by a book that cannot be true."""


class ResyncRequest(msgspec.Struct, frozen=True):
    """One gap of one feed of one product.

    `after` and `before` bound what is missing, exclusively: trade ids for `trade_id`, venue
    sequences for everything else; `before` is none while it is unknown. `since`: microseconds.
    """

    venue: str
    product: str
    feed: Feed
    resync_id: str
    reason: GapReason
    after: int
    before: int | None
    since: int
    v: int = 1


def resync_id(venue: str, product: str, feed: Feed, after: int, before: int | None) -> str:
    """Return the id of a gap: the same gap has the same id, whoever sees it and however often."""
    return f"resync/{venue}/{product}/{feed}/{after}-{'open' if before is None else before}"
