"""Many products at once: all recover, and the venue is never asked more often than it allows.

`python -m bench resync-storm` does it with 300.
"""

import asyncio
from pathlib import Path

import pytest

from models.recovery import ResyncReport
from models.settings import Settings
from tests.recovery import STREAMS, TemporalServer, WorkerProcess, bench
from tests.servers import eventually, port_open
from venues.simulator.config import Limits
from workers.dispatcher import Dispatcher
from workflows import attributes
from workflows.connect import connect, ensure_search_attributes

PRODUCTS = tuple(f"S{number:03}-USD" for number in range(100))


async def test_storm_recovers_within_the_venues_own_limit(tmp_path: Path) -> None:
    """Two worker processes share the rate that Temporal's server keeps: no request is refused."""
    market = {"levels": 2, "history_trades": 10}
    async with bench(
        tmp_path,
        products=PRODUCTS,
        limits=Limits(),
        workers=False,
        market=market,
        coinbase_rest_per_s=Settings.model_fields["coinbase_rest_per_s"].default,
    ) as site:
        (tmp_path / "b").mkdir()
        with (
            WorkerProcess(tmp_path, site.settings) as one,
            WorkerProcess(tmp_path / "b", site.settings) as other,
        ):
            await port_open(one.metrics_port)
            await port_open(other.metrics_port)
            requests = [await site.lose_prints(1, product) for product in PRODUCTS]
            await asyncio.gather(*(site.normalizer.ask(request) for request in requests))
            query = "WorkflowType='GapResyncWorkflow' AND Outcome='closed'"

            async def all_closed() -> bool:
                await asyncio.sleep(0.2)
                return (await site.client.count_workflows(query)).count == len(PRODUCTS)

            await eventually(all_closed)
            found = [
                await execution.memo_value(attributes.REPORT_MEMO, type_hint=ResyncReport)
                async for execution in site.client.list_workflows(query)
            ]
    assert {report.product for report in found} == set(PRODUCTS)
    # Without the server's limit most are refused at first; on a busy machine requests that waited
    # may reach the venue bunched, and then a few are.
    repeats = sum(report.attempts for report in found) - len(PRODUCTS)
    assert repeats <= len(PRODUCTS) // 20, "the venue refused some"


async def test_server_without_search_attributes_gets_them(tmp_path: Path) -> None:
    """A server that nobody has prepared is prepared by the worker; twice does no harm."""
    async with bench(tmp_path, workers=False) as site:
        await ensure_search_attributes(site.client)
        bare = TemporalServer(tmp_path / "bare", prepared=False)
        with bare:
            await port_open(bare.port)
            settings = site.settings.model_copy(update={"temporal_address": bare.address})
            client = await connect(settings)
            await ensure_search_attributes(client)
            dispatcher = asyncio.create_task(Dispatcher(site.log, STREAMS, client).run())
            request = await site.lose_prints(1)
            await site.normalizer.ask(request)
            handle = client.get_workflow_handle(request.resync_id)

            async def started() -> bool:
                found = [one async for one in client.list_workflows("Feed='trades'")]
                return [one.id for one in found] == [request.resync_id]

            await eventually(started)
            await handle.terminate()
            dispatcher.cancel()
            with pytest.raises(asyncio.CancelledError):
                await dispatcher
