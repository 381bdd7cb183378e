"""`max_rate`: the newest state of a feed, so many times a second at most, while it changes.

Clients with the same rate and depth share a pace, its beat and its bytes. A feed that has changed
marks its paces; nothing happens while nothing changes.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

from gateway.frames import line_frame
from gateway.group import Client, Key
from gateway.metrics import Metrics
from gateway.product import Batch, Product
from gateway.protocol import TOO_SLOW

REST_PER_WORK = 4
"""A beat is followed by so many times as long a rest, so that pacing takes a fifth of the time."""


class Loop(Protocol):
    """What the fan-out needs of an event loop."""

    def call_soon(self, callback: Callable[[], None], /) -> object:
        """Call at the end of this turn."""

    def call_later(self, delay: float, callback: Callable[[], None], /) -> object:
        """Call after so many seconds."""

    def time(self) -> float:
        """Return seconds on the clock of `call_later`."""


class Pace:
    """Clients that want their feeds at one rate and depth.

    Attributes: terms, rate and depth; listeners, by feed the clients and since when each has it.
    """

    def __init__(self, pacer: "Pacer", rate: float, depth: int | None) -> None:
        self.terms = rate, depth
        self.listeners: dict[Key, dict[Client, float]] = {}
        self._pacer = pacer
        self._period_s = 1 / rate
        self._changed: dict[Key, None] = {}
        self._owed: dict[Key, dict[Client, None]] = {}
        self._told: dict[Key, bytes | None] = {}
        self._beat_s = -self._period_s
        self._armed = False

    def touch(self, product: Product, mask: int) -> None:
        """Note that feeds have changed."""
        for bit in product.feeds:
            if bit & mask and (product, bit) in self.listeners:
                self._changed[product, bit] = None
        if self._changed:
            self.arm()

    def arm(self) -> None:
        """Have what is due sent at the next beat."""
        if not self._armed:
            self._armed = True
            now = self._pacer.loop.time()
            due_s = max(self._beat_s + self._period_s, self._pacer.rested_s, now)
            self._pacer.loop.call_later(due_s - now, self._beat)

    def add(self, client: Client, key: Key) -> None:
        """Take a client that has just got the state of a feed."""
        product, bit = key
        self.listeners.setdefault(key, {})[client] = self._pacer.loop.time()
        self._told.setdefault(key, product.feeds[bit].status_line)
        product.paces[self] = None

    def remove(self, client: Client, key: Key) -> None:
        """Send a client no more of a feed."""
        clients = self.listeners[key]
        del clients[client]
        self._owed.get(key, {}).pop(client, None)
        if not clients:
            for by_key in (self.listeners, self._owed, self._changed, self._told):
                by_key.pop(key, None)
            if not any(product is key[0] for product, _ in self.listeners):
                del key[0].paces[self]

    def _beat(self) -> None:
        """Send what has changed to all, and what is owed to whom it is owed."""
        self._armed = False
        changed, self._changed = self._changed, {}
        owed, self._owed = self._owed, {}
        began_s = self._beat_s = self._pacer.loop.time()
        for key in changed:
            owed.pop(key, None)
            self._send(key, tuple(self.listeners.get(key, ())), again=False)
        for key, clients in owed.items():
            self._send(key, tuple(clients), again=True)
        now = self._pacer.loop.time()
        self._pacer.rested_s = now + REST_PER_WORK * (now - began_s)

    def _send(self, key: Key, clients: tuple[Client, ...], *, again: bool) -> None:
        """Send the state of a feed; who lags, or has just got it, is owed it."""
        frames: bytes | None = None
        newcomers_s = self._beat_s - self._period_s
        for client in clients:
            listeners = self.listeners.get(key, {})
            if client not in listeners:
                continue  # it has left on the way
            if client.sink.paused:
                self._lag(client, key)
            elif listeners[client] > newcomers_s:
                self._owe(client, key)
                self.arm()
            else:
                frames = frames or self._render(key, again=again)
                client.sink.write(frames)
                self._pacer.metrics.deliveries.inc()

    def _lag(self, client: Client, key: Key) -> None:
        """Leave out a client that does not keep up; `resume` sends what it is owed."""
        if client.closes_when_slow and client.sink.overfull:
            self._pacer.metrics.too_slow.inc()
            client.sink.hang_up(TOO_SLOW, "you did not read fast enough; come again and resume")
        else:
            self._owe(client, key)

    def _owe(self, client: Client, key: Key) -> None:
        self._owed.setdefault(key, {})[client] = None

    def _render(self, key: Key, *, again: bool) -> bytes:
        """Return the state of a feed, and its status if that is news."""
        product, bit = key
        state = product.feeds[bit]
        frames = line_frame("snapshot", state.snapshot("max_rate", self.terms[1]))
        line = state.status_line
        if line is not None and (again or line is not self._told[key]):
            self._told[key] = line
            return frames + line_frame("status", line)
        return frames


class Pacer:
    """All paces.

    Attributes: loop; metrics; rested_s, when the next beat may be.
    """

    def __init__(self, loop: Loop, metrics: Metrics) -> None:
        self.loop = loop
        self.metrics = metrics
        self.rested_s = 0.0
        self._paces: dict[tuple[float, int | None], Pace] = {}
        self._of: dict[Client, dict[Key, Pace]] = {}

    def touch(self, product: Product, batch: Batch) -> None:
        """Note what a message has changed."""
        for pace in product.paces:
            pace.touch(product, batch.mask)

    def add(self, client: Client, key: Key, rate: float, depth: int | None) -> None:
        """Take a client that has just got the state of a feed."""
        pace = self._paces.get((rate, depth))
        if pace is None:
            pace = self._paces[rate, depth] = Pace(self, rate, depth)
        pace.add(client, key)
        self._of.setdefault(client, {})[key] = pace

    def keys(self, client: Client) -> tuple[Key, ...]:
        """Return the feeds that a client has at a bounded rate."""
        return tuple(self._of.get(client, ()))

    def remove(self, client: Client, keys: Iterable[Key] | None = None) -> None:
        """Send a client no more of these feeds, or of none at all; it may not have had them."""
        own = self._of.get(client)
        if own is None:
            return
        for key in tuple(own) if keys is None else keys:
            pace = own.pop(key, None)
            if pace is not None:
                pace.remove(client, key)
                if not pace.listeners:
                    del self._paces[pace.terms]
        if not own:
            del self._of[client]

    def resume(self, client: Client) -> None:
        """Send a client that keeps up again what it is owed."""
        for pace in set(self._of.get(client, {}).values()):
            pace.arm()
