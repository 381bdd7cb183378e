"""A loss at the venue's socket, recovered through every process, held against the truth."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

from temporalio.client import Client

from models.canonical import Snapshot, Tick
from models.recovery import GAP_RESYNC, RESYNC_QUEUE, ResyncReport
from models.settings import load_settings
from models.subjects import ticks_subject
from tests.chains import assert_linked, messages, statuses, ticks
from tests.servers import PATIENCE_S, eventually
from tests.stack import Stack, canonical, running
from workflows import attributes
from workflows.connect import connect

PRODUCT = "BTC-USD"
CHANNELS = ("ticker", "heartbeat", "level2", "matches")


@asynccontextmanager
async def site(root: Path) -> AsyncIterator[tuple[Stack, Client]]:
    """Run every process; give the stack and a Temporal client."""
    async with running(root, [PRODUCT], CHANNELS, ("--rate", "300"), recovery=True) as stack:
        settings = load_settings(temporal_address=f"127.0.0.1:{stack.temporal_port}")
        yield stack, await connect(settings)


async def recovered(client: Client, feed: str, count: int = 1) -> list[ResyncReport]:
    """Wait until so many resyncs of a feed have ended, and return their reports."""
    query = f"Product='{PRODUCT}' AND Feed='{feed}' AND Outcome IN ('closed', 'already_closed')"
    found: list[Any] = []

    async def enough() -> bool:
        found[:] = [execution async for execution in client.list_workflows(query)]
        return len(found) >= count

    await eventually(enough)
    return [
        await execution.memo_value(attributes.REPORT_MEMO, type_hint=ResyncReport)
        for execution in found
    ]


async def lines_of(stack: Stack) -> list[bytes]:
    """Return all canonical lines of the product."""
    return (await canonical(stack))[ticks_subject(0, "coinbase", PRODUCT)]


async def printed(stack: Stack, count: int) -> None:
    """Wait until so many prints are in the canonical log."""

    async def enough() -> bool:
        return len(ticks(await lines_of(stack), "trades")) >= count

    await eventually(enough)


async def test_lost_prints_and_a_book_by_hand_on_the_running_pipeline(tmp_path: Path) -> None:
    """Matches dropped at the socket are all there, once; a book ordered begins a new chain."""
    async with site(tmp_path) as (stack, client):
        await printed(stack, 5)
        loss = {"kind": "drop", "product": PRODUCT, "channel": "matches", "count": 3}
        await stack.simulator("POST", "/sim/faults", loss)
        (trades,) = await recovered(client, "trades")
        book = await by_hand(client)
        await printed(stack, len(ticks(await lines_of(stack), "trades")) + 5)
        lines = await lines_of(stack)
        history = await stack.simulator("GET", f"/products/{PRODUCT}/trades?limit=1000")
    assert (trades.outcome, trades.lost, trades.filled) == ("closed", 3, 3)
    assert book.outcome == "closed"
    assert_linked(lines)
    assert_complete(lines, history)
    states = [status.state for status in statuses(lines) if status.feed == "trades"]
    assert states[-2:] == ["gap", "live"]
    assert_new_chain(lines, book)


async def by_hand(client: Client) -> ResyncReport:
    """Order a new book as a person does, and check how it shows in the list."""
    gap = {"venue": "coinbase", "product": PRODUCT, "feed": "book"}
    handle = await client.start_workflow(
        GAP_RESYNC, gap, id="by-hand", task_queue=RESYNC_QUEUE, result_type=ResyncReport
    )
    async with asyncio.timeout(PATIENCE_S):
        report: ResyncReport = await handle.result()
    shown = (await handle.describe()).typed_search_attributes
    keys = (attributes.VENUE, attributes.PRODUCT, attributes.FEED, attributes.OUTCOME)
    assert [shown.get(key) for key in keys] == ["coinbase", PRODUCT, "book", "closed"]
    return report


def assert_complete(lines: list[bytes], history: list[dict[str, Any]]) -> None:
    """Assert that no print is missing between the first and the last, and that each is true."""
    prints = [trade for tick in ticks(lines, "trades") if (trade := tick.fields.last_trade)]
    ids = [trade.id for trade in prints]
    assert ids == list(range(ids[0], ids[-1] + 1))
    taker = {"buy": "sell", "sell": "buy"}
    truth = {
        row["trade_id"]: (Decimal(row["price"]), Decimal(row["size"]), taker[row["side"]])
        for row in history
    }
    assert all((trade.px, trade.qty, trade.side) == truth[trade.id] for trade in prints)


def assert_new_chain(lines: list[bytes], report: ResyncReport) -> None:
    """Assert that a snapshot with the order's id is followed by ticks of the book."""
    told = messages(lines)
    (snapshot,) = [
        message
        for message in told
        if isinstance(message, Snapshot) and message.resync_id == report.resync_id
    ]
    assert (snapshot.feed, snapshot.reason) == ("book", "resync")
    after = told[told.index(snapshot) :]
    assert any(isinstance(message, Tick) and message.feed == "book" for message in after)
