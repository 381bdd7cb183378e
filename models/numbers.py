"""Exact numbers and times: the text rules for prices, sizes and timestamps.

Prices and sizes travel as the digits that the venue sent and are never put through a binary
float. Times are integer microseconds since 1970 UTC.
"""

import re
from datetime import UTC, datetime

MIN_EVENT_US = 1_230_768_000_000_000
"""2009-01-01: no event of a venue we speak to is older; earlier times are dirty data."""

MAX_AHEAD_US = 86_400_000_000
"""An event may claim to be at most one day ahead of its receipt."""

_DECIMAL = r"(?:0|[1-9][0-9]{0,27})(?:\.[0-9]{1,27})?"

is_decimal = re.compile(_DECIMAL).fullmatch
"""Truthy for a non-negative plain decimal as JSON spells it: no sign, exponent or leading zero."""

_many = re.compile(rf"{_DECIMAL}(?: {_DECIMAL})*").fullmatch

_from_iso = datetime.fromisoformat
_SECONDS = 1_000_000


def are_decimals(joined: str, count: int) -> bool:
    """Tell whether text is `count` decimals joined by single spaces.

    One match for all of them costs a fraction of one each; the count shows a space within one.
    """
    return _many(joined) is not None and joined.count(" ") == count - 1


def is_zero(size: str) -> bool:
    """Tell whether decimal text means nothing: venues spell zero 0, 0.0 and 0.00000000 alike."""
    return not size.strip("0.")


def iso_to_us(text: str) -> int:
    """Turn ISO-8601 text with a zone into microseconds since 1970, exactly (finer is cut off).

    Raises:
        ValueError: the text is no ISO time, or names no zone.
    """
    moment = _from_iso(text)
    if moment.tzinfo is None:
        raise ValueError(f"time without a zone: {text!r}")
    # A double holds whole microseconds exactly until the year 2255, so rounding restores them.
    return round(moment.timestamp() * _SECONDS)


def us_to_iso(time_us: int) -> str:
    """Turn microseconds since 1970 into ISO-8601 text with six digits and a Z."""
    seconds, micros = divmod(time_us, _SECONDS)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{micros:06d}Z"
