"""Recovery while things fail: the venue, the worker, Temporal, the log; requests by MD_RESYNC."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import pytest
import pytest_asyncio
from temporalio.client import WorkflowExecutionStatus, WorkflowHandle
from temporalio.service import RPCError

from models.recovery import ResyncReport
from models.resync import ResyncRequest
from tests.recovery import Bench, WorkerProcess, bench
from tests.servers import PATIENCE_S, eventually, port_open
from venues.simulator.fault_spec import FaultSpec, Kind

pytestmark = pytest.mark.asyncio(loop_scope="module")

_products = itertools.count(100)


@dataclass
class Site:
    """A bench whose worker is a process of its own."""

    bench: Bench
    worker: WorkerProcess

    async def ended(self, request: ResyncRequest, within_s: float = PATIENCE_S) -> ResyncReport:
        """Wait for the workflow of a request, however it came to be started."""
        handle = self.bench.client.get_workflow_handle(request.resync_id, result_type=ResyncReport)

        async def exists() -> bool:
            try:
                await handle.describe()
            except RPCError:
                return False
            return True

        await eventually(exists, within_s=within_s)
        async with asyncio.timeout(within_s):
            report: ResyncReport = await handle.result()
            return report

    async def attempt_started(self, request: ResyncRequest) -> None:
        """Wait until the venue has been asked."""

        async def asked() -> bool:
            told = await self.handle(request).describe()
            pending = told.raw_description.pending_activities
            return any(one.last_heartbeat_time.seconds for one in pending)

        await eventually(asked)

    def handle(self, request: ResyncRequest) -> WorkflowHandle[object, object]:
        """Return the workflow of a request."""
        return self.bench.client.get_workflow_handle(request.resync_id)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """Give all servers and the worker process, once for all tests."""
    root = tmp_path_factory.mktemp("site")
    names = [f"A{number}-USD" for number in range(100, 120)]
    async with bench(
        root, products=names, workers=False, market={"levels": 50}, coinbase_rest_timeout_s=0.5
    ) as running:
        with WorkerProcess(root, running.settings) as worker:
            await port_open(worker.metrics_port)
            yield Site(running, worker)


@pytest.fixture
def site(shared: Site) -> Site:
    """Give them with a product of the test's own."""
    return Site(shared.bench.fresh(f"A{next(_products)}-USD"), shared.worker)


@pytest.mark.parametrize(
    ("kind", "least_s"), [("rest_429", 1.0), ("rest_500", 0.0), ("rest_timeout", 0.5)]
)
async def test_venue_that_fails_twice_is_asked_again(
    site: Site, kind: Kind, least_s: float
) -> None:
    """Refusals, errors and silence are waited out; a 429 for as long as the venue says."""
    request = await site.bench.lose_prints(3)
    site.bench.sim.venue.inject(FaultSpec(kind=kind, endpoint="trades", count=2, retry_after_s=1))
    began = time.monotonic()
    await site.bench.normalizer.ask(request)
    report = await site.ended(request)
    assert (report.outcome, report.filled, report.attempts) == ("closed", 3, 3)
    assert time.monotonic() - began >= 2 * least_s


async def test_repeats_of_a_request_are_one_workflow(site: Site) -> None:
    """Asked again while it runs, and again when it is done: one run, and the queue is empty."""
    request = await site.bench.lose_prints(3)
    for _ in range(3):
        await site.bench.normalizer.ask(request)
    assert (await site.ended(request)).outcome == "closed"
    await site.bench.normalizer.ask(request)
    await eventually(lambda: queue_empty(site.bench))
    query = f"Product='{site.bench.product}'"
    await eventually(lambda: one_in_list(site.bench, query))
    assert len(site.bench.normalizer.markers[request.resync_id]) == 1


async def queue_empty(running: Bench) -> bool:
    """Tell whether nothing waits on MD_RESYNC."""
    return not await running.log.subjects("MD_RESYNC", "market.resync.>")


async def one_in_list(running: Bench, query: str) -> bool:
    """Tell whether the list has exactly one workflow."""
    return (await running.client.count_workflows(query)).count == 1


async def test_request_that_nobody_can_read_holds_nobody_up(site: Site) -> None:
    """It leaves the queue, and the next one is served."""
    await site.bench.log.publish("market.resync.coinbase.X-USD", b'{"venue":')
    request = await site.bench.lose_prints(1)
    await site.bench.normalizer.ask(request)
    assert (await site.ended(request)).outcome == "closed"
    await eventually(lambda: queue_empty(site.bench))


async def test_worker_killed_in_the_middle_of_a_request_is_replaced(site: Site) -> None:
    """`kill -9` is noticed by the heartbeat; the next worker goes on, and publishes once."""
    site.bench.sim.venue.inject(
        FaultSpec(kind="rest_slow", product=site.bench.product, delay_ms=20_000)
    )
    request = await site.bench.lose_prints(3)
    await site.bench.normalizer.ask(request)
    await eventually(lambda: running(site, request))
    await site.attempt_started(request)
    site.worker.kill()
    site.worker.start()
    report = await site.ended(request)
    assert (report.outcome, report.filled) == ("closed", 3)
    assert report.attempts >= 2
    assert len(site.bench.normalizer.markers[request.resync_id]) == 1


async def running(site: Site, request: ResyncRequest) -> bool:
    """Tell whether the workflow runs."""
    try:
        told = await site.handle(request).describe()
    except RPCError:
        return False
    return told.status == WorkflowExecutionStatus.RUNNING


@pytest.mark.parametrize("how", ["kill", "stop"])
async def test_worker_gone_while_it_waits_for_the_gate_is_replaced(site: Site, how: str) -> None:
    """The waiting is taken up where it was; an answer given meanwhile is found."""
    site.bench.normalizer.silent = True
    request = await site.bench.lose_prints(3)
    await site.bench.normalizer.ask(request)
    await eventually(lambda: running(site, request))

    async def waits() -> bool:
        told = await site.handle(request).describe()
        pending = told.raw_description.pending_activities
        return any(one.activity_type.name == "await_reopening" for one in pending)

    await eventually(waits)
    await asyncio.to_thread(getattr(site.worker, how))
    site.bench.normalizer.silent = False
    await site.bench.normalizer.answer_again(request.resync_id)
    site.worker.start()
    report = await site.ended(request)
    assert (report.outcome, report.markers) == ("closed", 1)


async def test_temporal_killed_and_back_recovers_by_itself(site: Site) -> None:
    """Requests made meanwhile wait on MD_RESYNC; what ran goes on; nobody has to help."""
    site.bench.normalizer.silent = True
    before = await site.bench.lose_prints(3)
    await site.bench.normalizer.ask(before)
    await eventually(lambda: running(site, before))
    site.bench.temporal.kill()
    site.bench.normalizer.silent = False
    other = site.bench.fresh(f"A{next(_products)}-USD")
    meanwhile = await other.lose_prints(2)
    await other.normalizer.ask(meanwhile)
    await site.bench.normalizer.answer_again(before.resync_id)
    site.bench.temporal.start()
    await port_open(site.bench.temporal.port)
    for request in (before, meanwhile):
        assert (await site.ended(request)).outcome == "closed"


async def test_nats_restarted_in_the_middle_recovers_by_itself(site: Site) -> None:
    """A restart of the log while the workflow waits loses neither marker nor answer."""
    site.bench.normalizer.silent = True
    request = await site.bench.lose_prints(3)
    await site.bench.normalizer.ask(request)
    await eventually(lambda: request.resync_id in site.bench.normalizer.unanswered)
    site.bench.nats.kill()
    site.bench.nats.start()
    await port_open(site.bench.nats.port)
    site.bench.normalizer.silent = False
    await site.bench.normalizer.answer_again(request.resync_id)
    other = site.bench.fresh(f"A{next(_products)}-USD")
    after = await other.lose_prints(2)
    await other.normalizer.ask(after)
    assert (await site.ended(request)).outcome == "closed"
    assert (await site.ended(after)).outcome == "closed"


async def test_metrics_count_outcomes_and_time(site: Site) -> None:
    """The worker serves md_resync_total by product and outcome, and md_resync_seconds."""
    request = await site.bench.lose_prints(1)
    await site.bench.normalizer.ask(request)
    await site.ended(request)
    async with httpx.AsyncClient(timeout=PATIENCE_S) as http:
        text = (await http.get(f"http://127.0.0.1:{site.worker.metrics_port}/metrics")).text
    assert f'md_resync_total{{outcome="closed",product="{site.bench.product}"}} 1.0' in text
    assert 'md_resync_seconds_bucket{le="+Inf"}' in text
