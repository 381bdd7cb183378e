"""Who is subscribed to what, and the delivery of each message to them, through the faults.

Delivery is synchronous: it puts text into each subscriber's outbox and returns. The ground
truth gets every message before any fault does.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Protocol

from venues.simulator.channels import Key
from venues.simulator.faults import Fault, Faults, Said
from venues.simulator.numbering import numbered
from venues.simulator.truth import Truth


class Subscriber(Protocol):
    """One connection, as the hub sees it."""

    number: int
    room: asyncio.Event
    """Set while its outbox is short."""

    def push(self, text: str) -> None:
        """Take one frame for delivery."""

    def take_number(self) -> int | None:
        """Return the number of the next message, or none where connections do not count."""

    def cut(self, code: int | None) -> None:
        """End the connection: with a close code, or without a word."""

    def describe(self) -> dict[str, object]:
        """Return what GET /sim/status shows."""


class Hub:
    """Subscriptions by channel and product; `clock` gives microseconds."""

    def __init__(self, faults: Faults, truth: Truth | None, clock: Callable[[], int]) -> None:
        self.faults = faults
        self.emitted: Counter[Key] = Counter()
        self.connections: dict[int, Subscriber] = {}
        self.subscribed = asyncio.Event()
        self._truth = truth
        self._clock = clock
        self._by_key: dict[Key, dict[int, Subscriber]] = {}

    def wants(self, channel: str, product: str) -> bool:
        """Tell whether a message would be heard or written down."""
        if (channel, product) in self._by_key:
            return True
        return self._truth is not None and self._truth.keeps(channel)

    def hears(self, channel: str, product: str) -> bool:
        """Tell whether anyone is subscribed."""
        return (channel, product) in self._by_key

    def emit(self, channel: str, product: str, frame: str) -> None:
        """Count a message, write it down and deliver it."""
        self.emit_to(((channel, product),), frame)

    def emit_to(self, keys: Iterable[Key], frame: str) -> None:
        """Emit one frame that belongs to several channels: once to each connection."""
        now = self._clock()
        reached: dict[int, Subscriber] = {}
        first: Key | None = None
        for key in keys:
            first = first or key
            self.emitted[key] += 1
            if self._truth is not None:
                self._truth.message(now, *key, frame)
            reached |= self._by_key.get(key, {})
        if first is None or not reached:
            return
        if self.faults.quiet:
            for subscriber in list(reached.values()):
                number = subscriber.take_number()
                subscriber.push(frame if number is None else numbered(frame, number))
        else:
            self._deliver(Said(*first, frame), reached, now)

    def greet(self, subscriber: Subscriber, said: Said) -> None:
        """Deliver a message that belongs to one connection's subscribing."""
        said = _counted(said, (subscriber,))
        if self.faults.quiet:
            _push(subscriber, said)
            return
        now = self._clock()
        for out in self.faults.alter(said, subscriber.number, now, greeting=True):
            _push(subscriber, out)

    def add(self, subscriber: Subscriber, key: Key) -> None:
        """Subscribe a connection."""
        self._by_key.setdefault(key, {})[subscriber.number] = subscriber
        self.subscribed.set()

    def count(self, key: Key) -> int:
        """Return how many connections are subscribed."""
        return len(self._by_key.get(key, ()))

    def remove(self, subscriber: Subscriber, key: Key) -> None:
        """Unsubscribe a connection."""
        members = self._by_key.get(key, {})
        members.pop(subscriber.number, None)
        if not members:
            self._by_key.pop(key, None)

    def disconnect(self, fault: Fault) -> None:
        """Cut the connections that a disconnect fault names, oldest first."""
        spec = fault.spec
        for subscriber in list(self.connections.values()):
            if spec.conn not in {None, subscriber.number}:
                continue
            if (spec.product or spec.channel) and not self._listens(
                subscriber, spec.channel, spec.product
            ):
                continue
            if spec.count is not None and fault.hits >= spec.count:
                return
            fault.hits += 1
            subscriber.cut(spec.code)

    def tidy(self) -> None:
        """Retire faults that are over, and deliver what they held back."""
        if not self.faults.quiet:
            self.release(self.faults.expire(self._clock()))

    def release(self, faults: Iterable[Fault]) -> None:
        """Deliver the messages that ended faults still hold."""
        for fault in faults:
            for (channel, product, conn), messages in fault.held.items():
                members = self._by_key.get((channel, product), {})
                for subscriber in list(members.values()):
                    if conn in {None, subscriber.number}:
                        for said in messages:
                            _push(subscriber, said)
            fault.held.clear()

    def _deliver(self, said: Said, reached: dict[int, Subscriber], now: int) -> None:
        self.tidy()
        said = _counted(said, reached.values())
        for shared in self.faults.alter(said, None, now):
            for subscriber in list(reached.values()):
                for out in self.faults.alter(shared, subscriber.number, now):
                    _push(subscriber, out)

    def _listens(self, subscriber: Subscriber, channel: str | None, product: str | None) -> bool:
        return any(
            subscriber.number in members and channel in {None, key[0]} and product in {None, key[1]}
            for key, members in self._by_key.items()
        )


def _counted(said: Said, subscribers: Iterable[Subscriber]) -> Said:
    """Give the message its number on each connection that counts, before any fault sees it."""
    numbers = {
        subscriber.number: number
        for subscriber in subscribers
        if (number := subscriber.take_number()) is not None
    }
    return said._replace(numbers=numbers) if numbers else said


def _push(subscriber: Subscriber, said: Said) -> None:
    if said.numbers is None:
        subscriber.push(said.text)
    elif subscriber.number in said.numbers:
        subscriber.push(numbered(said.text, said.numbers[subscriber.number]))
