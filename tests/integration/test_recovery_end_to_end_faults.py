"""Things that fail while a gate is closed, with every process real, held against the truth."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client, WorkflowExecutionStatus

from models.recovery import STRETCH_RESYNC, ResyncReport, StretchReport
from models.settings import load_settings
from models.subjects import ticks_subject
from tests.servers import PATIENCE_S, eventually
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
from workflows import attributes
from workflows.connect import connect

pytestmark = pytest.mark.long

PRODUCTS = ("BTC-USD", "ETH-USD")
PRODUCT = PRODUCTS[0]
CHANNELS = ("ticker", "heartbeat", "level2", "matches")
SIMULATOR = ("--rate", "300", "--trade-share", "0.3")
ADVANCED = "coinbase-advanced"

TRADES = {"kind": "drop", "channel": "matches", "product": PRODUCT, "count": 2}
BOOK = {
    "kind": "garbage",
    "channel": "level2",
    "variant": "bad_number",
    "replace": True,
    "product": PRODUCT,
    "count": 1,
}


@asynccontextmanager
async def site(
    root: Path, venue: str = "coinbase", env: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[Stack, Client]]:
    """Run every process; give the stack and a Temporal client."""
    async with running(
        root, PRODUCTS, CHANNELS, SIMULATOR, recovery=True, venue=venue, env=env
    ) as stack:
        settings = load_settings(temporal_address=f"127.0.0.1:{stack.temporal_port}")
        await all_are(stack, "live")
        yield stack, await connect(settings)


async def feeds(stack: Stack) -> dict[tuple[str, str], str]:
    """Return the status of each feed, as the gateway shows it."""
    return {
        (product["product"], feed["feed"]): feed["status"]
        for product in await stack.gateway("/v1/products")
        for feed in product["feeds"]
        if feed["seq"]
    }


async def all_are(stack: Stack, state: str, *names: str, within_s: float = PATIENCE_S) -> None:
    """Wait until every feed of PRODUCT that is named (all feeds of all products if none is) is."""

    async def check() -> bool:
        await asyncio.sleep(0.05)
        known = await feeds(stack)
        wanted = [(PRODUCT, name) for name in names] or list(known)
        return len(known) == 3 * len(PRODUCTS) and all(known[key] == state for key in wanted)

    await eventually(check, within_s=within_s)


async def whole(stack: Stack) -> None:
    """Assert that trades and books of the canonical log equal the exchange's."""
    await all_are(stack, "live")
    await settled(stack)
    parts = await canonical(stack)
    truth = emitted(stack.truth_file, "level2")
    assert audit([line for part in parts.values() for line in part], truth).open_gaps == 0
    for product in PRODUCTS:
        lines = parts[ticks_subject(0, "coinbase", product)]
        assert_trades_complete(lines, truth.keys[product, "trades"])
        book = await stack.simulator("GET", f"/products/{product}/book?level=2")
        assert_book_equals(lines, book)


async def close_gates(stack: Stack, *faults: Mapping[str, object], slow_ms: int = 3000) -> None:
    """Lose something of each feed while REST is slow, and wait until the gates are closed."""
    slow = {"kind": "rest_slow", "delay_ms": slow_ms, "product": PRODUCT, "duration_ms": 4000}
    await stack.simulator("POST", "/sim/faults", slow)
    for fault in faults or (TRADES, BOOK):
        await stack.simulator("POST", "/sim/faults", fault)
    await all_are(stack, "gap", "trades", "book")


async def reports(client: Client) -> list[ResyncReport]:
    """Return the reports of all recoveries that have ended."""
    query = "WorkflowType='GapResyncWorkflow' AND Outcome IS NOT NULL"
    return [
        await execution.memo_value(attributes.REPORT_MEMO, type_hint=ResyncReport)
        async for execution in client.list_workflows(query)
    ]


@pytest.mark.parametrize("victim", ["nats", "normalizer", "temporal", "ingestor"])
async def test_process_killed_while_gates_are_closed(tmp_path: Path, victim: str) -> None:
    """What was held is read again, what was asked for is answered, and nothing is missing."""
    async with site(tmp_path) as (stack, _):
        await close_gates(stack)
        stack.processes[victim].kill()
        stack.processes[victim].start()
        await whole(stack)


async def test_second_gap_inside_the_recovery_of_the_first(tmp_path: Path) -> None:
    """More is lost while the venue is being asked: both are repaired, and nothing is missing."""
    async with site(tmp_path) as (stack, client):
        await close_gates(stack)
        first = {gap["resync_id"] for gap in await stack.gateway("/v1/resyncs")}
        await stack.simulator("POST", "/sim/faults", TRADES)
        await stack.simulator("POST", "/sim/faults", BOOK)
        await all_are(stack, "live")
        await whole(stack)

        async def done() -> bool:
            ended = {report.resync_id: report for report in await reports(client)}
            return first <= ended.keys()

        await eventually(done)
        assert {report.outcome for report in await reports(client)} <= {"closed", "already_closed"}


async def test_delisted_product_ends_as_stale_with_an_explanation(tmp_path: Path) -> None:
    """One attempt, a final failure that says why, `stale` for subscribers; others live on."""
    async with site(tmp_path) as (stack, client):
        await stack.simulator("POST", "/sim/faults", {"kind": "rest_slow", "delay_ms": 500})
        await stack.simulator("POST", "/sim/faults", TRADES)
        await all_are(stack, "gap", "trades")
        await stack.simulator("POST", "/sim/faults", {"kind": "delist", "product": PRODUCT})
        await all_are(stack, "stale", "trades")

        async def told() -> bool:
            return bool(await reports(client))

        await eventually(told)
        (report,) = await reports(client)
        assert (report.outcome, report.feed) == ("failed", "trades")
        assert "404" in report.sentence
        (gap,) = [gap for gap in await stack.gateway("/v1/resyncs") if gap["feed"] == "trades"]
        assert gap["closed_us"] is None
        assert (await feeds(stack))["ETH-USD", "trades"] == "live"


async def test_feeds_turn_stale_while_temporal_is_away_and_recover_by_themselves(
    tmp_path: Path,
) -> None:
    """Requests wait in the log; nobody has to do anything when the server is back."""
    async with site(tmp_path, env={"RESYNC_STALE_MS": "1000"}) as (stack, client):
        stack.processes["temporal-server"].kill()
        await stack.simulator("POST", "/sim/faults", TRADES)
        await stack.simulator("POST", "/sim/faults", BOOK)
        await all_are(stack, "gap", "trades", "book")
        await all_are(stack, "stale", "trades", "book")
        stack.processes["temporal-server"].start()
        await whole(stack)
        assert {report.outcome for report in await reports(client)} == {"closed"}


async def test_lost_stretch_of_a_connection_is_one_parent_with_a_child_for_each_gap(
    tmp_path: Path,
) -> None:
    """Advanced Trade counts its frames: a loss closes the gates of every product, once."""
    async with site(tmp_path, venue=ADVANCED) as (stack, client):
        lost = {"kind": "drop", "channel": "advanced/level2", "product": PRODUCT, "count": 1}
        await stack.simulator("POST", "/sim/faults", lost)

        async def parent() -> bool:
            await asyncio.sleep(0.1)
            return bool(await stretches(client))

        await eventually(parent)
        ((report, children),) = await stretches(client)
        assert (report.outcome, report.count.failed, report.count.aborted) == ("closed", 0, 0)
        assert {child.product for child in children} == set(PRODUCTS)
        assert report.count.total == len(children) >= len(PRODUCTS)
        assert {child.outcome for child in children} <= {"closed", "already_closed"}
        await all_are(stack, "live")
        await settled(stack)
        parts = await canonical(stack)
        for product in PRODUCTS:
            lines = parts[ticks_subject(0, ADVANCED, product)]
            book = await stack.simulator("GET", f"/products/{product}/book?level=2")
            assert_book_equals(lines, book)


async def stretches(client: Client) -> list[tuple[StretchReport, list[ResyncReport]]]:
    """Return each parent that has ended, with the reports of its children."""
    found: list[Any] = []
    async for execution in client.list_workflows(
        f"WorkflowType='{STRETCH_RESYNC}' AND Outcome IS NOT NULL"
    ):
        assert execution.status == WorkflowExecutionStatus.COMPLETED
        report = await execution.memo_value(attributes.REPORT_MEMO, type_hint=StretchReport)
        children = [
            await child.memo_value(attributes.REPORT_MEMO, type_hint=ResyncReport)
            async for child in client.list_workflows(f"ParentWorkflowId='{execution.id}'")
        ]
        found.append((report, children))
    return found
