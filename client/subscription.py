"""What a subscriber wants and how far it has come, as messages for the gateway.

Pure. `session` decides when to say them; the wire contract is docs/protocol.md.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypedDict

import msgspec

from client.chain import Key
from models.canonical import FEEDS, Feed

ALL_PRODUCTS = "*"
MAX_PRODUCTS = 1000
"""Products that the gateway takes in one message."""

MAX_REQUEST_BYTES = 60_000
"""The gateway reads 64 KB; the rest is left for what surrounds the lists."""

Depth = int | Literal["full"]
OnSlow = Literal["conflate", "disconnect"]


class Position(TypedDict):
    """How far a subscriber has come: plain JSON, to be stored and handed to its successor."""

    epoch: str | None
    """The canonical log that the numbers belong to."""
    from_seq: dict[str, dict[Feed, int]]
    """The newest `seq` handed out, by `venue/product` and feed."""


def to_position(chains: Mapping[Key, int], epoch: str | None) -> Position:
    """Write down how far each chain has come."""
    from_seq: dict[str, dict[Feed, int]] = defaultdict(dict)
    for (venue, product, feed), seq in chains.items():
        from_seq[f"{venue}/{product}"][feed] = seq
    return {"epoch": epoch, "from_seq": dict(from_seq)}


def from_position(position: Position) -> dict[Key, int]:
    """Read how far each chain had come.

    Raises:
        ValueError: it is none.
    """
    try:
        checked = msgspec.convert(position, Position)
    except msgspec.ValidationError as error:
        raise ValueError(
            f"this is not a subscriber's position ({error}): hand over what `position` gave"
        ) from error
    chains: dict[Key, int] = {}
    for name, feeds in checked["from_seq"].items():
        venue, slash, product = name.partition("/")
        if not slash:
            raise ValueError(f"a position names venue/product, and {name!r} has no venue")
        for feed, seq in feeds.items():
            chains[venue, product, feed] = seq
    return chains


class Request(msgspec.Struct, frozen=True):
    """One `subscribe`; `resumes` names the chains that its `from_seq` is about."""

    fields: dict[str, Any]
    resumes: tuple[Key, ...] = ()

    def text(self) -> str:
        """Return the message."""
        return msgspec.json.encode({"op": "subscribe", **self.fields}).decode()

    def anew(self) -> "Request":
        """Return the same without a position."""
        kept = {name: value for name, value in self.fields.items() if name not in _RESUMING}
        return Request(kept)


_RESUMING = frozenset({"from_seq", "epoch"})


class Subscription:
    """Products, feeds and options, the same for every connection.

    Attributes: resumable, whether chains can go on after a break; with `max_rate` they cannot.
    """

    def __init__(
        self,
        products: Sequence[str],
        feeds: Sequence[Feed] = FEEDS,
        *,
        depth: Depth = "full",
        max_rate: float | None = None,
        on_slow: OnSlow = "conflate",
        namespace: str | None = None,
    ) -> None:
        """Prepare; `namespace` is a replay's, none what is live.

        Raises:
            ValueError: no product or no feed is named.
        """
        if isinstance(products, str) or not products or not feeds:
            raise ValueError('name the products and feeds as lists, such as ["BTC-USD"] or ["*"]')
        self._all = ALL_PRODUCTS in products
        self._products = (ALL_PRODUCTS,) if self._all else tuple(dict.fromkeys(products))
        self._feeds = tuple(feeds)
        self._options: dict[str, Any] = {"depth": depth}
        if max_rate is not None:
            self._options["max_rate"] = max_rate
        if on_slow != "conflate":
            self._options["on_slow"] = on_slow
        if namespace is not None:
            self._options["namespace"] = namespace
        self.resumable = max_rate is None

    def wants(self, key: Key) -> bool:
        """Tell whether a chain belongs to it."""
        _, product, feed = key
        return feed in self._feeds and (self._all or product in self._products)

    def requests(self, chains: Mapping[Key, int], epoch: str | None) -> Iterator[Request]:
        """Yield what to say on a new connection: go on with these chains, begin all others.

        One message where the gateway's limits allow it. Beyond them `*` goes first, with as many
        positions as it can hold; it begins the other products anew, and the messages after it,
        which name them, resume them.
        """
        entries = _by_product(chains)
        batch = _Batch(ALL_PRODUCTS) if self._all else _Batch()
        for name in entries if self._all else self._products:
            keys = entries.get(name, {})
            if not batch.fits(name, keys):
                yield self._request(batch, epoch)
                batch = _Batch()
            batch.add(name, keys)
        yield self._request(batch, epoch)

    def one(self, key: Key, seq: int | None, epoch: str | None) -> Request:
        """Return what to say to go on with one chain after `seq`, or to begin it anew."""
        _, product, feed = key
        batch = _Batch()
        batch.add(product, {} if seq is None else {key: seq})
        return self._request(batch, epoch, (feed,))

    def _request(
        self, batch: "_Batch", epoch: str | None, feeds: Sequence[Feed] | None = None
    ) -> Request:
        fields = {"products": batch.products, "feeds": feeds or self._feeds, **self._options}
        if batch.chains:
            fields |= {"from_seq": to_position(batch.chains, epoch)["from_seq"]}
            if epoch is not None:
                fields["epoch"] = epoch
        return Request(fields, tuple(batch.chains))


class _Batch:
    """What one message says; begun with `*`, it does not name the products."""

    def __init__(self, *products: str) -> None:
        self.products = list(products)
        self.chains: dict[Key, int] = {}
        self._names = ALL_PRODUCTS not in products
        self._bytes = 0

    def fits(self, name: str, chains: Mapping[Key, int]) -> bool:
        """Tell whether a product can be added; the first one always can."""
        full = self._names and len(self.products) >= MAX_PRODUCTS
        return not self._bytes or (
            not full and self._bytes + _size(name, chains) <= MAX_REQUEST_BYTES
        )

    def add(self, name: str, chains: Mapping[Key, int]) -> None:
        """Add a product, with all its chains that go on."""
        self._bytes += _size(name, chains)
        self.chains.update(chains)
        if self._names:
            self.products.append(name)


def _by_product(chains: Mapping[Key, int]) -> dict[str, dict[Key, int]]:
    """Put together what one message must say together: a name means it at all venues."""
    entries: dict[str, dict[Key, int]] = defaultdict(dict)
    for key, seq in chains.items():
        entries[key[1]][key] = seq
    return entries


def _size(name: str, chains: Mapping[Key, int]) -> int:
    """Return how many bytes a product takes in a message, at most."""
    return len(msgspec.json.encode([name, to_position(chains, None)["from_seq"]]))
