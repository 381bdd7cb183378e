"""Seeded order flow for one product: who sends what to the matching engine.

Pure: the same seed gives the same orders for ever, whatever the clock says. The book cannot
grow without end: the more orders rest, the more likely the next step cancels one.
"""

from collections.abc import Iterator
from random import Random

from venues.simulator.catalogue import Product
from venues.simulator.engine import MatchingEngine
from venues.simulator.events import Done, Open, Outcome, Side

POOL_TARGET = 400
"""Orders of the flow that rest at once, about; never more than twice as many."""

_FAR_ASK = 9_999_999_999
"""In quote units: real books hold an ask at 9999999999.00, and parsers must survive it."""

_LOT_QUOTE = 25
"""What one lot is worth, in units of the quote currency."""


class Market:
    """A matching engine and the traders who use it.

    `levels`: price levels a side before the first order, beyond those the flow adds; cheap
    products have fewer on the bid side when their price leaves no room. `trade_share`: share of
    steps in which someone takes liquidity.
    """

    def __init__(
        self, product: Product, seed: int, *, levels: int = 500, trade_share: float = 0.2
    ) -> None:
        self.product = product
        self._random = Random(f"{seed}/{product.id}")  # noqa: S311 - repeatable, not secret
        self._trade_share = trade_share
        self._start = product.start_price
        self._anchor = product.start_price
        self._reach = max(4, product.start_price // 2500)
        self._range = product.start_price // 50
        self._stride = max(1, product.start_price // 100_000)
        scale: int = 10 ** (product.price_places + product.size_places)
        self._lot = max(1, _LOT_QUOTE * scale // product.start_price)
        self._pool: list[int] = []
        self._place: dict[int, int] = {}
        self.engine = MatchingEngine(
            sequence=self._random.randrange(10**10, 10**11),
            trade_id=self._random.randrange(10**6, 10**8),
        )
        self._seed_book(levels)

    def step(self) -> Outcome:
        """Let one trader act; returns at least one event."""
        self._wander()
        outcome = self._act()
        for event in outcome.events:
            if isinstance(event, Open):
                self._place[event.order] = len(self._pool)
                self._pool.append(event.order)
            elif isinstance(event, Done):
                self._forget(event.order)
        return outcome

    def _act(self) -> Outcome:
        side: Side = "buy" if self._random.getrandbits(1) else "sell"
        if self._random.random() < self._trade_share:
            return self._take(side)
        roll = self._random.randrange(2 * POOL_TARGET)
        if roll >= len(self._pool):
            return self._place_limit(side)
        order_id = self._pool[self._random.randrange(len(self._pool))]
        size = self.engine.orders[order_id].remaining
        if size > 1 and self._random.randrange(16) == 0:
            return self.engine.change(order_id, self._random.randrange(1, size))
        return self.engine.cancel(order_id)

    def _take(self, side: Side) -> Outcome:
        """Take from the other side; add to it instead when it is empty."""
        other = self.engine.asks if side == "buy" else self.engine.bids
        price = other.best()
        if price is None:
            return self._place_limit("sell" if side == "buy" else "buy")
        size = self._size()
        if self._random.getrandbits(1):
            return self.engine.limit(side, price, size)
        if side == "buy":
            scale: int = 10**self.product.size_places
            return self.engine.market(side, funds=max(1, size * price // scale) * scale)
        return self.engine.market(side, size=size)

    def _place_limit(self, side: Side) -> Outcome:
        """Quote around the anchor, mostly near it; crosses when the market has moved away."""
        near, far = self._random.randrange(self._reach), self._random.randrange(self._reach)
        distance = 1 + near * far // self._reach
        price = self._anchor - distance if side == "buy" else self._anchor + distance
        return self.engine.limit(side, max(1, price), self._size())

    def _size(self) -> int:
        """Draw a size: mostly a lot or so, sometimes a hundred."""
        root = self._random.randrange(1, 32)
        lots = root * root
        return max(1, self._lot * lots // 10 + self._random.randrange(self._lot))

    def _wander(self) -> None:
        """Move the anchor a little, within two percent of the start price.

        The first orders reach further (`_ladder`), so the book stays deep however long it runs.
        """
        if self._random.getrandbits(3):
            return
        self._anchor += self._random.randint(-self._stride, self._stride)
        self._anchor = min(max(self._anchor, self._start - self._range), self._start + self._range)

    def _forget(self, order_id: int) -> None:
        """Remove an order from the pool by moving the last one into its place."""
        place = self._place.pop(order_id, None)
        if place is None:
            return
        last = self._pool.pop()
        if last != order_id:
            self._pool[place] = last
            self._place[last] = place

    def _seed_book(self, levels: int) -> None:
        self.engine.load("buy", self._ladder(-1, levels))
        far = _FAR_ASK * 10**self.product.price_places
        self.engine.load("sell", self._ladder(1, levels - 1))
        self.engine.load("sell", [(far, self._size())])

    def _ladder(self, direction: int, levels: int) -> Iterator[tuple[int, int]]:
        """Yield (price, size) away from the anchor, to about five percent or further.

        Bids stop above a tenth of the price, whatever `levels` asks for.
        """
        gap = max(1, self._start // (10 * max(1, levels)))
        price, floor = self._anchor, max(1, self._start // 10)
        for _ in range(levels):
            price += direction * self._random.randint(1, gap)
            if price < floor:
                return
            yield price, self._size()
