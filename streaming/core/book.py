"""An order book by price level: absolute sizes in, best prices and snapshots out.

Owns the levels of one product. Knows neither sequence numbers nor venues; the normalizer decides
what to apply. The cost of an update does not grow with the depth of the book.
"""

from collections.abc import Iterable
from decimal import Decimal
from heapq import heapify, heappop, heappush, nlargest, nsmallest

from models.canonical import Level, Side
from models.numbers import is_zero

Change = tuple[Side, str, str]
"""Side, price and the new absolute size; zero removes the level."""

_SLACK = 64
"""A heap may hold twice the live levels plus this many before it is rebuilt."""


class _Ladder:
    """One side: sizes by price, and a heap whose dead entries are dropped when they surface."""

    __slots__ = ("_best", "_heap", "_sign", "levels")

    def __init__(self, sign: int, levels: Iterable[Level] = ()) -> None:
        self._sign = sign
        self.levels: dict[Decimal, str] = {
            Decimal(price): size for price, size in levels if not is_zero(size)
        }
        self._heap = [sign * price for price in self.levels]
        heapify(self._heap)
        self._best: Decimal | None = None

    def set(self, price: Decimal, size: str) -> None:
        """Put one level."""
        levels = self.levels
        if price not in levels:
            heappush(self._heap, self._sign * price)
            self._best = None
            if len(self._heap) > 2 * len(levels) + _SLACK:
                self._heap = [self._sign * live for live in levels]
                heapify(self._heap)
                heappush(self._heap, self._sign * price)
        levels[price] = size

    def remove(self, price: Decimal) -> None:
        """Remove one level; removing an unknown one is routine at every venue."""
        if self.levels.pop(price, None) is not None and price == self._best:
            self._best = None

    def best(self) -> Decimal | None:
        """Return the price nearest to the other side, or none when the side is empty."""
        if self._best is None:
            heap, levels, sign = self._heap, self.levels, self._sign
            while heap:
                price = sign * heap[0]
                if price in levels:
                    self._best = price
                    break
                heappop(heap)
        return self._best

    def sorted(self, depth: int | None) -> list[Level]:
        """Return levels from the best on, at most `depth` of them; every digit as it came."""
        if depth is None:
            prices = sorted(self.levels, reverse=self._sign < 0)
        else:
            best = nlargest if self._sign < 0 else nsmallest
            prices = best(depth, self.levels)
        return [(format(price, "f"), self.levels[price]) for price in prices]


class Book:
    """The bids and asks of one product."""

    __slots__ = ("_asks", "_bids")

    def __init__(self, bids: Iterable[Level] = (), asks: Iterable[Level] = ()) -> None:
        """Build from a snapshot's levels, in any order; zero sizes are left out.

        Raises:
            decimal.InvalidOperation: a price is no number.
        """
        self._bids = _Ladder(-1, bids)
        self._asks = _Ladder(1, asks)

    def apply(self, changes: Iterable[Change]) -> None:
        """Apply absolute sizes, in order."""
        for side, price, size in changes:
            ladder = self._bids if side == "bid" else self._asks
            if is_zero(size):
                ladder.remove(Decimal(price))
            else:
                ladder.set(Decimal(price), size)

    @property
    def best_bid(self) -> Decimal | None:
        """The highest bid."""
        return self._bids.best()

    @property
    def best_ask(self) -> Decimal | None:
        """The lowest ask."""
        return self._asks.best()

    @property
    def crossed(self) -> bool:
        """Whether a bid reaches the lowest ask, which no healthy book shows."""
        bid, ask = self._bids.best(), self._asks.best()
        return bid is not None and ask is not None and bid >= ask

    def bids(self, depth: int | None = None) -> list[Level]:
        """Return bids as text, the highest first."""
        return self._bids.sorted(depth)

    def asks(self, depth: int | None = None) -> list[Level]:
        """Return asks as text, the lowest first."""
        return self._asks.sorted(depth)

    def __eq__(self, other: object) -> bool:
        """Compare all levels, digit by digit."""
        if not isinstance(other, Book):
            return NotImplemented
        return self._bids.levels == other._bids.levels and self._asks.levels == other._asks.levels

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __len__(self) -> int:
        return len(self._bids.levels) + len(self._asks.levels)
