"""Clients with the same subscription, and what is due to all of them.

A frame costs one append per group, however many clients are in it; at the end of the turn the
frames become one blob, and each client one write of it. `audience` decides who is where.
"""

import asyncio
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from gateway.product import FEED_BITS, Product
from gateway.protocol import ALL_PRODUCTS, DEFAULT_DEPTH
from gateway.sink import Sink

ALL_FEEDS = sum(FEED_BITS.values())
"""The mask of all feeds."""

PACED_SHIFT = len(FEED_BITS)
"""A selection's mask holds, above the feeds, those of them that come at a bounded rate."""

Key = tuple[Product, int]
"""A feed: product and bit."""

Selection = Mapping[str, int]
"""Feeds (masks of `FEED_BITS`) by product name or `*`; never changed in place."""


def matched(selection: Selection, name: str) -> int:
    """Return the mask of feeds that a selection wants of a product."""
    return (selection.get(name, 0) | selection.get(ALL_PRODUCTS, 0)) & ALL_FEEDS


def paced_of(selection: Selection, name: str) -> int:
    """Return those of them that come at a bounded rate; what is said by name wins over `*`."""
    own, of_all = selection.get(name, 0), selection.get(ALL_PRODUCTS, 0)
    return (own >> PACED_SHIFT) | ((of_all >> PACED_SHIFT) & ~own)


def live_of(selection: Selection, name: str) -> int:
    """Return those of them that come as they are."""
    return matched(selection, name) & ~paced_of(selection, name)


def count(selection: Selection) -> int:
    """Return how many subscriptions these are; `*` counts as one per feed."""
    return sum((mask & ALL_FEEDS).bit_count() for mask in selection.values())


class Opening(NamedTuple):
    """How a feed begins: why, and if it should have been resumed, the frame that says why not."""

    reason: str
    refusal: bytes = b""


class Backfill:
    """A feed that is being resumed, for as long as its client has it in `backfills`."""

    __slots__ = ("from_seq",)

    def __init__(self, from_seq: int) -> None:
        self.from_seq = from_seq


class Client:
    """One subscriber.

    Attributes: selection, what it has asked for; depths, book levels a side that it wants, by
    product name, and rates, messages a second, by product name and feed, where they are not the
    usual; group, who it shares with, or none; pending, by (product, feed) the snapshots that it
    must get before anything else of that feed; backfills, by (product, feed) those that are being
    resumed, and backfilling, the task that does it; closes_when_slow, rather than being conflated.
    """

    __slots__ = (
        "backfilling",
        "backfills",
        "closes_when_slow",
        "depths",
        "group",
        "left",
        "pending",
        "rates",
        "selection",
        "sink",
    )

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.selection: Selection = {}
        self.depths: dict[str, int | None] = {}
        self.rates: dict[tuple[str, int], float] = {}
        self.group: Group | None = None
        self.pending: dict[Key, Opening] = {}
        self.backfills: dict[Key, Backfill] = {}
        self.backfilling: asyncio.Task[None] | None = None
        self.closes_when_slow = False
        self.left = False

    def ask_depth(self, names: Iterable[str], depth: int | None) -> None:
        """Note how many levels a side it wants of these; costs nothing while nobody asks."""
        if depth != DEFAULT_DEPTH or self.depths:
            self.depths.update(dict.fromkeys(names, depth))

    def depth_of(self, name: str) -> int | None:
        """Return how many levels a side this client wants; none means all."""
        return self.depths.get(name, self.depths.get(ALL_PRODUCTS, DEFAULT_DEPTH))

    def ask_rate(self, names: Iterable[str], bits: Iterable[int], rate: float) -> None:
        """Note how many messages a second it wants of these feeds of these."""
        self.rates.update({(name, bit): rate for name in names for bit in bits})

    def rate_of(self, name: str, bit: int) -> float:
        """Return how many messages a second this client wants of a feed that is paced."""
        rate = self.rates.get((name, bit))
        return self.rates[ALL_PRODUCTS, bit] if rate is None else rate


class Group:
    """Clients that are due the same.

    Attributes: selection, as they asked; masks, the feeds due to them by product; members; due,
    frames since the last flush; messages, how many these hold.
    """

    __slots__ = ("due", "masks", "members", "messages", "selection")

    def __init__(self, selection: Selection) -> None:
        self.selection = selection
        self.masks: dict[Product, int] = {}
        self.members: dict[Sink, Client] = {}
        self.due: list[bytes] = []
        self.messages = 0

    def listen(self, product: Product, mask: int) -> None:
        """Receive these feeds of a product from now on, and no others of it."""
        old = self.masks.pop(product, 0)
        if old:
            listeners = product.audience[old]
            del listeners[self]
            if not listeners:
                del product.audience[old]
        if mask:
            self.masks[product] = mask
            product.audience.setdefault(mask, {})[self] = None

    def dissolve(self) -> None:
        """Receive nothing any more."""
        for product in tuple(self.masks):
            self.listen(product, 0)

    def flush(self) -> tuple[int, list[Client]]:
        """Write what is due to every member, in one write each.

        Returns how many messages went out, and the members that lag too far and got nothing.
        """
        due, messages = self.due, self.messages
        if not due:
            return 0, []
        self.due, self.messages = [], 0
        blob = due[0] if len(due) == 1 else b"".join(due)
        slow: list[Client] = []
        for sink, client in self.members.items():
            if sink.paused and sink.overfull:
                slow.append(client)
            else:
                sink.write(blob)
        return messages * (len(self.members) - len(slow)), slow
