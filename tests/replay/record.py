"""Records the histories that `test_replay` replays: `python -m tests.replay.record [PATH]...`.

Runs the named paths of the workflows (all, if none is named) on real servers. After a change that
is compatible by `workflow.patched`, keep the older files beside the new ones under a name that
`KEPT` lists.
"""

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from temporalio.client import (
    WorkflowContinuedAsNewError,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowHandle,
)

from models.archiving import COMPACT, LAKE_AUDIT, LAKE_QUEUE, AuditInput, CompactInput
from models.recovery import RESYNC_QUEUE, STRETCH_RESYNC, ResyncReport, StretchInput
from storage.layout import Hour, Piece
from storage.rows import Message
from tests.archiving import STREAMS, Site, publish, site, trade
from tests.canaries import Court, court
from tests.candidates import make_flawed
from tests.judged_past import Story
from tests.recovery import Bench, bench
from tests.replay.replays import REPLAY_PATHS, replays
from tests.servers import eventually
from venues.simulator.fault_spec import FaultSpec
from workflows.starting import of_request, start_in_stretch

HISTORIES = Path(__file__).parent / "histories"
BAD = "known_bad"
"""A history that today's code must refuse: its first activity is another one."""

KEPT = (
    "before_stale_delisted",
    "before_stale_given_up",
    "before_stop_waits_archive_stopped",
)
"""Histories of older code that cannot be recorded again.

From before a failure told the normalizer, and before a stopped archive waited for its activity.
"""

Handle = WorkflowHandle[Any, Any]


async def _closed_trades(site: Bench) -> Handle:
    return await site.start(await site.lose_prints(3))


async def _pages(site: Bench) -> Handle:
    return await site.start(await site.lose_prints(2500))


async def _stale_book(site: Bench) -> Handle:
    site.sim.venue.inject(FaultSpec(kind="rest_stale_book", count=2))
    now_us = time.time_ns() // 1000 + 1
    gap = await site.normalizer.open_gap(site.product, "book", "lost_record", 1, now_us)
    return await site.start(gap)


async def _refused_marker(site: Bench) -> Handle:
    site.normalizer.say_gap = 1
    return await site.start(await site.lose_prints(3))


async def _ticker(site: Bench) -> Handle:
    return await site.start(
        await site.normalizer.open_gap(site.product, "ticker", "watermark", 1, None)
    )


async def _sequence(site: Bench) -> Handle:
    await site.normalizer.prints(site.product, [site.newest_trade() - 3])
    return await site.start(
        await site.normalizer.open_gap(site.product, "trades", "sequence", 900, 905)
    )


async def _already_closed(site: Bench) -> Handle:
    await site.normalizer.prints(site.product, [site.newest_trade()])
    return await site.start(site.by_hand("trades"))


async def _started_plainly(site: Bench) -> Handle:
    gap = {"venue": "coinbase", "product": site.product, "feed": "book"}
    return await site.client.start_workflow(
        "GapResyncWorkflow", gap, id="plain", task_queue="resync", result_type=ResyncReport
    )


async def _retried(site: Bench) -> Handle:
    site.sim.venue.inject(FaultSpec(kind="rest_500", count=1))
    return await site.start(await site.lose_prints(3))


async def _delisted(site: Bench) -> Handle:
    gap = await site.lose_prints(3)
    site.sim.venue.inject(FaultSpec(kind="delist", product=site.product))
    return await site.start(gap)


async def _given_up(site: Bench) -> Handle:
    site.sim.venue.inject(FaultSpec(kind="rest_stale_book", duration_ms=60_000))
    now_us = time.time_ns() // 1000 + 1
    gap = await site.normalizer.open_gap(site.product, "book", "crossed", 1, now_us)
    return await site.start(gap, max_rounds=1)


async def _aborted(site: Bench) -> Handle:
    handle = await _waiting(site)
    await handle.signal("abort", "by hand")
    return handle


async def _cancelled(site: Bench) -> Handle:
    handle = await _waiting(site)
    await handle.cancel()
    return handle


async def _waiting(site: Bench) -> Handle:
    site.normalizer.silent = True
    handle = await site.start(await site.lose_prints(3))

    async def waits() -> bool:
        return bool((await handle.query("progress"))["step"] == "awaiting")

    await eventually(waits)
    return handle


async def _stretch(site: Bench, *, delisted: bool) -> Handle:
    """Start the parent with gaps of three products, one of which is delisted."""
    number = int(site.product[1:].partition("-")[0])
    products = [f"A{number + more}-USD" for more in (0, 100, 200)]
    gaps = [of_request(await site.lose_prints(3, product)) for product in products]
    site.sim.venue.inject(FaultSpec(kind="delist", product=products[2]))
    stretch = f"a-{number}/7-9"
    for gap in gaps if delisted else gaps[:-1]:
        await start_in_stretch(site.client, gap, stretch)
    return site.client.get_workflow_handle(f"stretch/coinbase/{stretch}")


async def _stretch_closed(site: Bench) -> Handle:
    return await _stretch(site, delisted=False)


async def _stretch_failed(site: Bench) -> Handle:
    return await _stretch(site, delisted=True)


async def _stretch_aborted(site: Bench) -> Handle:
    site.normalizer.silent = True
    handle = await _stretch(site, delisted=False)

    async def waits() -> bool:
        return len((await handle.query("progress"))["open"]) == 2

    await eventually(waits)
    await handle.signal("abort", "by hand")
    return handle


async def _stretch_continued(site: Bench) -> Handle:
    gap = of_request(await site.lose_prints(3))
    other = of_request(await site.lose_prints(2, "A100-USD"))
    handle = await site.client.start_workflow(
        STRETCH_RESYNC,
        StretchInput(venue="coinbase", stretch="a-1/1-3", one_run=1, waiting=[gap, other]),
        id="stretch/coinbase/a-1/1-3",
        task_queue=RESYNC_QUEUE,
    )
    await handle.result()
    return site.client.get_workflow_handle(handle.id, run_id=handle.first_execution_run_id)


async def _archive_stopped(archive: Site) -> Handle:
    await publish(archive, 10)
    handle = await archive.start("archive/stopped", flush_s=0.1)
    await archive.archived(handle)
    await handle.signal("stop", "by hand")
    return handle


async def _archive_hole(archive: Site) -> Handle:
    await publish(archive, 10)
    await archive.log._js.purge_stream(STREAMS.ticks, seq=await archive.log.end(STREAMS.ticks) - 2)
    handle = await archive.start("archive/hole", flush_s=0.1)
    await archive.archived(handle)
    await handle.signal("stop")
    return handle


async def _archive_continued(archive: Site) -> Handle:
    await publish(archive, 10)
    handle = await archive.start("archive/continued", flush_s=0.1, steps=2)
    run = archive.client.get_workflow_handle(handle.id, run_id=handle.first_execution_run_id)
    await archive.archived(handle)

    async def over() -> bool:
        return (await run.describe()).status == WorkflowExecutionStatus.CONTINUED_AS_NEW

    await eventually(over)
    await archive.client.get_workflow_handle(handle.id).signal("stop")
    return run


async def _archive_failed(archive: Site) -> Handle:
    archive.store.refusal = (403, "AccessDenied")
    handle = await archive.start("archive/failed")
    with suppress(WorkflowFailureError):
        await handle.result()
    archive.store.refusal = None
    return handle


async def _compacted(archive: Site) -> Handle:
    hour, lane = Hour.of(time.time_ns() // 1000 - 7200 * 1_000_000), await archive.lane()
    first = 1_000_000
    for at in (first, first + 1):
        line = trade("BTC-USD", at, at - 1, hour.start_us)
        await archive.lake.put(lane, Piece(hour, at, at, [Message(at, "BTC-USD", line)]))
    return await archive.client.start_workflow(
        COMPACT,
        CompactInput(stream="ticks", venue="coinbase", settled_s=0.0, linger_s=0.1),
        id="compact/replay",
        task_queue=LAKE_QUEUE,
    )


async def _audited(archive: Site) -> Handle:
    """Audit a lake whose newest hour does not follow its oldest: that is damage."""
    return await archive.client.start_workflow(
        LAKE_AUDIT,
        AuditInput(stream="ticks", venue="coinbase"),
        id="audit/replay",
        task_queue=LAKE_QUEUE,
    )


async def _audited_clean(archive: Site) -> Handle:
    return await archive.client.start_workflow(
        LAKE_AUDIT,
        AuditInput(stream="raw", venue="coinbase"),
        id="audit/replay-clean",
        task_queue=LAKE_QUEUE,
    )


ARCHIVE_PATHS: tuple[Callable[[Site], Awaitable[Handle]], ...] = (
    *(_archive_stopped, _archive_hole, _archive_continued, _archive_failed),
    *(_compacted, _audited, _audited_clean),
)
"""The ways of the lake's workflows, likewise; each follows the one before it."""


async def _canary_agrees(canary: Court) -> Handle:
    return await canary.start("canary/agrees")


async def _canary_diverges(canary: Court) -> Handle:
    return await canary.start("canary/diverges", candidate_queue="wrong")


async def _canary_nobody(canary: Court) -> Handle:
    return await canary.start("canary/nobody", candidate_queue="none", start_within_s=0.2)


async def _canary_unplanned(canary: Court) -> Handle:
    return await canary.start("canary/unplanned", products=["BTC-XYZ"])


CANARY_PATHS: tuple[Callable[[Court], Awaitable[Handle]], ...] = (
    *(_canary_agrees, _canary_diverges, _canary_nobody, _canary_unplanned),
)
"""The ways of a canary."""

PATHS: tuple[Callable[[Bench], Awaitable[Handle]], ...] = (
    *(_closed_trades, _pages, _stale_book, _refused_marker, _ticker, _sequence),
    *(_already_closed, _started_plainly, _retried, _delisted, _given_up, _aborted, _cancelled),
    *(_stretch_closed, _stretch_failed, _stretch_aborted, _stretch_continued),
)
"""Every way that the workflows can go; a history is named after each."""


async def record(wanted: Sequence[str] = ()) -> None:
    """Write one file per path that is wanted, and the known-bad one."""
    names = [f"A{number}-USD" for number in range(300)]
    market = {"history_trades": 3000, "levels": 20}
    HISTORIES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as root:
        async with bench(Path(root), products=names, market=market) as recovery:
            for product, path in zip(names, PATHS, strict=False):
                if wanted and path.__name__.strip("_") not in wanted:
                    continue
                handle = await path(recovery.fresh(product))
                # Some paths are failures, and one goes on in another run.
                with suppress(WorkflowFailureError, WorkflowContinuedAsNewError):
                    await handle.result(follow_runs=False)
                history = (await handle.fetch_history()).to_json()
                _write(path.__name__.strip("_"), handle.id, json.loads(history))
    if not wanted or {path.__name__.strip("_") for path in ARCHIVE_PATHS} & set(wanted):
        await _record_archive()
    if not wanted or {path.__name__.strip("_") for path in CANARY_PATHS} & set(wanted):
        await _record_canary()
    if not wanted or {path.__name__.strip("_") for path in REPLAY_PATHS} & set(wanted):
        await _record_replays()
    closed = json.loads((HISTORIES / "closed_trades.json").read_text())
    for event in closed["history"]["events"]:
        scheduled = event.get("activityTaskScheduledEventAttributes")
        if scheduled is not None:
            scheduled["activityType"]["name"] = "fetch_by_pigeon"
    _write(BAD, closed["workflow_id"], closed["history"])


async def _record_archive() -> None:
    """Write the histories of the lake's workflows, all of them."""
    with tempfile.TemporaryDirectory() as root:
        async with site(Path(root)) as archive:
            for path in ARCHIVE_PATHS:
                handle = await path(archive)
                with suppress(WorkflowFailureError, WorkflowContinuedAsNewError):
                    await handle.result(follow_runs=False)
                history = (await handle.fetch_history()).to_json()
                _write(path.__name__.strip("_"), handle.id, json.loads(history))


async def _record_canary() -> None:
    """Write the histories of canaries, all of them."""
    with tempfile.TemporaryDirectory() as root:
        story = Story(frames=2000, hours=1.5)
        async with (
            court(Path(root), story) as canary,
            canary.candidate(),
            canary.candidate("wrong", make=partial(make_flawed, "wrong")),
        ):
            for path in CANARY_PATHS:
                handle = await path(canary)
                with suppress(WorkflowFailureError):
                    await handle.result()
                history = (await handle.fetch_history()).to_json()
                _write(path.__name__.strip("_"), handle.id, json.loads(history))


async def _record_replays() -> None:
    """Write the histories of replays, all of them."""
    with tempfile.TemporaryDirectory() as root:
        async with replays(Path(root)) as where:
            for path in REPLAY_PATHS:
                handle = await path(where)
                with suppress(WorkflowFailureError):
                    await handle.result()
                history = (await handle.fetch_history()).to_json()
                _write(path.__name__.strip("_"), handle.id, json.loads(history))


def _neutral(value: Any) -> Any:
    """Take out what tells of the machine on which it was recorded."""
    if isinstance(value, list):
        return [_neutral(one) for one in value]
    if isinstance(value, dict):
        told = {"identity": "recorder", "stackTrace": ""}
        return {key: told.get(key, _neutral(one)) for key, one in value.items()}
    return value


def _write(name: str, workflow_id: str, history: dict[str, Any]) -> None:
    recorded = {"workflow_id": workflow_id, "history": _neutral(history)}
    text = json.dumps(recorded, indent=1)
    (HISTORIES / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(record(sys.argv[1:]))
