"""GapResyncWorkflow: each way it can go, on real servers with a plain normalizer."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from temporalio.client import WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError, CancelledError

from models.canonical import Feed
from models.recovery import RESYNC_FAILED, ResyncReport
from tests.recovery import Bench, bench
from tests.servers import eventually
from venues.simulator.fault_spec import FaultSpec
from workflows import attributes

pytestmark = pytest.mark.asyncio(loop_scope="module")

_products = itertools.count(100)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    """Give everything that recoveries need, once for all tests."""
    names = [f"A{number}-USD" for number in range(100, 130)]
    market = {"history_trades": 3000, "levels": 100}
    async with bench(tmp_path_factory.mktemp("bench"), products=names, market=market) as running:
        yield running


@pytest.fixture
def recovery(shared: Bench) -> Bench:
    """Give it with a product of the test's own."""
    return shared.fresh(f"A{next(_products)}-USD")


def now_us() -> int:
    """Return the time."""
    return time.time_ns() // 1000


async def failure(handle: WorkflowHandle[Any, ResyncReport]) -> ResyncReport:
    """Return the report of a workflow that must fail, after checking how it shows."""
    with pytest.raises(WorkflowFailureError) as raised:
        await handle.result()
    cause = raised.value.cause
    assert isinstance(cause, ApplicationError)
    assert cause.type == RESYNC_FAILED
    report = ResyncReport.model_validate(cause.details[0])
    assert report.outcome == "failed"
    assert report.sentence in cause.message
    shown = (await handle.describe()).typed_search_attributes
    assert shown.get(attributes.OUTCOME) == "failed"
    return report


async def test_trades_gap_is_filled_and_reported(recovery: Bench) -> None:
    """Lost prints come back once and in order; the report counts them and times each step."""
    request = await recovery.lose_prints(5)
    report = await recovery.run(request)
    assert (report.outcome, report.lost, report.fetched, report.filled) == ("closed", 5, 6, 5)
    assert (report.replayed, report.discarded) == (1, 0)
    assert (report.rounds, report.attempts, report.markers, report.too_old) == (1, 1, 1, 0)
    assert [step.step for step in report.steps] == ["starting", "fetching", "awaiting", "verifying"]
    assert report.links >= 6
    assert report.gap_seconds is not None
    assert recovery.outcome.total.values[recovery.product, "closed"] == 1
    (body,) = recovery.normalizer.markers[request.resync_id]
    ids = [print_["trade_id"] for print_ in body]
    assert ids == list(range(request.after + 1, recovery.newest_trade() + 1))
    assert set(body[0]) == {"trade_id", "side", "size", "price", "time"}


async def test_resync_shows_in_the_list(recovery: Bench) -> None:
    """Search attributes, summary, details and memo say it without opening the workflow."""
    request = await recovery.lose_prints(5)
    handle = await recovery.start(request)
    await handle.result()
    shown = await handle.describe()
    known = shown.typed_search_attributes
    assert [known.get(key) for key in attributes.KEYS] == [
        "coinbase",
        recovery.product,
        "trades",
        "closed",
        None,
    ]
    assert (
        await shown.static_summary()
        == f"{recovery.product} trades: 5 prints lost, a jump of the trade id"
    )
    assert str(request.after) in (await shown.static_details() or "")
    memo = await shown.memo_value(attributes.REPORT_MEMO, type_hint=ResyncReport)
    assert memo.outcome == "closed"


async def test_trades_gap_beyond_one_page_is_walked(recovery: Bench) -> None:
    """2,500 prints take one request to see it and three pages, oldest first, the last one last."""
    request = await recovery.lose_prints(2500)
    report = await recovery.run(request)
    assert (report.outcome, report.filled, report.markers) == ("closed", 2500, 3)
    assert report.attempts == 4
    ids = [t["trade_id"] for body in recovery.normalizer.markers[request.resync_id] for t in body]
    assert ids == list(range(request.after + 1, recovery.newest_trade() + 1))


async def test_stale_book_is_fetched_again(recovery: Bench) -> None:
    """Three answers from a cache are told from the one that reaches past the gap."""
    recovery.sim.venue.inject(FaultSpec(kind="rest_stale_book", count=3))
    await asyncio.sleep(0.001)
    request = await recovery.normalizer.open_gap(
        recovery.product, "book", "lost_record", 1, now_us()
    )
    report = await recovery.run(request)
    assert (report.outcome, report.too_old, report.rounds, report.markers) == ("closed", 3, 4, 1)
    assert report.discarded == 3
    assert "older than the gap" in next(s.note for s in report.steps if s.step == "fetching")
    (body,) = recovery.normalizer.markers[request.resync_id]
    assert set(body) >= {"bids", "asks", "sequence", "time"}
    assert len(body["bids"]) > 50


async def test_marker_that_the_normalizer_finds_too_old_is_replaced(recovery: Bench) -> None:
    """Each refusal leads to another fetch; an earlier answer is not taken for the next one."""
    recovery.normalizer.say_gap = 2
    request = await recovery.lose_prints(3)
    report = await recovery.run(request)
    assert (report.outcome, report.rounds, report.markers) == ("closed", 3, 3)
    assert [step.step for step in report.steps].count("too_old") == 2


async def test_ticker_is_fetched_in_two_requests(recovery: Bench) -> None:
    """The marker holds the best prices with their sequence, and the newest print."""
    request = await recovery.normalizer.open_gap(recovery.product, "ticker", "watermark", 1, None)
    report = await recovery.run(request)
    assert (report.outcome, report.attempts, report.markers) == ("closed", 2, 1)
    (body,) = recovery.normalizer.markers[request.resync_id]
    assert body["trade"]["trade_id"] == recovery.newest_trade()
    assert len(body["book"]["bids"]) == 1


async def test_sequence_gap_of_trades_is_fetched_by_trade_id(recovery: Bench) -> None:
    """Venue sequences are no trade ids: what counts is the newest print in the canonical log."""
    newest = recovery.newest_trade()
    await recovery.normalizer.prints(recovery.product, [newest - 3])
    request = await recovery.normalizer.open_gap(recovery.product, "trades", "sequence", 900, 905)
    report = await recovery.run(request)
    assert (report.outcome, report.fetched, report.lost) == ("closed", 3, None)
    (body,) = recovery.normalizer.markers[request.resync_id]
    assert [print_["trade_id"] for print_ in body] == [newest - 2, newest - 1, newest]


@pytest.mark.parametrize(("feed", "outcome"), [("book", "closed"), ("trades", "already_closed")])
async def test_resync_by_hand_without_a_gap(recovery: Bench, feed: Feed, outcome: str) -> None:
    """A book begins a new chain; trades without a gap have nothing to fill."""
    await recovery.normalizer.prints(recovery.product, [recovery.newest_trade()])
    report = await recovery.run(recovery.by_hand(feed))
    assert (report.outcome, report.reason) == (outcome, "manual")


async def test_repeated_gap_is_one_workflow(recovery: Bench) -> None:
    """The same gap asked for twice, while it runs, is the same run."""
    recovery.normalizer.silent = True
    request = await recovery.lose_prints(2)
    first, second = await recovery.start(request), await recovery.start(request)
    assert first.first_execution_run_id == second.first_execution_run_id
    await first.signal("abort", "enough")
    assert (await first.result()).outcome == "aborted"


async def test_abort_ends_it_at_once_with_the_reason(recovery: Bench) -> None:
    """Progress tells where it is; abort ends it as completed, its outcome says aborted."""
    recovery.normalizer.silent = True
    request = await recovery.lose_prints(2)
    handle = await recovery.start(request)

    async def waits() -> bool:
        progress = await handle.query("progress")
        return bool(progress["step"] == "awaiting" and progress["markers"] == 1)

    await eventually(waits)
    await handle.signal("abort", "the venue is under maintenance")
    report = await handle.result()
    assert (report.outcome, report.sentence) == (
        "aborted",
        "aborted: the venue is under maintenance",
    )
    shown = (await handle.describe()).typed_search_attributes
    assert shown.get(attributes.OUTCOME) == "aborted"


async def test_cancelled_workflow_shows_as_aborted(recovery: Bench) -> None:
    """Temporal's own cancel works as well, and ends as cancelled."""
    recovery.normalizer.silent = True
    handle = await recovery.start(await recovery.lose_prints(2))
    await handle.cancel()
    with pytest.raises(WorkflowFailureError) as raised:
        await handle.result()
    assert isinstance(raised.value.cause, CancelledError)
    shown = (await handle.describe()).typed_search_attributes
    assert shown.get(attributes.OUTCOME) == "aborted"


async def test_delisted_product_is_a_final_explained_failure(recovery: Bench) -> None:
    """404 is not asked for again: one attempt, and a sentence with the address."""
    request = await recovery.lose_prints(2)
    recovery.sim.venue.inject(FaultSpec(kind="delist", product=recovery.product))
    report = await failure(await recovery.start(request))
    assert "404" in report.sentence
    assert recovery.product in report.sentence
    assert request.resync_id not in recovery.normalizer.markers
    await eventually(lambda: request.resync_id in recovery.normalizer.given_up)
    assert recovery.normalizer.given_up[request.resync_id] == report.sentence
    assert recovery.outcome.total.values[recovery.product, "failed"] == 1


async def test_unknown_venue_is_a_final_failure(recovery: Bench) -> None:
    """A venue without a REST client is named."""
    handle = await recovery.start(recovery.by_hand("book").model_copy(update={"venue": "nasdaq"}))
    assert "'nasdaq'" in (await failure(handle)).sentence


async def test_venue_down_for_longer_than_allowed_is_given_up(recovery: Bench) -> None:
    """Bounded in time: the last error is in the report."""
    recovery.sim.venue.inject(FaultSpec(kind="rest_500", duration_ms=60_000))
    handle = await recovery.start(await recovery.lose_prints(2), give_up_after_s=1.0)
    report = await failure(handle)
    assert report.sentence.startswith("given up: ")
    assert "HTTP 500" in report.sentence


async def test_book_that_stays_stale_is_given_up(recovery: Bench) -> None:
    """Bounded in fetches: the report says how old the last one was."""
    recovery.sim.venue.inject(FaultSpec(kind="rest_stale_book", duration_ms=60_000))
    await asyncio.sleep(0.001)
    request = await recovery.normalizer.open_gap(recovery.product, "book", "crossed", 1, now_us())
    report = await failure(await recovery.start(request, max_rounds=2))
    assert "after 2 fetches" in report.sentence
    assert report.too_old == 2


async def test_prints_that_the_venue_no_longer_has_are_told(recovery: Bench) -> None:
    """History that does not reach back to the gap never passes for a recovery."""
    newest = recovery.newest_trade()
    await recovery.normalizer.prints(recovery.product, [newest - 9000])
    gap = await recovery.normalizer.open_gap(
        recovery.product, "trades", "trade_id", newest - 9000, newest + 1
    )
    report = await failure(await recovery.start(gap, give_up_after_s=1.0))
    assert "trades are missing from the answers" in report.sentence
    assert gap.resync_id not in recovery.normalizer.markers


async def test_loss_that_a_person_accepts_takes_what_there_is(recovery: Bench) -> None:
    """The venue's newest page goes out as it is; nothing is asked for that it has not."""
    newest = recovery.newest_trade()
    await recovery.normalizer.prints(recovery.product, [newest - 9000])
    gap = recovery.by_hand("trades").model_copy(update={"accept_loss": True})
    report = await recovery.run(gap)
    assert (report.attempts, report.markers, report.fetched) == (1, 1, 1000)
    (body,) = recovery.normalizer.markers[gap.resync_id]
    assert [body[0]["trade_id"], body[-1]["trade_id"]] == [newest - 999, newest]


async def test_broken_chain_is_found_and_named(recovery: Bench) -> None:
    """A normalizer that says `live` with a print missing is not believed."""
    request = await recovery.lose_prints(5)
    recovery.normalizer.forget = frozenset({request.after + 2})
    report = await failure(await recovery.start(request))
    assert f"print {request.after + 3} came where {request.after + 2} was due" in report.sentence


async def test_marker_passed_without_an_answer_is_told(recovery: Bench) -> None:
    """A normalizer that cannot read markers goes on; the workflow does not wait for ever."""
    recovery.normalizer.silent = True
    request = await recovery.lose_prints(2)
    handle = await recovery.start(request)

    async def waits() -> bool:
        return bool((await handle.query("progress"))["step"] == "awaiting")

    await eventually(waits)
    await recovery.normalizer.prints(recovery.product, [request.after + 9], position=10**6)
    assert "without answering" in (await failure(handle)).sentence
