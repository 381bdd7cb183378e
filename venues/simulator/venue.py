"""One simulated exchange without its socket: what the timers, the routes and the tests share."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import replace

from venues.simulator import cassette
from venues.simulator.advanced_desk import AdvancedDesk
from venues.simulator.catalogue import Product
from venues.simulator.config import SimConfig
from venues.simulator.exchange import Exchange
from venues.simulator.fault_spec import FaultSpec
from venues.simulator.faults import Fault, Faults
from venues.simulator.hub import Hub
from venues.simulator.limits import Doors
from venues.simulator.market import Market
from venues.simulator.stale import StaleBooks
from venues.simulator.truth import Truth


class Clock:
    """Microseconds since 1970 that never go back."""

    def __init__(self) -> None:
        self._last = 0

    def __call__(self) -> int:
        """Return the time."""
        self._last = max(self._last, time.time_ns() // 1000)
        return self._last


class UnknownTargetError(ValueError):
    """A fault names a product that is not listed, or a connection that is not open.

    Attributes: target.
    """

    def __init__(self, target: str | int) -> None:
        product = isinstance(target, str)
        where = "listed here: see GET /products" if product else "open: see GET /sim/status"
        super().__init__(f"{target!r} is not {where}")
        self.target = target


class Venue:
    """Markets, subscriptions, faults and the ground truth of one simulated exchange.

    Raises:
        ProductError: a product cannot be listed.
        CassetteError: the recording cannot be played.
    """

    def __init__(self, config: SimConfig, clock: Callable[[], int] | None = None) -> None:
        if config.cassette is not None:
            config = replace(config, products=tuple(cassette.products(config.cassette)))
        self.config = config
        self.clock = clock or Clock()
        self.products: list[Product] = config.listing()
        path = config.ground_truth
        self.truth = None if path is None else Truth(path, config.truth_channels)
        self.faults = Faults()
        self.hub = Hub(self.faults, self.truth, self.clock)
        self.exchange = Exchange(self._markets(), self.hub, kept=config.trades_kept)
        self.advanced = AdvancedDesk(self.exchange, self.hub)
        self.stale = StaleBooks(self.faults, self.exchange.listed)
        self.doors = Doors(config.limits)
        self.running = asyncio.Event()
        self.stopping = asyncio.Event()
        if not config.paused:
            self.running.set()
        now = self.clock()
        start = now - int(config.history_s * 1_000_000)
        self.exchange.live_through(start, now, max(1, config.history_trades))

    def listed(self) -> list[str]:
        """Return the names of the products that can be subscribed to now."""
        names = [product.id for product in self.products]
        if self.faults.quiet:
            return names
        now = self.clock()
        return [name for name in names if not self.faults.delisted(name, now)]

    def listings(self) -> list[dict[str, object]]:
        """Return the listed products as REST shows them."""
        names = self.listed()
        return [product.listing for product in self.products if product.id in names]

    def pause(self) -> None:
        """Stop the market and send what is pending; heartbeats go on."""
        self.running.clear()
        self.flush_levels()
        self.flush_tickers()
        self.flush_advanced()
        self.hub.tidy()
        self.flush_truth()

    def resume(self) -> None:
        """Let the market go on."""
        self.running.set()

    def step(self, product: str, count: int = 1) -> int:
        """Let traders of one product act now; return the number of `full` messages."""
        return sum(self.exchange.step(product, self.clock()) for _ in range(count))

    def inject(self, spec: FaultSpec) -> Fault:
        """Begin a fault, and write it into the ground truth.

        Raises:
            UnknownTargetError: it names a product or connection that there is not.
            TooManyFaultsError: too many are active.
        """
        if spec.product is not None and spec.product not in {one.id for one in self.products}:
            raise UnknownTargetError(spec.product)
        if spec.conn is not None and spec.conn not in self.hub.connections:
            raise UnknownTargetError(spec.conn)
        now = self.clock()
        fault = self.faults.inject(spec, now, self.hub.connections)
        if spec.kind == "rest_stale_book":
            self.stale.note(spec, now)
        if spec.kind == "disconnect":
            self.hub.disconnect(fault)
        if self.truth is not None:
            self.truth.fault(now, {"id": fault.id, **spec.model_dump(exclude_defaults=True)})
        return fault

    def clear(self, fault_id: int | None = None) -> int:
        """End one fault or all, delivering what they held back; return how many there were."""
        ended = self.faults.clear(fault_id)
        self.hub.release(ended)
        return len(ended)

    def flush_levels(self) -> None:
        """Send every product's pending level2 batch."""
        for name in self.trading():
            self.exchange.flush_levels(name)

    def flush_tickers(self) -> None:
        """Send ticker_batch's message of every product that traded."""
        for name in self.trading():
            self.exchange.flush_ticker(name)

    def flush_advanced(self) -> None:
        """Send Advanced Trade's pending prints."""
        self.advanced.flush_trades(self.clock())

    def flush_advanced_tickers(self) -> None:
        """Send Advanced Trade's `ticker_batch`."""
        self.advanced.flush_tickers(self.clock())

    def beat(self, time_us: int) -> None:
        """Send every product's heartbeat, and every Advanced Trade connection's."""
        self.advanced.beat(time_us)
        for name in self.trading():
            self.exchange.beat(name, time_us)

    def say_status(self) -> None:
        """Send the `status` channels' messages."""
        self.exchange.say_status(self.listings())
        self.advanced.say_status(self.listings(), self.clock())

    def flush_truth(self) -> None:
        """Hand the ground truth to the operating system."""
        if self.truth is not None:
            self.truth.flush()

    def trading(self) -> list[str]:
        """Return the products that trade now: none where a recording is played."""
        listed = self.exchange.listed
        return [name for name in self.listed() if name in listed]

    async def wait_for_stop(self, seconds: float) -> None:
        """Wait so long, or until the server stops."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.stopping.wait()

    def status(self) -> dict[str, object]:
        """Return what GET /sim/status shows."""
        emitted: dict[str, dict[str, int]] = {}
        for (channel, product), count in sorted(self.hub.emitted.items()):
            emitted.setdefault(product, {})[channel] = count
        return {
            "paused": not self.running.is_set(),
            "time_us": self.clock(),
            "products": {
                name: {
                    "sequence": listed.engine.sequence,
                    "last_trade_id": listed.last_trade_id,
                    "bids": len(listed.engine.bids.levels),
                    "asks": len(listed.engine.asks.levels),
                }
                for name, listed in self.exchange.listed.items()
            },
            "emitted": emitted,
            "connections": [one.describe() for one in self.hub.connections.values()],
        }

    def _markets(self) -> list[Market]:
        config = self.config
        if config.cassette is not None:
            return []
        return [
            Market(
                product,
                config.seed,
                levels=config.deep.get(product.id, config.levels),
                trade_share=config.trade_share,
            )
            for product in self.products
        ]
