"""Clients with the same subscription, and what is due to all of them.

A frame costs one append per group, however many clients are in it; at the end of the turn the
frames become one blob, and each client one write of it. `audience` decides who is where.
"""

from collections.abc import Iterable, Mapping

from gateway.product import Product
from gateway.protocol import ALL_PRODUCTS
from gateway.sink import Sink

Selection = Mapping[str, int]
"""Feeds (a mask of `FEED_BITS`) by product name or `*`; never changed in place."""


def matched(selection: Selection, name: str) -> int:
    """Return the mask of feeds that a selection wants of a product."""
    return selection.get(name, 0) | selection.get(ALL_PRODUCTS, 0)


class Client:
    """One subscriber.

    Attributes: selection, what it has asked for; depths, book levels a side it wants, by product
    name; group, who it shares with, or none; pending, reasons by (product, feed) of snapshots
    that it must get before anything else of that feed.
    """

    __slots__ = ("depths", "group", "left", "pending", "selection", "sink")

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.selection: Selection = {}
        self.depths: dict[str, int | None] = {}
        self.group: Group | None = None
        self.pending: dict[tuple[Product, int], str] = {}
        self.left = False

    def ask_depth(self, names: Iterable[str], depth: int | None) -> None:
        """Note how many levels a side it wants of these; costs nothing while nobody asks."""
        if depth is not None or self.depths:
            self.depths.update(dict.fromkeys(names, depth))

    def depth_of(self, name: str) -> int | None:
        """Return how many levels a side this client wants; none means all."""
        return self.depths.get(name, self.depths.get(ALL_PRODUCTS))


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
