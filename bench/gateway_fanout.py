"""Deliveries per second, and the same for the usual ways to send to many.

Messages of 1, 5 and 20 ticks go through the real log. The next one is published when everyone
has received the one before the last: one is handed out while the other waits, so each is a turn
of the loop. Beside what the clock says stands what the server's processor time says, which does
not depend on how fast the core of the receivers is.
"""

import time
from collections.abc import Sequence
from contextlib import closing
from statistics import median
from typing import NamedTuple

from bench.gateway_load import Receivers
from bench.gateway_stage import GATEWAY, Stage, stage
from bench.harness import note

CLIENTS = (100, 500, 2000)
TICKS = (1, 5, 20)
ROUNDS = 3
ROUND_S = 1.0
IN_FLIGHT = 2
"""Messages between the publisher and the receivers."""

SATURATED_CLIENTS = 500
SATURATED_IN_FLIGHT = 256
"""Messages of one tick: so many wait that the gateway itself decides how many make a turn."""

COMPARED = (500, 5)
"""Clients and ticks per turn of the two ratios."""

QUIET = 0.05
"""A server that waits for its core for a larger part of the time is measured too low."""

SERVERS = {
    "gateway": GATEWAY,
    "send_text": ("bench.gateway_plain", "send_text", "{port}"),
    "broadcast": ("bench.gateway_plain", "broadcast", "{port}"),
}


def gateway_fanout() -> dict[str, float]:
    """Measure every server with every number of clients and of ticks per turn."""
    figures: dict[str, float] = {}
    for clients in CLIENTS:
        # One after the other with the same number of clients: a noisy machine hits all alike.
        for name, server in SERVERS.items():
            figures |= _server(name, server, clients)
    compared = f"deliveries_per_s_{COMPARED[0]}x{COMPARED[1]}"
    for name in ("send_text", "broadcast"):
        ratio = figures[f"gateway_{compared}"] / figures[f"{name}_{compared}"]
        figures[f"gateway_vs_{name}_ratio"] = ratio
    return figures | gateway_saturated()


def gateway_saturated() -> dict[str, float]:
    """Measure the gateway with more waiting than it hands out in a turn."""
    clients = SATURATED_CLIENTS
    with stage() as run, closing(Receivers(run.port, clients, run.ticks)) as receivers:
        rounds = [_round(run, receivers, 1, SATURATED_IN_FLIGHT) for _ in range(ROUNDS)]
    return _figures(rounds, "gateway", f"{clients}_saturated")


def _server(name: str, server: Sequence[str], clients: int) -> dict[str, float]:
    """Measure one server with so many clients."""
    figures: dict[str, float] = {}
    with stage(server) as run, closing(Receivers(run.port, clients, run.ticks)) as receivers:
        for ticks in TICKS:
            rounds = [_round(run, receivers, ticks, IN_FLIGHT) for _ in range(ROUNDS)]
            figures |= _figures(rounds, name, f"{clients}x{ticks}")
    return figures


class _Round(NamedTuple):
    """What happened in one round; `cpu_s`, `waited_s` and `writes` are the server's."""

    deliveries: int
    wall_s: float
    cpu_s: float
    waited_s: float
    writes: int


def _figures(rounds: Sequence[_Round], name: str, case: str) -> dict[str, float]:
    """Return the medians of some rounds; a turn is one write to each receiver."""
    per_s = median(one.deliveries / one.wall_s for one in rounds)
    per_cpu_s = median(one.deliveries / one.cpu_s for one in rounds)
    per_turn = median(one.deliveries / one.writes for one in rounds)
    disturbed = median(one.waited_s / one.wall_s for one in rounds)
    warning = f"; others had its core {disturbed:.0%} of the time" if disturbed > QUIET else ""
    note(f"{name} {case}: {per_s:,.0f} deliveries/s, {per_turn:.1f} ticks per turn{warning}")
    return {
        f"{name}_deliveries_per_s_{case}": per_s,
        f"{name}_deliveries_per_cpu_s_{case}": per_cpu_s,
        f"{name}_ticks_per_turn_{case}": per_turn,
    }


def _round(run: Stage, receivers: Receivers, ticks: int, in_flight: int) -> _Round:
    """Publish messages of so many ticks for a while, and verify what came of it."""
    message_bytes = ticks * run.ticks.frame_bytes * len(receivers)
    sent = 0
    before, began = _used(run), time.perf_counter()
    while time.perf_counter() < began + ROUND_S:
        while receivers.total >= (sent - in_flight + 1) * message_bytes:
            run.ticks.publish(ticks)
            sent += 1
        receivers.pump()
    while receivers.total < sent * message_bytes:
        receivers.pump()
    wall_s, after = time.perf_counter() - began, _used(run)
    receivers.settle()
    run.publisher.answer_pings()
    used = [end - start for start, end in zip(before, after, strict=True)]
    return _Round(sent * ticks * len(receivers), wall_s, used[0], used[1], int(used[2]))


def _used(run: Stage) -> tuple[float, float, int]:
    """Return what the server has used: processor seconds, seconds of waiting, writes."""
    return run.cpu_s(), run.waited_s(), run.writes()
