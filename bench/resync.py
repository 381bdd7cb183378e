"""Gap seen to live again, by the real workflow, and a storm of 300 products at once."""

import asyncio
import time
from collections import defaultdict
from contextlib import aclosing
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import uvloop
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from bench.harness import percentile
from client.subscriber import Subscriber
from models.canonical import Status
from models.recovery import ResyncReport
from tests.servers import eventually
from tests.stack import Stack, running

GAPS = 100
REST_MS = 50
PRODUCTS = [f"C{number:02}-USD" for number in range(10)]
STORM = [f"S{number:03}-USD" for number in range(300)]
CHANNELS = ("heartbeat", "matches")


def resync() -> dict[str, float]:
    """Open one gap after the other and time each as a subscriber sees it."""
    return uvloop.run(_one_by_one())


def resync_storm() -> dict[str, float]:
    """Open a gap on 300 products at once and time until the last is closed."""
    return uvloop.run(_storm())


async def _one_by_one() -> dict[str, float]:
    with TemporaryDirectory() as directory:
        options = ("--rate", "2000", "--trade-share", "0.5")
        async with running(Path(directory), PRODUCTS, CHANNELS, options, recovery=True) as stack:
            slow = {"kind": "rest_slow", "delay_ms": REST_MS, "count": 1_000_000}
            await stack.simulator("POST", "/sim/faults", slow)
            seconds, names = await _time_gaps(stack)
            steps = await _steps(stack, names)
    figures = {
        "resync_p50_ms": percentile(seconds, 0.5) * 1000,
        "resync_p99_ms": percentile(seconds, 0.99) * 1000,
    }
    return figures | {f"resync_{step}_p50_ms": median(times) for step, times in steps.items()}


async def _time_gaps(stack: Stack) -> tuple[list[float], list[str]]:
    """Return how long each gap was open for a subscriber, and the gaps' names."""
    seen: dict[str, float] = {}
    seconds: list[float] = []
    subscriber = Subscriber(stack.gateway_url, PRODUCTS, ["trades"])
    async with asyncio.timeout(150), aclosing(aiter(subscriber)) as updates:
        await _drop(stack, PRODUCTS[0])
        async for update in updates:
            if update.op != "status" or not isinstance(update.message, Status):
                continue
            name, now = update.message.resync_id or "", time.perf_counter()
            if update.message.state == "gap":
                seen.setdefault(name, now)
            elif name in seen:
                seconds.append(now - seen[name])
                if len(seconds) == GAPS:
                    break
                await _drop(stack, PRODUCTS[len(seconds) % len(PRODUCTS)])
    assert subscriber.verifier.broken == 0
    assert len(seen) == GAPS
    return seconds, list(seen)


async def _drop(stack: Stack, product: str) -> None:
    fault = {"kind": "drop", "channel": "matches", "product": product, "count": 1}
    await stack.simulator("POST", "/sim/faults", fault)


async def _steps(stack: Stack, names: list[str]) -> dict[str, list[float]]:
    """Return how long each step took, in milliseconds, from the workflows' own reports."""
    client = await Client.connect(
        f"127.0.0.1:{stack.temporal_port}", data_converter=pydantic_data_converter
    )
    steps: dict[str, list[float]] = defaultdict(list)
    for name in names:
        handle = client.get_workflow_handle(name, result_type=ResyncReport)
        report = await handle.result()
        assert report.outcome == "closed", report
        for step in report.steps:
            steps[step.step].append(step.seconds * 1000)
    return steps


async def _storm() -> dict[str, float]:
    with TemporaryDirectory() as directory:
        options = ("--rate", "2000", "--trade-share", "0.5", "--levels", "20")
        async with running(Path(directory), STORM, CHANNELS, options, recovery=True) as stack:
            # Every product loses prints for a while, as over a long reconnect.
            loss = {"kind": "drop", "channel": "matches", "duration_ms": 5000}
            await stack.simulator("POST", "/sim/faults", loss)

            async def closed() -> bool:
                await asyncio.sleep(0.2)
                ledger = await stack.gateway("/v1/resyncs")
                hit = {gap["product"] for gap in ledger}
                return len(hit) == len(STORM) and all(gap["closed_us"] for gap in ledger)

            await eventually(closed, within_s=150)
            ledger = await stack.gateway("/v1/resyncs")
    first = min(gap["opened_us"] for gap in ledger)
    last = max(gap["closed_us"] for gap in ledger)
    return {"resync_storm_300_s": (last - first) / 1e6}
