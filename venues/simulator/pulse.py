"""The timers of a simulated exchange: traders, batches, heartbeats, and playing a recording.

Each coroutine runs until it is cancelled.
"""

import asyncio
import itertools
from collections.abc import Callable

from venues.simulator import cassette
from venues.simulator.cassette import Taped
from venues.simulator.venue import Venue

_QUANTUM_S = 0.004
_US_PER_S = 1_000_000
_MOST_OWED_S = 0.25
"""A market that falls behind by more forgets the rest, so that it never bursts."""
_SETTLE_S = 0.1
"""A recording starts when no new subscription has come for so long."""

LEVEL2_BATCH_S = 0.05
TICKER_BATCH_S = 1.0
ADVANCED_TRADES_S = 0.25
ADVANCED_TICKER_BATCH_S = 5.0
STATUS_S = 5.0
TRUTH_S = 0.2


async def trade(venue: Venue) -> None:
    """Let the traders act, the products in turn, at the configured rate."""
    rate = venue.config.rate
    if rate <= 0:
        return
    loop = asyncio.get_running_loop()
    owed, last = 0.0, loop.time()
    turns = itertools.count()
    while True:
        await asyncio.sleep(max(_QUANTUM_S, 1 / rate))
        if not venue.running.is_set():
            await venue.running.wait()
            last = loop.time()
        now = loop.time()
        owed = min(owed + (now - last) * rate, max(1.0, rate * _MOST_OWED_S))
        last = now
        names = venue.trading()
        while owed > 0 and names:
            owed -= venue.step(names[next(turns) % len(names)])


async def repeat(seconds: float, action: Callable[[], None]) -> None:
    """Run an action again and again."""
    while True:
        await asyncio.sleep(seconds)
        action()


async def beat(venue: Venue) -> None:
    """Send heartbeats as each second begins."""
    second_us = 0
    while True:
        now = venue.clock()
        # A timer may fire a little early: the same second must not come twice.
        second_us = max(second_us, now // _US_PER_S * _US_PER_S) + _US_PER_S
        await asyncio.sleep((second_us - now) / _US_PER_S)
        venue.beat(second_us)


async def play(venue: Venue) -> None:
    """Play the recording once, from when clients have subscribed.

    At speed 0 the readers set the pace: nothing is sent while an outbox is long.
    """
    path = venue.config.cassette
    if path is None:
        return
    await _settled(venue)
    loop = asyncio.get_running_loop()
    started, first_us = loop.time(), None
    for taped in cassette.read(path):
        await venue.running.wait()
        first_us = taped.time_us if first_us is None else first_us
        if venue.config.speed > 0:
            due = started + (taped.time_us - first_us) / 1_000_000 / venue.config.speed
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
        for subscriber in list(venue.hub.connections.values()):
            await subscriber.room.wait()
        _emit(venue, taped)


async def _settled(venue: Venue) -> None:
    """Wait for the first subscription, and then until no other has come for a while."""
    subscribed = venue.hub.subscribed
    await subscribed.wait()
    while subscribed.is_set():
        subscribed.clear()
        await asyncio.sleep(_SETTLE_S)


def _emit(venue: Venue, taped: Taped) -> None:
    keys = [(channel, taped.product) for channel in taped.channels]
    venue.hub.emit_to(keys, taped.text)
