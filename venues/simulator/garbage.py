"""Damaged messages: frames that are no JSON, and JSON that makes no sense.

Pure. The bad values are real ones: they stand in public recordings and test suites.
"""

from typing import Literal, get_args

import msgspec

Variant = Literal["unknown_type", "bad_number", "absurd_time", "foreign_product"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)

BAD_NUMBER = "0.-10000"
ABSURD_TIME = "0001-01-01T00:00:00.000000Z"
UNKNOWN_TYPE = "mystery"
FOREIGN_PRODUCT = "NOT-LISTED"

_ADVANCED_ITEMS = ("updates", "trades", "tickers")
_ADVANCED_SIZES = ("new_quantity", "size", "price")
_SIZES = ("size", "last_size", "remaining_size", "new_size")


def spoil(text: str) -> str:
    """Cut a frame short, so that it is no JSON any more."""
    return text[: max(1, len(text) * 2 // 3)]


def garble(text: str, variant: Variant) -> str:
    """Return the message with one value made senseless."""
    message: dict[str, object] = msgspec.json.decode(text, type=dict[str, object])
    if "channel" in message:
        _garble_advanced(message, variant)
        return msgspec.json.encode(message).decode()
    match variant:
        case "unknown_type":
            message["type"] = UNKNOWN_TYPE
        case "absurd_time":
            message["time"] = ABSURD_TIME
        case "foreign_product":
            message["product_id"] = FOREIGN_PRODUCT
        case "bad_number":
            _break_number(message)
    return msgspec.json.encode(message).decode()


def _break_number(message: dict[str, object]) -> None:
    changes = message.get("changes")
    if isinstance(changes, list) and changes and isinstance(changes[0], list):
        changes[0][2] = BAD_NUMBER
        return
    message[next((name for name in _SIZES if name in message), "size")] = BAD_NUMBER


def _garble_advanced(message: dict[str, object], variant: Variant) -> None:
    """Do the same to an envelope: its time, its channel, or the first thing that it tells."""
    if variant == "unknown_type":
        message["channel"] = UNKNOWN_TYPE
    elif variant == "absurd_time":
        message["timestamp"] = ABSURD_TIME
    for item in _items(message):
        if variant == "foreign_product":
            item["product_id"] = FOREIGN_PRODUCT
        elif variant == "absurd_time":
            item["event_time"] = item["time"] = ABSURD_TIME
        elif variant == "bad_number":
            item[next((name for name in _ADVANCED_SIZES if name in item), "size")] = BAD_NUMBER


def _items(message: dict[str, object]) -> list[dict[str, object]]:
    """Return the first event and the first of each kind of thing in it."""
    events = message.get("events")
    if not isinstance(events, list) or not events:
        return []
    first: dict[str, object] = events[0]
    lists = [first[name] for name in _ADVANCED_ITEMS if first.get(name)]
    return [first, *(rows[0] for rows in lists if isinstance(rows, list))]
