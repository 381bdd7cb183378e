"""Forty gaps, repaired by workflows while the market goes on, and nothing lost.

`make storm` has a thousand of them.
"""

import asyncio
import os
from collections import Counter
from pathlib import Path

import pytest
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.contrib.pydantic import pydantic_data_converter

from models.canonical import Status
from models.subjects import ticks_subject
from tests.chains import messages
from tests.servers import eventually
from tests.stack import (
    Stack,
    assert_book_equals,
    assert_trades_complete,
    audit,
    canonical,
    emitted,
    running,
    settled,
)

WHOLE = os.environ.get("STORM") == "whole"
PRODUCTS = [f"C{number:02}-USD" for number in range(20 if WHOLE else 10)]
ROUNDS = 25 if WHOLE else 2
"""Each round opens one gap of the trades and one of the book on every product."""

TRADES = {"kind": "drop", "channel": "matches"}
BOOK = {"kind": "garbage", "channel": "level2", "variant": "bad_number", "replace": True}


async def gaps(stack: Stack) -> list[dict[str, object]]:
    """Return the gateway's ledger."""
    listed: list[dict[str, object]] = await stack.gateway("/v1/resyncs")
    return listed


async def all_live(stack: Stack) -> bool:
    """Tell whether every product has every feed, live."""
    feeds = [feed for one in await stack.gateway("/v1/products") for feed in one["feeds"]]
    return len(feeds) == 3 * len(PRODUCTS) and all(
        feed["seq"] and feed["status"] == "live" for feed in feeds
    )


async def one_round(stack: Stack, number: int) -> None:
    """Open one gap on each feed of each product and wait until all are closed."""
    faults = [
        fault | {"product": product, "count": 1} for fault in (TRADES, BOOK) for product in PRODUCTS
    ]
    await asyncio.gather(*(stack.simulator("POST", "/sim/faults", fault) for fault in faults))
    expected = 2 * len(PRODUCTS) * (number + 1)

    async def closed() -> bool:
        await asyncio.sleep(0.1)  # the ledger grows; to ask for it more often would be a load
        ledger = await gaps(stack)
        return len(ledger) >= expected and all(gap["closed_us"] for gap in ledger)

    await eventually(closed, within_s=300)


@pytest.mark.long
@pytest.mark.timeout(3600 if WHOLE else 600)
async def test_gaps_are_repaired_once_each_and_nothing_is_lost(tmp_path: Path) -> None:
    """One completed workflow per gap; trades complete; books equal to the exchange's."""
    channels = ("ticker", "heartbeat", "level2", "matches")
    options = ("--rate", "2600" if WHOLE else "1300", "--trade-share", "0.3")
    async with running(tmp_path, PRODUCTS, channels, options, recovery=True) as stack:
        await eventually(lambda: all_live(stack))
        for number in range(ROUNDS):
            await one_round(stack, number)
        await settled(stack)
        parts = await canonical(stack)
        books = {
            product: await stack.simulator("GET", f"/products/{product}/book?level=2")
            for product in PRODUCTS
        }
        outcomes = await workflows(stack)
    truth = emitted(stack.truth_file, "level2")
    result = audit([line for part in parts.values() for line in part], truth)
    assert result.open_gaps == 0
    states = [told for part in parts.values() for told in gap_states(part)]
    opened = {name for name, state in states if state == "gap"}
    assert len(opened) == 2 * len(PRODUCTS) * ROUNDS
    assert opened == {name for name, state in states if state == "live"}
    # Nobody repairs the same gap twice, and nobody leaves one unrepaired.
    assert outcomes == dict.fromkeys(opened, (1, WorkflowExecutionStatus.COMPLETED))
    for product in PRODUCTS:
        lines = parts[ticks_subject(0, "coinbase", product)]
        assert_trades_complete(lines, truth.keys[product, "trades"])
        assert_book_equals(lines, books[product])


def gap_states(lines: list[bytes]) -> list[tuple[str, str]]:
    """Return (gap, state) of each status line that names a gap."""
    return [
        (message.resync_id, message.state)
        for message in messages(line for line in lines if b'"type":"status"' in line)
        if isinstance(message, Status) and message.resync_id
    ]


async def workflows(stack: Stack) -> dict[str, tuple[int, WorkflowExecutionStatus | None]]:
    """Return, per workflow id, how many runs there were and how the last one ended."""
    client = await Client.connect(
        f"127.0.0.1:{stack.temporal_port}", data_converter=pydantic_data_converter
    )
    runs: Counter[str] = Counter()
    ends: dict[str, WorkflowExecutionStatus | None] = {}

    async def all_ended() -> bool:
        runs.clear()
        async for execution in client.list_workflows('WorkflowType = "GapResyncWorkflow"'):
            runs[execution.id] += 1
            ends[execution.id] = execution.status
        return WorkflowExecutionStatus.RUNNING not in ends.values()

    await eventually(all_ended)
    return {name: (runs[name], ends[name]) for name in runs}
