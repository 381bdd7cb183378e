"""What Advanced Trade's endpoint says: the exchange's own steps, seen from its other feed.

Pure: takes `now_us`, hands finished messages to the hub. Nothing is rendered while nobody
listens; the engine's truth is in Exchange's channels.
"""

from collections.abc import Sequence

from venues.simulator import advanced_messages as messages
from venues.simulator.advanced_channels import (
    CHANNELS,
    HEARTBEATS,
    LEVEL2,
    MARKET_TRADES,
    STATUS,
    TICKER,
    TICKER_BATCH,
)
from venues.simulator.channels import ALL
from venues.simulator.events import Match, Outcome
from venues.simulator.exchange import Exchange, Listed
from venues.simulator.history import Print
from venues.simulator.hub import Hub

SNAPSHOT_TRADES = 100
"""How many past prints a new subscriber of `market_trades` gets."""


class AdvancedDesk:
    """Watches the exchange and speaks to those who listen on this endpoint."""

    def __init__(self, exchange: Exchange, hub: Hub) -> None:
        self._exchange = exchange
        self._hub = hub
        self._prints: dict[str, list[Print]] = {}
        self._due: set[str] = set()
        self._beats = 0
        exchange.watchers.append(self.take)

    def take(self, listed: Listed, outcome: Outcome, now_us: int) -> None:
        """Say what one step did."""
        hub, product = self._hub, listed.product.id
        prints = [Print(event, now_us) for event in outcome.events if isinstance(event, Match)]
        if prints and hub.hears(MARKET_TRADES, product):
            self._prints.setdefault(product, []).extend(prints)
        if prints and hub.hears(TICKER_BATCH, product):
            self._due.add(product)
        if prints and hub.hears(TICKER, product):
            hub.emit(TICKER, product, messages.ticker(listed, "update", now_us))
        if outcome.changes and hub.hears(LEVEL2, product):
            frame = messages.level2_update(listed, outcome.changes, now_us)
            hub.emit(LEVEL2, product, frame)

    def flush_trades(self, now_us: int) -> None:
        """Send each product's prints of the last quarter of a second."""
        pending, self._prints = self._prints, {}
        for product, prints in pending.items():
            listed = self._exchange.listed[product]
            frame = messages.market_trades(listed, "update", prints, now_us)
            self._hub.emit(MARKET_TRADES, product, frame)

    def flush_tickers(self, now_us: int) -> None:
        """Send `ticker_batch` for every product that traded since the last one."""
        due, self._due = self._due, set()
        for product in sorted(due):
            listed = self._exchange.listed[product]
            frame = messages.ticker(listed, "update", now_us, "ticker_batch")
            self._hub.emit(TICKER_BATCH, product, frame)

    def beat(self, now_us: int) -> None:
        """Send the heartbeat of every connection."""
        self._beats += 1
        if self._hub.hears(HEARTBEATS, ALL):
            self._hub.emit(HEARTBEATS, ALL, messages.heartbeat(self._beats, now_us))

    def say_status(self, listings: Sequence[dict[str, object]], now_us: int) -> None:
        """Send the `status` channel's message."""
        if self._hub.hears(STATUS, ALL):
            self._hub.emit(STATUS, ALL, messages.status(listings, "update", now_us))

    def greeting(self, channel: str, product: str, now_us: int) -> str | None:
        """Return what a new subscriber of the channel gets, before the acknowledgement."""
        assert channel in CHANNELS  # noqa: S101  # read_keys lets no other through
        listed = self._exchange.listed.get(product)
        if listed is None:
            return None
        if channel == LEVEL2:
            return messages.level2_snapshot(listed, now_us)
        prints = listed.history.page(SNAPSHOT_TRADES, None, None)[::-1]
        if channel == MARKET_TRADES:
            return messages.market_trades(listed, "snapshot", prints, now_us)
        name = "ticker" if channel == TICKER else "ticker_batch"
        return messages.ticker(listed, "snapshot", now_us, name) if prints else None
