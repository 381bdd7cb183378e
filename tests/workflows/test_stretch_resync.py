"""StretchResyncWorkflow: one parent for the gaps of one lost stretch, a child for each."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError

from models.recovery import (
    RESYNC_QUEUE,
    STRETCH_RESYNC,
    ResyncReport,
    StretchInput,
    StretchProgress,
    StretchReport,
)
from models.resync import ResyncRequest
from tests.recovery import Bench, bench
from tests.servers import PATIENCE_S, eventually
from venues.simulator.fault_spec import FaultSpec
from workflows import attributes
from workflows.starting import of_request, start_resync

pytestmark = pytest.mark.asyncio(loop_scope="module")

_numbers = itertools.count(100, 10)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    """Give everything that recoveries need, once for all tests."""
    names = [f"A{number}-USD" for number in range(100, 200)]
    market = {"history_trades": 100, "levels": 10}
    root = tmp_path_factory.mktemp("bench")
    async with bench(root, products=names, market=market, cached=100) as running:
        yield running


class Stretch:
    """One lost stretch that has hit three products."""

    def __init__(self, site: Bench) -> None:
        first = next(_numbers)
        self.name = f"a-{first}/7-9"
        self.products = [f"A{number}-USD" for number in range(first, first + 3)]
        self.site = site.fresh(self.products[0])
        self.requests: list[ResyncRequest] = []

    async def lose(self, product: str) -> ResyncRequest:
        """Announce a gap of this stretch, without asking for its recovery."""
        request = await self.site.lose_prints(3, product)
        return msgspec.structs.replace(request, stretch=self.name)

    async def lose_all(self) -> None:
        """Announce a gap on each product and ask for their recovery."""
        self.requests = [await self.lose(product) for product in self.products]
        await asyncio.gather(*(self.site.normalizer.ask(one) for one in self.requests))

    @property
    def parent(self) -> WorkflowHandle[Any, StretchReport]:
        """The parent's workflow."""
        return self.site.client.get_workflow_handle(
            f"stretch/coinbase/{self.name}", result_type=StretchReport
        )

    async def status(self) -> WorkflowExecutionStatus | None:
        """Return how the parent stands; none before it exists."""
        try:
            return (await self.parent.describe()).status
        except RPCError:
            return None

    async def waits(self, count: int) -> None:
        """Wait until so many children run."""

        async def enough() -> bool:
            if await self.status() != WorkflowExecutionStatus.RUNNING:
                return False
            told = StretchProgress.model_validate(await self.parent.query("progress"))
            return len(told.open) == count

        await eventually(enough)

    async def ended(self) -> StretchReport:
        """Wait for the parent's end."""
        await eventually(self._exists)
        async with asyncio.timeout(PATIENCE_S):
            return await self.parent.result()

    async def _exists(self) -> bool:
        return await self.status() is not None


@pytest.fixture
def stretch(shared: Bench) -> Stretch:
    """Give a stretch of the test's own."""
    return Stretch(shared)


async def test_gaps_of_a_stretch_are_children_of_one_parent(stretch: Stretch) -> None:
    """Each gap has its own workflow and report; the parent counts them."""
    await stretch.lose_all()
    report = await stretch.ended()
    assert (report.outcome, report.count.closed, report.count.total) == ("closed", 3, 3)
    assert report.sentence == "3 gaps: 3 closed"
    for request in stretch.requests:
        child = stretch.site.client.get_workflow_handle(request.resync_id, result_type=ResyncReport)
        told = await child.describe()
        assert told.parent_id == stretch.parent.id
        assert (await child.result()).outcome == "closed"
    shown = (await stretch.parent.describe()).typed_search_attributes
    assert shown.get(attributes.VENUE) == "coinbase"
    assert shown.get(attributes.OUTCOME) == "closed"


async def test_repeats_and_late_requests_are_one_workflow_each(stretch: Stretch) -> None:
    """A repeat is not a second child; what comes after the end goes its own way."""
    stretch.requests = [await stretch.lose(stretch.products[0])]
    for _ in range(3):
        await stretch.site.normalizer.ask(stretch.requests[0])
    assert (await stretch.ended()).count.total == 1
    late = await stretch.lose(stretch.products[1])
    await stretch.site.normalizer.ask(late)
    handle = stretch.site.client.get_workflow_handle(late.resync_id, result_type=ResyncReport)

    async def closed() -> bool:
        try:
            return (await handle.describe()).status == WorkflowExecutionStatus.COMPLETED
        except RPCError:
            return False

    await eventually(closed)
    assert (await handle.describe()).parent_id is None


async def test_gap_that_runs_elsewhere_is_left_there(stretch: Stretch) -> None:
    """A person was faster: the parent does not recover it a second time."""
    stretch.site.normalizer.silent = True
    request = await stretch.lose(stretch.products[0])
    by_hand = await start_resync(stretch.site.client, of_request(request))
    await stretch.site.normalizer.ask(request)
    report = await stretch.ended()
    assert (report.count.elsewhere, report.outcome) == (1, "already_closed")
    await by_hand.signal("abort", "enough")
    assert (await by_hand.result()).outcome == "aborted"


async def test_one_gap_that_cannot_be_recovered_is_named_and_the_others_close(
    stretch: Stretch,
) -> None:
    """A delisted product fails its own child; the parent ends as failed and says which."""
    gone = stretch.products[1]
    stretch.site.sim.venue.inject(FaultSpec(kind="delist", product=gone))
    await stretch.lose_all()
    with pytest.raises(WorkflowFailureError) as raised:
        await stretch.ended()
    cause = raised.value.cause
    assert isinstance(cause, ApplicationError)
    report = StretchReport.model_validate(cause.details[0])
    assert (report.count.closed, report.count.failed) == (2, 1)
    (failure,) = report.failures
    assert gone in failure
    assert "404" in failure


async def _is_cancelled(child: WorkflowHandle[Any, Any]) -> bool:
    return (await child.describe()).status == WorkflowExecutionStatus.CANCELED


@pytest.mark.parametrize("how", ["abort", "cancel"])
async def test_parent_that_is_stopped_stops_its_children(stretch: Stretch, how: str) -> None:
    """By signal or by cancelling: the gaps stay open, and nothing is left running."""
    stretch.site.normalizer.silent = True
    await stretch.lose_all()
    await stretch.waits(3)
    if how == "abort":
        await stretch.parent.signal("abort", "the venue is away")
        report = await stretch.ended()
        assert (report.outcome, report.count.aborted) == ("aborted", 3)
        assert report.sentence.endswith("the venue is away")
    else:
        await stretch.parent.cancel()
        with pytest.raises(WorkflowFailureError):
            await stretch.ended()
    for request in stretch.requests:
        child = stretch.site.client.get_workflow_handle(request.resync_id)
        await eventually(partial(_is_cancelled, child))  # a parent that is cancelled may end before


async def test_more_gaps_than_one_run_takes_go_on_in_the_next(stretch: Stretch) -> None:
    """No history grows without bounds: the count is carried over."""
    gaps = [of_request(await stretch.lose(product)) for product in stretch.products]
    handle = await stretch.site.client.start_workflow(
        STRETCH_RESYNC,
        StretchInput(venue="coinbase", stretch=stretch.name, one_run=2, waiting=gaps),
        id=stretch.parent.id,
        task_queue=RESYNC_QUEUE,
    )
    report = await stretch.ended()
    assert (report.outcome, report.count.closed) == ("closed", 3)
    assert (await stretch.parent.describe()).run_id != handle.first_execution_run_id
