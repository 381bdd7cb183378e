"""The exchange itself: markets, their history, and what each step says on every channel.

Pure: takes `now_us`, hands finished messages to an `Emitter`. Everything that one step does is
emitted before it returns, so a book read between two steps agrees with all that was said.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from models.numbers import us_to_iso
from venues.simulator.catalogue import Product
from venues.simulator.channels import ALL
from venues.simulator.events import LevelChange, Match, Outcome
from venues.simulator.history import History
from venues.simulator.market import Market
from venues.simulator.messages import Wire, status_message

_STEPS_PER_TRADE = 100
"""Bound on the work for one past trade; a market trades every few steps."""


class Emitter(Protocol):
    """Takes what the exchange says."""

    def wants(self, channel: str, product: str) -> bool:
        """Tell whether anyone needs this channel's messages rendered."""

    def emit(self, channel: str, product: str, frame: str) -> None:
        """Take one message."""


class Listed:
    """One product: its market, its history, and level changes not yet sent in a batch."""

    def __init__(self, market: Market, kept: int) -> None:
        self.product: Product = market.product
        self.market = market
        self.engine = market.engine
        self.history = History(kept)
        self.wire = Wire(market.product)
        self.pending: dict[tuple[str, int], LevelChange] = {}
        self.pending_us = 0
        self.ticker_due = False

    @property
    def last_trade_id(self) -> int:
        """The newest trade id."""
        return self.engine.trade_id


class Exchange:
    """All listed products, in order. Times given to it must not go back."""

    def __init__(self, markets: Iterable[Market], emitter: Emitter, *, kept: int = 100_000) -> None:
        self.listed = {market.product.id: Listed(market, kept) for market in markets}
        self._emitter = emitter
        self.watchers: list[Callable[[Listed, Outcome, int], None]] = []
        """Called with what each step did, once this feed has said it, and the time."""

    def live_through(self, start_us: int, end_us: int, trades: int) -> None:
        """Trade a past that nobody heard, so that REST has a history from the first second."""
        for listed in self.listed.values():
            for number in range(trades):
                time_us = start_us + (end_us - start_us) * number // trades
                _trade_once(listed, time_us)

    def step(self, product: str, now_us: int) -> int:
        """Let one trader act; return how many `full` messages that made."""
        listed = self.listed[product]
        outcome = listed.market.step()
        time = us_to_iso(now_us)
        self._say_trades(listed, outcome, time, now_us)
        self._say_levels(listed, outcome.changes, time, now_us)
        for watch in self.watchers:
            watch(listed, outcome, now_us)
        return len(outcome.events)

    def flush_levels(self, product: str) -> None:
        """Send the pending level2 batch; what came and went within it is left out."""
        listed = self.listed.get(product)
        if listed is None or not listed.pending:
            return
        changes = [change for change in listed.pending.values() if change.old != change.new]
        listed.pending = {}
        if changes:
            frame = listed.wire.l2update(changes, us_to_iso(listed.pending_us))
            self._emitter.emit("level2_batch", product, frame)

    def flush_ticker(self, product: str) -> None:
        """Send ticker_batch's message if the product traded since the last one."""
        listed = self.listed[product]
        if listed.ticker_due:
            listed.ticker_due = False
            self._emitter.emit("ticker_batch", product, self._ticker(listed))

    def beat(self, product: str, now_us: int) -> None:
        """Send the product's heartbeat."""
        if self._emitter.wants("heartbeat", product):
            listed = self.listed[product]
            frame = listed.wire.heartbeat(
                listed.engine.sequence, listed.last_trade_id, us_to_iso(now_us)
            )
            self._emitter.emit("heartbeat", product, frame)

    def say_status(self, listings: Sequence[Mapping[str, object]]) -> None:
        """Send the `status` channel's message."""
        if self._emitter.wants("status", ALL):
            self._emitter.emit("status", ALL, status_message([dict(one) for one in listings]))

    def greeting(self, channel: str, product: str, now_us: int) -> list[str]:
        """Return what a new subscriber of the channel gets right after the acknowledgement."""
        listed = self.listed.get(product)
        if listed is None:
            return []
        if channel in {"level2", "level2_batch"}:
            return [listed.wire.snapshot(listed.engine, us_to_iso(now_us))]
        last = listed.history.last
        if last is not None and channel == "matches":
            return [listed.wire.match(last.match, us_to_iso(last.time_us), "last_match")]
        if last is not None and channel in {"ticker", "ticker_batch"}:
            return [self._ticker(listed)]
        return []

    def _say_trades(self, listed: Listed, outcome: Outcome, time: str, now_us: int) -> None:
        emitter, wire, product = self._emitter, listed.wire, listed.product.id
        full, matches = emitter.wants("full", product), emitter.wants("matches", product)
        traded = False
        for event in outcome.events:
            trade = isinstance(event, Match)
            if not full and not trade:
                continue
            frame = wire.full(event, time) if full or matches else ""
            if full:
                emitter.emit("full", product, frame)
            if isinstance(event, Match):
                traded = True
                listed.history.add(event, now_us)
                if matches:
                    emitter.emit("matches", product, frame)
        if traded:
            listed.ticker_due = emitter.wants("ticker_batch", product)
            if emitter.wants("ticker", product):
                emitter.emit("ticker", product, self._ticker(listed))

    def _say_levels(
        self, listed: Listed, changes: list[LevelChange], time: str, now_us: int
    ) -> None:
        emitter, product = self._emitter, listed.product.id
        if emitter.wants("level2", product):
            for change in changes:
                emitter.emit("level2", product, listed.wire.l2update((change,), time))
        if not emitter.wants("level2_batch", product):
            listed.pending = {}
            return
        pending = listed.pending
        for change in changes:
            key = (change.side, change.price)
            first = pending.get(key)
            pending[key] = change if first is None else change._replace(old=first.old)
        listed.pending_us = now_us

    def _ticker(self, listed: Listed) -> str:
        last = listed.history.last
        if last is None:
            raise ValueError(f"{listed.product.id} has not traded yet")
        time = us_to_iso(last.time_us)
        return listed.wire.ticker(last.match, time, listed.engine, listed.history)


def _trade_once(listed: Listed, time_us: int) -> None:
    """Step the market until something trades."""
    for _ in range(_STEPS_PER_TRADE):
        matches = [event for event in listed.market.step().events if isinstance(event, Match)]
        for match in matches:
            listed.history.add(match, time_us)
        if matches:
            return
