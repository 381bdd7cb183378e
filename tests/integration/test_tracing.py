"""One trace follows a frame from ingest to the gateway, and each workflow with its activities."""

import asyncio
import json
import sys
import time
from contextlib import aclosing
from pathlib import Path

import pytest
from temporalio import workflow
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from models.settings import Settings, SettingsError, load_settings
from models.subjects import Streams
from streaming.broker.jetstream import JetStreamLog
from streaming.ingest import Ingest
from streaming.normalize import Normalizer
from streaming.tracing import FLUSH_S, TRACEPARENT, Tracing, traced
from tests.collector import Collector, SpanTold, collecting
from tests.commands import run
from tests.gateways import PRODUCT, receive, running_gateway, subscriber
from tests.ingesting import match
from tests.recovery import TemporalServer, WorkerProcess, bench
from tests.servers import PATIENCE_S, eventually, free_port, port_open
from venues.coinbase.mapper import decode
from workflows.connect import connect_patiently

STREAMS = Streams()
ACTIVITIES = ("note_position", "fetch_and_publish", "await_reopening", "verify_chain")
BY_HAND = (
    "temporal workflow start --task-queue resync --type GapResyncWorkflow --workflow-id by-hand/1 "
    f"""--input '{{"venue":"coinbase","product":"{PRODUCT}","feed":"book"}}'"""
)
NOW_US = 1_790_733_824_000_000


@pytest.fixture
def spans_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the SDK send what it has every 50 ms, by its own variable."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")


def traced_settings(settings: Settings, endpoint: str, share: float = 1.0) -> Settings:
    """Return settings with a collector."""
    return settings.model_copy(
        update={"otel_exporter_otlp_endpoint": endpoint, "otel_traces_sampler_arg": share}
    )


async def told(collector: Collector, name: str, count: int) -> list[SpanTold]:
    """Wait until so many spans of a name have come, and return them."""
    await eventually(lambda: len(collector.named(name)) >= count)
    return collector.named(name)


async def stored_headers(log: JetStreamLog, stream: str, count: int) -> list[str | None]:
    """Return the trace header of the first messages of a stream."""
    found: list[str | None] = []
    async with asyncio.timeout(PATIENCE_S), aclosing(log.read(stream, "market.>")) as messages:
        async for message in messages:
            found.append(message.headers.get(TRACEPARENT))
            if len(found) == count:
                break
    return found


@pytest.mark.usefixtures("spans_at_once")
async def test_one_trace_follows_a_frame_to_the_subscriber(
    log: JetStreamLog, settings: Settings
) -> None:
    """Ingest, normalize, deliver: each the child of the one before, with product and shard."""
    async with collecting() as collector:
        settings = traced_settings(settings, collector.endpoint)
        with traced(settings, "all-in-one"):
            async with asyncio.TaskGroup() as tasks, running_gateway(settings) as gateway:
                sink = Ingest(log, "coinbase", [PRODUCT], 1, tasks)
                normalizer = Normalizer(log, STREAMS, "coinbase", 0, decode, tasks)
                reading = tasks.create_task(normalizer.run())
                async with subscriber(gateway, products=[PRODUCT], feeds=["trades"]) as client:
                    await receive(client, 2)
                    sink.opened("a-1")
                    now_us = time.time_ns() // 1000
                    sink.frame(now_us, "a-1", match(7))
                    messages = await receive(client, 1)
                (ingest,) = await told(collector, "ingest", 1)
                (normalize,) = await told(collector, "normalize", 1)
                (deliver,) = await told(collector, "deliver", 1)
                reading.cancel()
        assert [message["op"] for message in messages] == ["incr"]
    assert ingest.parent == ""
    assert (normalize.parent, deliver.parent) == (ingest.id, normalize.id)
    assert {normalize.trace, deliver.trace} == {ingest.trace}
    for span in (ingest, normalize, deliver):
        assert span.service == "all-in-one"
        facts = (span.attributes["venue"], span.attributes["product"], span.attributes["shard"])
        assert facts == ("coinbase", PRODUCT, 0)
        assert span.start_ns <= span.end_ns
    assert ingest.start_ns == now_us * 1000
    assert ingest.start_ns <= normalize.start_ns <= deliver.start_ns
    assert (ingest.attributes["position"], ingest.attributes["lines"]) == (1, 1)
    assert (normalize.attributes["position"], normalize.attributes["lines"]) == (1, 1)
    assert (deliver.attributes["position"], deliver.attributes["subscribers"]) == (1, 1)


@pytest.mark.usefixtures("spans_at_once")
async def test_traces_that_meet_in_one_message_are_linked(
    log: JetStreamLog, settings: Settings
) -> None:
    """A canonical message has one trace; what else went into it ends there, and says where."""
    async with collecting() as collector:
        with traced(traced_settings(settings, collector.endpoint), "both"):
            async with asyncio.TaskGroup() as tasks:
                sink = Ingest(log, "coinbase", [PRODUCT], 1, tasks)
                sink.opened("a-1")
                for number in range(1, 40):
                    sink.frame(NOW_US + number, "a-1", match(number))
                    await sink.flush()
                normalizer = Normalizer(log, STREAMS, "coinbase", 0, decode, tasks)
                reading = tasks.create_task(normalizer.run())
                spans = await told(collector, "normalize", 39)
                reading.cancel()
            headers = await stored_headers(log, STREAMS.ticks, 1)
        assert len(await told(collector, "ingest", 39)) == 39
        assert len({span.trace for span in spans}) == 39
        carried = {span.trace for span in spans if not span.links}
        linked = {link for span in spans for link in span.links}
        assert linked <= carried
        assert len(carried) < 39, "nothing was batched: this proves nothing"
        assert str(headers[0]).split("-")[1] in carried


@pytest.mark.usefixtures("spans_at_once")
async def test_a_restarted_normalizer_traces_nothing_twice(
    log: JetStreamLog, settings: Settings
) -> None:
    """What is applied again, but was published before, is no step of the trace any more."""
    async with collecting() as collector:
        with traced(traced_settings(settings, collector.endpoint), "again"):
            for life in range(2):
                async with asyncio.TaskGroup() as tasks:
                    sink = Ingest(log, "coinbase", [PRODUCT], 1, tasks)
                    sink.opened(f"a-{life}")
                    sink.frame(NOW_US + life, f"a-{life}", match(life + 1))
                    await sink.flush()
                    normalizer = Normalizer(log, STREAMS, "coinbase", 0, decode, tasks)
                    reading = tasks.create_task(normalizer.run())
                    await told(collector, "normalize", life + 1)
                    reading.cancel()
        assert [len(collector.named(name)) for name in ("ingest", "normalize")] == [2, 2]


async def test_only_a_share_of_the_messages_is_traced(
    log: JetStreamLog, settings: Settings
) -> None:
    """With a share of none there is no header, and a message without one begins no step."""
    async with collecting() as collector:
        with traced(traced_settings(settings, collector.endpoint, share=0.0), "none") as tracing:
            assert tracing is not None
            async with asyncio.TaskGroup() as tasks:
                sink = Ingest(log, "coinbase", [PRODUCT], 1, tasks)
                sink.opened("a-1")
                sink.frame(NOW_US, "a-1", match(1))
                await sink.flush()
            assert await stored_headers(log, STREAMS.raw, 1) == [None]
            quarter = Tracing(tracing._provider, 0.25)
            chosen = sum(quarter.sampled() for _ in range(4000))
        assert collector.spans == []
    assert 800 < chosen < 1200


async def test_without_a_collector_nothing_is_traced(log: JetStreamLog, settings: Settings) -> None:
    """No header is published, and the SDK is not even loaded."""
    with traced(settings, "quiet") as tracing:
        assert tracing is None
        async with asyncio.TaskGroup() as tasks:
            sink = Ingest(log, "coinbase", [PRODUCT], 1, tasks)
            sink.opened("a-1")
            sink.frame(NOW_US, "a-1", match(1))
            await sink.flush()
    assert await stored_headers(log, STREAMS.raw, 1) == [None]
    code = (
        "import sys, workers.ingestor, workers.normalizer, workers.gateway, workers.temporal\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry.sdk')])"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(PATIENCE_S):
        out, _ = await process.communicate()
    assert out.decode().strip() == "[]"


async def test_a_collector_that_is_away_costs_nothing_but_the_traces(
    log: JetStreamLog, settings: Settings
) -> None:
    """Frames are stored as ever, and the process ends within its bound."""
    settings = traced_settings(settings, f"http://127.0.0.1:{free_port()}")
    with traced(settings, "lonely"):
        async with asyncio.TaskGroup() as tasks:
            sink = Ingest(log, "coinbase", [PRODUCT], 1, tasks)
            sink.opened("a-1")
            for number in range(1, 101):
                sink.frame(NOW_US + number, "a-1", match(number))
                await sink.flush()
        began_s = time.monotonic()
    assert time.monotonic() - began_s < 10 * FLUSH_S  # its exporter alone would try for a minute
    assert await log.end(STREAMS.raw) == 100


def test_a_collector_that_cannot_be_one_is_refused() -> None:
    """The sentence says what is expected instead."""
    with pytest.raises(
        SettingsError, match=r"OTEL_EXPORTER_OTLP_ENDPOINT='127.0.0.1:4317'.*http://"
    ):
        load_settings(otel_exporter_otlp_endpoint="127.0.0.1:4317")


@pytest.mark.usefixtures("spans_at_once")
async def test_a_workflow_and_its_activities_are_one_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever started it; where nobody's span did, the trace's id is that of the run."""
    async with collecting() as collector, bench(tmp_path, workers=False) as recovery:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        with WorkerProcess(tmp_path, recovery.settings) as worker:
            request = await recovery.lose_prints(3)
            await recovery.normalizer.ask(request)
            dispatched = await ended(collector, request.resync_id)
            status, _, err = await run(BY_HAND, TEMPORAL_ADDRESS=recovery.temporal.address)
            assert status == 0, err
            by_hand = await ended(collector, "by-hand/1")
    first = dispatched["StartWorkflow:GapResyncWorkflow"]
    assert dispatched["RunWorkflow:GapResyncWorkflow"].parent == first.id
    for spans in (dispatched, by_hand):
        assert len({span.trace for span in spans.values()}) == 1
        assert {f"RunActivity:{name}" for name in ACTIVITIES} <= set(spans)
        for name, span in spans.items():
            assert span.service == "temporal"
            assert span.parent in {"", *(other.id for other in spans.values())}, name
            assert span.attributes["product"] == PRODUCT, name
        for name in ACTIVITIES[1:]:
            assert spans[f"RunActivity:{name}"].attributes["shard"] == 0
    assert {span.attributes["shard"] for span in dispatched.values()} == {0}
    first = by_hand["RunWorkflow:GapResyncWorkflow"]
    assert first.parent == ""
    assert first.trace == first.attributes["temporalRunID"].replace("-", "")
    assert not [span.name for span in collector.spans if "Query" in span.name]
    logged = map(json.loads, worker.log_file.read_text().splitlines())
    told = [line for line in logged if line["event"] == "resync ended"]
    assert {line["trace_id"] for line in told} == {
        dispatched["RunWorkflow:GapResyncWorkflow"].trace,
        by_hand["RunWorkflow:GapResyncWorkflow"].trace,
    }
    assert {line["product"] for line in told} == {PRODUCT}
    assert all(line["duration_ms"] > 0 for line in told)


@workflow.defn
class CountdownWorkflow:
    """Continues itself as a new run, so many times."""

    @workflow.run
    async def run(self, left: int) -> None:
        """Go on, or end."""
        if left:
            workflow.continue_as_new(left - 1)


@pytest.mark.usefixtures("spans_at_once")
async def test_each_run_of_a_workflow_has_a_trace_of_its_own(tmp_path: Path) -> None:
    """The first goes on with its starter's; a workflow that lives for ever has no endless one."""
    async with collecting() as collector:
        settings = traced_settings(load_settings(), collector.endpoint)
        with traced(settings, "runs"), TemporalServer(tmp_path) as server:
            await port_open(server.port)
            client = await connect_patiently(load_settings(temporal_address=server.address))
            async with Worker(
                client,
                task_queue="countdown",
                workflows=[CountdownWorkflow],
                workflow_runner=UnsandboxedWorkflowRunner(),
            ):
                await client.execute_workflow(
                    CountdownWorkflow.run, 2, id="countdown", task_queue="countdown"
                )
            runs = await told(collector, "RunWorkflow:CountdownWorkflow", 3)
            (start,) = await told(collector, "StartWorkflow:CountdownWorkflow", 1)
    assert [run.parent for run in runs] == [start.id, "", ""]
    assert runs[0].trace == start.trace
    assert len({run.trace for run in runs}) == 3
    for later in runs[1:]:
        assert later.trace == later.attributes["temporalRunID"].replace("-", "")


async def ended(collector: Collector, workflow_id: str) -> dict[str, SpanTold]:
    """Wait for the end of a workflow; return the spans that name it, by their own names."""

    def spans() -> dict[str, SpanTold]:
        return {
            span.name: span
            for span in collector.spans
            if span.attributes.get("temporalWorkflowID") == workflow_id
        }

    await eventually(lambda: "CompleteWorkflow:GapResyncWorkflow" in spans())
    return spans()
