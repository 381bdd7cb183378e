"""Latency from the publisher to every subscriber, alone and beside 1,000 that never read."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

from bench.gateway_load import PRODUCT, WITHIN_S, Connection, Receivers
from bench.gateway_stage import Stage, stage
from bench.harness import note, percentile

CLIENTS = 500
TICKS = 5
MESSAGES_PER_S = 50
"""125,000 deliveries a second: a busy market, and far from what the gateway can do."""

ROUNDS = 3
ROUND_S = 3.0

STUCK = 1000
MAX_CLIENT_BYTES = 1024**2
"""Bytes that may wait for one client; lower than the default so that it is soon reached."""

_RECEIVE_BYTES = 4096
_FLOOD_TICKS = 100
_MAX_GROWTH_BYTES = 256 * 1024**2


def gateway_latency() -> dict[str, float]:
    """Pace messages and time each at each subscriber; then again beside the stuck ones."""
    with (
        stage(WS_MAX_CLIENT_BYTES=str(MAX_CLIENT_BYTES)) as run,
        closing(Receivers(run.port, CLIENTS, run.ticks)) as receivers,
    ):
        alone = _latencies(run, receivers)
        before = run.rss_bytes()
        with _stuck(run, receivers):
            beside = _latencies(run, receivers)
            growth = run.rss_bytes() - before
    p99_ms, p99_beside_ms = (percentile(values, 0.99) * 1000 for values in (alone, beside))
    figures = {
        "gateway_latency_p50_ms": percentile(alone, 0.5) * 1000,
        "gateway_latency_p99_ms": p99_ms,
        "gateway_latency_p99_with_1000_stuck_ms": p99_beside_ms,
        "gateway_latency_p99_with_1000_stuck_ratio": p99_beside_ms / p99_ms,
        "gateway_rss_growth_with_1000_stuck_mb": growth / 1024**2,
    }
    assert growth < _MAX_GROWTH_BYTES, figures
    return figures


def _latencies(run: Stage, receivers: Receivers) -> list[float]:
    """Publish at the pace; return the seconds that each message took to each subscriber."""
    delays = [delay for _ in range(ROUNDS) for delay in _round(run, receivers)]
    note(f"{len(delays):,} messages, p99 {percentile(delays, 0.99) * 1000:.2f} ms")
    return delays


def _round(run: Stage, receivers: Receivers) -> list[float]:
    each_bytes = TICKS * run.ticks.frame_bytes
    messages = int(ROUND_S * MESSAGES_PER_S)
    began = time.perf_counter()
    sent: list[float] = []
    delays: list[float] = []
    while len(delays) < messages * len(receivers):
        now = time.perf_counter()
        assert now < began + WITHIN_S, "messages are missing"
        due = began + len(sent) / MESSAGES_PER_S if len(sent) < messages else now + 1
        if now >= due:
            sent.append(now)
            run.ticks.publish(TICKS)
        delays += receivers.pump_timed(max(due - now, 0.0), each_bytes, sent)
    receivers.settle()
    return delays


@contextmanager
def _stuck(run: Stage, receivers: Receivers) -> Iterator[None]:
    """Have subscribers that never read, and wait until the gateway has conflated them all."""
    stuck = [Connection(run.port, receive_bytes=_RECEIVE_BYTES) for _ in range(STUCK)]
    try:
        for connection in stuck:
            connection.subscribe(products=[PRODUCT], feeds=["ticker"], want_snapshot=False)
        ends = time.perf_counter() + WITHIN_S
        while run.metric("md_gateway_conflated_total") < STUCK:
            assert time.perf_counter() < ends, "subscribers that never read are not conflated"
            run.ticks.publish(_FLOOD_TICKS)
            receivers.settle()
        yield
    finally:
        for connection in stuck:
            connection.close()
