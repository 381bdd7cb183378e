"""A price-time-priority matching engine for one product, on integers.

Owns the book, the sequence and the trade ids, and says what happened as events of the `full`
channel (COINBASE exchange documentation, "Full channel"). Never does I/O, reads no clock and
draws no random number: the order flow is in `market`, the wire text in `messages`.

Prices are counted in quote increments, sizes in base increments; funds are price times size.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from venues.simulator.events import (
    Change,
    Done,
    Event,
    LevelChange,
    Match,
    Open,
    Outcome,
    Received,
    Side,
)

_UNLIMITED = 1 << 100
"""More than any order can hold; stands for "no cap" in the matching loop."""


class EngineError(ValueError):
    """An order that the engine cannot take; the text says why."""


class Order(msgspec.Struct, gc=False):
    """A resting order."""

    id: int
    side: Side
    price: int
    remaining: int


class Level(msgspec.Struct):
    """All orders at one price, oldest first."""

    total: int
    orders: dict[int, Order]


class BookSide:
    """One side of the book: levels by price, and the prices in order of priority."""

    __slots__ = ("_keys", "_sign", "levels", "side")

    def __init__(self, side: Side) -> None:
        self.side = side
        self.levels: dict[int, Level] = {}
        self._sign = 1 if side == "buy" else -1
        # Ascending, so that the best price of either side is last: cheap to read and to drop.
        self._keys: list[int] = []

    def best(self) -> int | None:
        """Return the best price, or none if the side is empty."""
        return self._keys[-1] * self._sign if self._keys else None

    def prices(self) -> Iterator[int]:
        """Yield the prices, best first."""
        sign = self._sign
        return (key * sign for key in reversed(self._keys))

    def add(self, order: Order) -> LevelChange:
        """Put an order behind the others at its price."""
        level = self.levels.get(order.price)
        if level is None:
            level = self.levels[order.price] = Level(0, {})
            insort(self._keys, order.price * self._sign)
        old = level.total
        level.total = old + order.remaining
        level.orders[order.id] = order
        return LevelChange(self.side, order.price, old, level.total)

    def load(self, orders: Iterable[Order]) -> None:
        """Add many orders at once, sorting the prices only once."""
        for order in orders:
            level = self.levels.get(order.price)
            if level is None:
                level = self.levels[order.price] = Level(0, {})
                self._keys.append(order.price * self._sign)
            level.total += order.remaining
            level.orders[order.id] = order
        self._keys.sort()

    def reduce(self, order: Order, size: int) -> LevelChange:
        """Take `size` off an order; at nothing left the order goes, and an empty level too."""
        level = self.levels[order.price]
        old = level.total
        level.total = old - size
        order.remaining -= size
        if not order.remaining:
            del level.orders[order.id]
            if not level.orders:
                self._drop(order.price)
        return LevelChange(self.side, order.price, old, level.total)

    def _drop(self, price: int) -> None:
        del self.levels[price]
        key = price * self._sign
        if self._keys[-1] == key:
            self._keys.pop()
        else:
            del self._keys[bisect_left(self._keys, key)]


class MatchingEngine:
    """The book of one product.

    Every command either raises `EngineError` and changes nothing, or returns its events; each
    event consumes one sequence number, each match one trade id.
    """

    def __init__(self, sequence: int = 0, trade_id: int = 0) -> None:
        self.bids = BookSide("buy")
        self.asks = BookSide("sell")
        self.orders: dict[int, Order] = {}
        self.sequence = sequence
        self.trade_id = trade_id
        self._order_id = 0
        self._events: list[Event] = []
        self._changes: list[LevelChange] = []

    def book(self, side: Side) -> BookSide:
        """Return one side of the book."""
        return self.bids if side == "buy" else self.asks

    def load(self, side: Side, levels: Iterable[tuple[int, int]]) -> None:
        """Place resting orders (price, size) that were there before the first message."""
        orders = [Order(self._next_order(), side, price, size) for price, size in levels]
        self.orders.update((order.id, order) for order in orders)
        self.book(side).load(orders)

    def limit(self, side: Side, price: int, size: int) -> Outcome:
        """Trade against what crosses, then rest.

        Raises:
            EngineError: price or size is not positive.
        """
        if price <= 0 or size <= 0:
            raise EngineError(f"a limit order needs a price and a size above zero: {price}, {size}")
        order_id = self._next_order()
        self._events.append(Received(self._next_seq(), order_id, side, price, size, None))
        left = self._fill(order_id, side, price, size, None)
        if left:
            order = self.orders[order_id] = Order(order_id, side, price, left)
            self._changes.append(self.book(side).add(order))
            self._events.append(Open(self._next_seq(), order_id, side, price, left))
        else:
            self._events.append(Done(self._next_seq(), order_id, side, "filled", price, 0))
        return self._outcome()

    def market(self, side: Side, *, size: int | None = None, funds: int | None = None) -> Outcome:
        """Trade at once against the best prices, up to `size` or for `funds`.

        Raises:
            EngineError: not exactly one of the two is given, or it is not positive.
        """
        given = size if funds is None else funds
        if (size is None) == (funds is None) or given is None or given <= 0:
            raise EngineError(f"a market order needs either size or funds: {size}, {funds}")
        order_id = self._next_order()
        self._events.append(Received(self._next_seq(), order_id, side, None, size, funds))
        left = self._fill(order_id, side, None, _UNLIMITED if size is None else size, funds)
        filled = self.book("sell" if side == "buy" else "buy").best() is not None or left == 0
        reason: Literal["filled", "canceled"] = "filled" if filled else "canceled"
        self._events.append(Done(self._next_seq(), order_id, side, reason, None, None))
        return self._outcome()

    def cancel(self, order_id: int) -> Outcome:
        """Take a resting order off the book.

        Raises:
            EngineError: no such order rests.
        """
        order = self._resting(order_id)
        left = order.remaining
        self._changes.append(self.book(order.side).reduce(order, left))
        del self.orders[order_id]
        seq = self._next_seq()
        self._events.append(Done(seq, order_id, order.side, "canceled", order.price, left))
        return self._outcome()

    def change(self, order_id: int, new_size: int) -> Outcome:
        """Make a resting order smaller; it keeps its place in the queue.

        Raises:
            EngineError: no such order rests, or the size is not between zero and the old one.
        """
        order = self._resting(order_id)
        old = order.remaining
        if not 0 < new_size < old:
            raise EngineError(f"an order can only become smaller: {old} to {new_size}")
        self._changes.append(self.book(order.side).reduce(order, old - new_size))
        seq = self._next_seq()
        self._events.append(Change(seq, order_id, order.side, order.price, old, new_size))
        return self._outcome()

    def _fill(self, taker: int, side: Side, limit: int | None, size: int, funds: int | None) -> int:
        """Match the taker against the other side; return the size that is left."""
        book = self.asks if side == "buy" else self.bids
        while size and (price := book.best()) is not None:
            if limit is not None and (price > limit if side == "buy" else price < limit):
                break
            maker = next(iter(book.levels[price].orders.values()))
            quantity = min(size, maker.remaining)
            if funds is not None:
                quantity = min(quantity, funds // price)
                if not quantity:
                    break
                funds -= quantity * price
            size -= quantity
            self._match(book, maker, taker, quantity)
        return size

    def _match(self, book: BookSide, maker: Order, taker: int, size: int) -> None:
        self.trade_id += 1
        side, price = maker.side, maker.price
        match = Match(self._next_seq(), self.trade_id, maker.id, taker, side, price, size)
        self._events.append(match)
        self._changes.append(book.reduce(maker, size))
        if not maker.remaining:
            del self.orders[maker.id]
            self._events.append(Done(self._next_seq(), maker.id, side, "filled", price, 0))

    def _resting(self, order_id: int) -> Order:
        order = self.orders.get(order_id)
        if order is None:
            raise EngineError(f"no order {order_id} rests on the book")
        return order

    def _next_seq(self) -> int:
        self.sequence += 1
        return self.sequence

    def _next_order(self) -> int:
        self._order_id += 1
        return self._order_id

    def _outcome(self) -> Outcome:
        outcome = Outcome(self._events, self._changes)
        self._events, self._changes = [], []
        return outcome
