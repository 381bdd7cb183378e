"""What the matching engine says: the messages of the `full` channel, still as integers.

Prices are counted in quote increments, sizes in base increments; funds are price times size.
`messages` turns them into wire text.
"""

from typing import Literal, NamedTuple

import msgspec

Side = Literal["buy", "sell"]


class Received(msgspec.Struct, frozen=True, gc=False):
    """An order arrived; a market order has no price, and `funds` or `size`."""

    seq: int
    order: int
    side: Side
    price: int | None
    size: int | None
    funds: int | None


class Open(msgspec.Struct, frozen=True, gc=False):
    """An order rests on the book with what was not filled."""

    seq: int
    order: int
    side: Side
    price: int
    remaining: int


class Done(msgspec.Struct, frozen=True, gc=False):
    """An order left; price and remaining size are absent for market orders."""

    seq: int
    order: int
    side: Side
    reason: Literal["filled", "canceled"]
    price: int | None
    remaining: int | None


class Match(msgspec.Struct, frozen=True, gc=False):
    """A trade; `side` is the maker's."""

    seq: int
    trade_id: int
    maker: int
    taker: int
    side: Side
    price: int
    size: int


class Change(msgspec.Struct, frozen=True, gc=False):
    """A resting order became smaller and kept its place."""

    seq: int
    order: int
    side: Side
    price: int
    old_size: int
    new_size: int


Event = Received | Open | Done | Match | Change


class LevelChange(NamedTuple):
    """The total size at a price went from `old` to `new`; zero means no such level."""

    side: Side
    price: int
    old: int
    new: int


class Outcome(NamedTuple):
    """What one command did, in order."""

    events: list[Event]
    changes: list[LevelChange]
