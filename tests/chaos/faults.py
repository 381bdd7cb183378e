"""What is done to a site, and how it is known to be over it: the decks from which faults are drawn.

A fault is harm and a cure to be waited for. Harm returns when it has been done; recovery is timed
from then on: from the kill, the end of the pause, the return of what was away.
"""

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.chaos.site import LINES, Site

Harm = Callable[[Site, random.Random], Awaitable[None]]
Cure = Callable[[Site, int], Awaitable[None]]
"""Waits until the path that was hit works; takes the time (µs) when the harm was done."""

PAUSE_S = (1.0, 4.0)
DELAY_S = (0.02, 0.3)
SLOW_S = (2.0, 5.0)
SILENT_S = 6.5
"""A pause of the exchange, longer than COINBASE_SILENCE_S: both ingestors connect anew."""

_LOST = {"kind": "drop", "channel": "matches", "count": 2}
_SPOILED = {
    "kind": "garbage",
    "channel": "level2",
    "variant": "bad_number",
    "replace": True,
    "count": 1,
}


@dataclass(frozen=True)
class Fault:
    """A name for the table, the harm, the cure.

    `spare`: a part of which others do the work meanwhile, to be ready before the next fault.
    """

    what: str
    harm: Harm
    cure: Cure
    spare: str | None = None


async def _flows(running: Site, since_us: int) -> None:
    """Wait until every subscriber has got something that the venue said since."""
    await running.fresh(since_us)


async def _serves(running: Site, since_us: int) -> None:
    """Wait until the gateways are new ones, and serve: the old ones go on while they drain."""
    del since_us
    await running.ready("gateway")
    await running.fresh(time.time_ns() // 1000)


async def _archives(running: Site, since_us: int) -> None:
    """Wait until both lanes of the lake grow again; how much they lack is judged at the end."""
    del since_us
    await running.archives()


async def _recovers(running: Site, since_us: int) -> None:
    """Have trades lost, and wait until they are there."""
    del since_us
    opened = running.opened
    await running.simulator("POST", "/sim/faults", _LOST)
    await running.mended(opened)


async def _replays(running: Site, since_us: int) -> None:
    """Have something replayed."""
    del since_us
    await running.replays()


async def _mends(running: Site, since_us: int) -> None:
    """Wait until every gap is closed."""
    del since_us
    await running.live()


async def _writes(running: Site, since_us: int) -> None:
    """Wait until the latest state of each product is being written."""
    del since_us
    await running.written()


def _brings(line: str) -> Cure:
    """Wait until an ingestor's own line is in the log again."""

    async def cure(running: Site, since_us: int) -> None:
        await running.brings(line, since_us)
        await running.fresh(since_us)

    return cure


def _kill(name: str) -> Harm:
    async def harm(running: Site, chance: random.Random) -> None:
        del chance
        await running.kill(name)

    return harm


async def _kill_one_gateway(running: Site, chance: random.Random) -> None:
    await running.kill(f"gateway-{chance.randrange(2)}")


def _pause(name: str, seconds: tuple[float, float] = PAUSE_S) -> Harm:
    async def harm(running: Site, chance: random.Random) -> None:
        one = f"gateway-{chance.randrange(2)}" if name == "gateway" else name
        pid = running.pid(one)
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(chance.uniform(*seconds))
        finally:
            os.kill(pid, signal.SIGCONT)

    return harm


def _cut(wire: str) -> Harm:
    async def harm(running: Site, chance: random.Random) -> None:
        del chance
        running.wires[wire].cut()

    return harm


def _slow(wire: str) -> Harm:
    async def harm(running: Site, chance: random.Random) -> None:
        running.wires[wire].delay_s = chance.uniform(*DELAY_S)
        try:
            await asyncio.sleep(chance.uniform(*SLOW_S))
        finally:
            running.wires[wire].delay_s = 0.0

    return harm


def _away(wire: str, seconds: float) -> Harm:
    async def harm(running: Site, chance: random.Random) -> None:
        del chance
        running.wires[wire].leave()
        if wire == _TEMPORAL:  # there is something to recover when it comes back
            await running.simulator("POST", "/sim/faults", _LOST)
        try:
            await asyncio.sleep(seconds)
        finally:
            running.wires[wire].back()

    return harm


def _venue(fault: dict[str, object]) -> Harm:
    async def harm(running: Site, chance: random.Random) -> None:
        product = chance.choice(running.products)
        opened = running.opened
        await running.simulator("POST", "/sim/faults", fault | {"product": product})
        await running.broken(opened)

    return harm


def _restart(name: str) -> Harm:
    async def harm(running: Site, chance: random.Random) -> None:
        del chance
        await running.end(name, signal.SIGTERM)

    return harm


async def _replace_gateways(running: Site, chance: random.Random) -> None:
    del chance
    await running.replace_gateways()


_TEMPORAL = "workers to Temporal"
_STORE = "archive to store"
_DATA: dict[str, Cure] = {
    "nats": _flows,
    "normalizer-0": _flows,
    **{line: _brings(line) for line in LINES},
    "snapshot": _writes,
}
_DURABLE: dict[str, Cure] = {
    "temporal": _recovers,
    "s3": _archives,
    "temporal-worker": _recovers,
    "archive": _archives,
    "replay": _replays,
}
_WIRES: dict[str, Cure] = {
    **{f"exchange to {line}": _brings(line) for line in LINES},
    "ingestor-a to log": _brings("ingestor-a"),
    "log to normalizer": _flows,
    "log to gateway": _flows,
    "gateway to subscribers": _flows,
}


def data_deck() -> list[Fault]:
    """Return what is done to the way from the exchange to the subscribers."""
    return [
        *(Fault(f"kill {name}", _kill(name), cure) for name, cure in _DATA.items()),
        Fault("kill one gateway", _kill_one_gateway, _flows, "gateway"),
        Fault("kill gateways' parent", _kill("gateway"), _serves),
        *(Fault(f"pause {name}", _pause(name), cure) for name, cure in _DATA.items()),
        Fault("pause one gateway", _pause("gateway"), _flows),
        Fault("pause exchange", _pause("simulator", (SILENT_S, SILENT_S)), _flows),
        *(Fault(f"cut {name}", _cut(name), cure) for name, cure in _WIRES.items()),
        *(Fault(f"slow {name}", _slow(name), cure) for name, cure in _WIRES.items()),
        Fault("exchange loses trades", _venue(_LOST), _mends),
        Fault("exchange spoils a book", _venue(_SPOILED), _mends),
    ]


def durable_deck(outage_s: float) -> list[Fault]:
    """Return what is done to Temporal, the store and those that use them."""
    return [
        *(Fault(f"kill {name}", _kill(name), cure) for name, cure in _DURABLE.items()),
        *(Fault(f"pause {name}", _pause(name), cure) for name, cure in _DURABLE.items()),
        Fault(f"cut {_TEMPORAL}", _cut(_TEMPORAL), _recovers),
        Fault(f"cut {_STORE}", _cut(_STORE), _archives),
        Fault("store away", _away(_STORE, outage_s), _archives),
        Fault("Temporal away", _away(_TEMPORAL, outage_s), _recovers),
    ]


def rolling_deck() -> list[Fault]:
    """Return the orderly restart of every service, in the order in which `up` starts them."""
    servers = ("nats", "s3", "temporal")
    order = (*servers, "normalizer-0", "temporal-worker", "snapshot", "archive", "replay")
    cures = _DATA | _DURABLE
    return [
        *(Fault(f"restart {name}", _restart(name), cures[name]) for name in order),
        Fault("replace gateways", _replace_gateways, _flows, "gateway"),
        Fault("restart gateways' parent", _restart("gateway"), _serves),
        *(Fault(f"restart {line}", _restart(line), cures[line]) for line in LINES),
    ]


def _named(deck: list[Fault], *names: str) -> list[Fault]:
    return [fault for fault in deck if fault.what in names]


def short_data_deck(chance: random.Random) -> list[Fault]:
    """Return each kind of process killed, one pause, one cut: which ones, the seed decides."""
    deck = data_deck()
    pauses = [one for one in deck if one.what.startswith("pause ") and one.what != "pause exchange"]
    cuts = [one for one in deck if one.what.startswith("cut ")]
    killed = ("nats", "normalizer-0", "ingestor-a", "snapshot", "one gateway")
    return [
        *_named(deck, *(f"kill {name}" for name in killed)),
        chance.choice(pauses),
        chance.choice(cuts),
    ]


def short_durable_deck() -> list[Fault]:
    """Return each kind of process killed."""
    return _named(durable_deck(0.0), *(f"kill {name}" for name in _DURABLE))


def short_rolling_deck() -> list[Fault]:
    """Return the restarts that subscribers would notice first."""
    return _named(rolling_deck(), "replace gateways", "restart ingestor-a")
