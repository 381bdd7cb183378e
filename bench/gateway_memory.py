"""Memory of the gateway per subscriber that has its snapshot and hears nothing more."""

from contextlib import ExitStack, closing

from bench.gateway_load import PRODUCT, Connection
from bench.gateway_stage import Stage, stage

FIRST = 200
"""Connections that are left out: what a process allocates once is not theirs."""

IDLE = 2000


def gateway_memory() -> dict[str, float]:
    """Connect and subscribe many, and compare resident memory; the kernel's buffers are not in."""
    with stage() as run, ExitStack() as stack:
        _subscribe(run, stack, FIRST)
        before = run.rss_bytes()
        _subscribe(run, stack, IDLE)
        each_bytes = (run.rss_bytes() - before) / IDLE
        assert run.metric("md_gateway_clients") == FIRST + IDLE
    return {"gateway_bytes_per_idle_client": each_bytes}


def _subscribe(run: Stage, stack: ExitStack, count: int) -> None:
    """Connect subscribers until the stack is closed; each takes its snapshot."""
    for _ in range(count):
        connection = stack.enter_context(closing(Connection(run.port)))
        connection.subscribe(products=[PRODUCT], feeds=["ticker"])
        assert connection.receive().startswith(b'{"op":"snapshot"')
