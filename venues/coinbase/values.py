"""What both mappers of Coinbase's words check: times, numbers, and lines not understood."""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from models.canonical import Feed, Level
from models.decoding import UNREADABLE
from models.events import Invalid
from models.numbers import MAX_AHEAD_US, MIN_EVENT_US, are_decimals, iso_to_us
from models.records import head_of

_LEVELS_AT_ONCE = 1000


class BadValueError(Exception):
    """A value that the venue should never send. `args`: reason, sentence."""


class _Loose(msgspec.Struct):
    """What can still be read of a line whose frame is not understood."""

    ts_ingest: int = 0
    conn: str = ""
    n: int = 0
    frame: msgspec.Raw = msgspec.Raw(b"null")


class _Kind(msgspec.Struct):
    """The field that tells a frame's kind: `type` at Exchange, `channel` at Advanced Trade."""

    type: str = ""
    channel: str = ""


_decode_loose = msgspec.json.Decoder(_Loose).decode
_decode_kind = msgspec.json.Decoder(_Kind).decode


def not_understood(
    text: bytes, detail: str, feeds: Mapping[str, Feed], tag: Literal["type", "channel"]
) -> Invalid:
    """Say as much as can be said about a line that does not match any type.

    `feeds`: the feed that suffers, by the kind of the frame; `tag`: the field that tells the kind.
    """
    try:
        loose = _decode_loose(text)
        told = _decode_kind(loose.frame)
    except UNREADABLE:
        # It cannot be told what it was: a change of the book may have been in it.
        return Invalid(*head_of(text), "malformed", detail, "book")
    kind: str = getattr(told, tag)
    known = kind in feeds or "Invalid value" not in detail
    reason = "bad_field" if known and kind else "unknown_type"
    return Invalid(loose.ts_ingest, loose.conn, loose.n, reason, detail, feeds.get(kind))


def event_time(text: str, ts_ingest: int) -> int:
    """Return an event time in microseconds that can be true.

    Raises:
        BadValueError: it is no time, or one that cannot be.
    """
    try:
        time_us = iso_to_us(text)
    except (ValueError, OverflowError):
        raise BadValueError("bad_time", f"time {text!r} is no ISO-8601 time") from None
    if not MIN_EVENT_US <= time_us <= ts_ingest + MAX_AHEAD_US:
        raise BadValueError("absurd_time", f"time {text!r} cannot be true")
    return time_us


def check_numbers(joined: str, count: int) -> None:
    """Make sure that a text is so many prices and sizes with a space between each.

    Raises:
        BadValueError: it is not.
    """
    if not are_decimals(joined, count):
        raise BadValueError("bad_number", f"not all of these are prices or sizes: {joined[:200]}")


def check_levels(levels: Sequence[Level]) -> None:
    """Make sure that all levels are numbers, a bounded part at once.

    Raises:
        BadValueError: one is not.
    """
    for start in range(0, len(levels), _LEVELS_AT_ONCE):
        part = levels[start : start + _LEVELS_AT_ONCE]
        check_numbers(" ".join([f"{price} {size}" for price, size in part]), 2 * len(part))
