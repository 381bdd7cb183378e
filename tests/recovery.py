"""Recovery around real servers: Temporal, NATS, the simulated venue, and a plain normalizer.

`FakeNormalizer` follows the contract between recovery and normalizer in a few lines; the real
one is in the end-to-end tests.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
from temporalio.client import Client, WorkflowHandle

from activities.outcome import OutcomeActivities
from cli.stack import temporal_command
from models.canonical import Feed
from models.recovery import ResyncInput, ResyncReport
from models.resync import MANUAL, ResyncRequest, resync_id
from models.settings import Settings, load_settings
from models.subjects import Streams, resync_subject, ticks_subject
from streaming.broker.jetstream import JetStreamLog
from streaming.broker.outbox import POSITION_HEADER
from tests.servers import NatsServer, Process, Server, free_port, port_open
from venues.simulator.config import Limits, SimConfig
from venues.simulator.server import Simulator
from workers.dispatcher import Dispatcher
from workers.temporal import rest_client, resync_worker, venue_worker
from workflows.attributes import KEYS
from workflows.connect import connect_patiently
from workflows.starting import of_request, start_resync

PRODUCT = "BTC-USD"
STREAMS = Streams()


class TemporalServer(Server):
    """Temporal's development server as `ledgerflux up` runs it, without its UI."""

    def __init__(self, data_dir: Path, *, prepared: bool = True) -> None:
        """Prepare; one that is not `prepared` knows none of our search attributes."""
        data_dir.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        command = [*temporal_command(data_dir, self.port), "--headless"]
        if not prepared:
            known = ("--search-attribute", *(f"{key.name}=Keyword" for key in KEYS))
            command = [word for word in command if word not in known]
        super().__init__(command, data_dir / "temporal.log")

    @property
    def address(self) -> str:
        """Address for clients."""
        return f"127.0.0.1:{self.port}"


@dataclass
class FakeNormalizer:
    """Answers markers in MD_TICKS.

    Attributes: markers, those that came, by resync_id; given_up, sentences of recoveries that
    failed. Knows open gaps by what `open_gap` announced. `say_gap`: so many markers are refused
    first. `silent`: none is answered. `forget`: prints that get lost here.
    """

    log: JetStreamLog
    chain: dict[tuple[str, Feed], tuple[int, int]] = field(default_factory=dict)
    gaps: dict[tuple[str, Feed], ResyncRequest] = field(default_factory=dict)
    markers: dict[str, list[Any]] = field(default_factory=dict)
    given_up: dict[str, str] = field(default_factory=dict)
    say_gap: int = 0
    silent: bool = False
    unanswered: dict[str, tuple[str, dict[str, Any], int]] = field(default_factory=dict)
    forget: frozenset[int] = frozenset()

    async def run(self) -> None:
        """Serve for ever."""
        reading = self.log.read(STREAMS.raw, "market.raw.0.coinbase.*")
        async with aclosing(reading) as messages:
            async for message in messages:
                product = message.subject.rpartition(".")[2]
                for line in message.payload.split(b"\n"):
                    told = json.loads(line)
                    if "marker" in told and told["marker"]["given_up"] is not None:
                        name = told["marker"]["resync_id"]
                        self.given_up[name] = told["marker"]["given_up"]
                    elif "marker" in told and self.silent:
                        self.unanswered[told["marker"]["resync_id"]] = (
                            product,
                            told["marker"],
                            message.seq,
                        )
                    elif "marker" in told:
                        await self._marker(product, told["marker"], message.seq)

    async def answer_again(self, name: str) -> None:
        """Answer a marker that was met with silence."""
        if name in self.unanswered:
            await self._marker(*self.unanswered.pop(name))

    async def prints(self, product: str, ids: Sequence[int], position: int = 0) -> None:
        """Write prints into the canonical log."""
        await self._say(product, [self._print(product, number) for number in ids], position)

    async def open_gap(
        self, product: str, feed: Feed, reason: Any, after: int, before: int | None
    ) -> ResyncRequest:
        """Announce a gap, and ask for its recovery."""
        now = time.time_ns() // 1000
        name = resync_id("coinbase", product, feed, after, before)
        request = ResyncRequest("coinbase", product, feed, name, reason, after, before, now)
        self.gaps[product, feed] = request
        await self._say(product, [self._status(request, "gap")], 0)
        return request

    async def ask(self, request: ResyncRequest) -> None:
        """Put a request onto MD_RESYNC, as the normalizer does."""
        await self.log.publish(
            resync_subject(request.venue, request.product), msgspec.json.encode(request)
        )

    async def _marker(self, product: str, marker: dict[str, Any], position: int) -> None:
        name, feed = marker["resync_id"], marker["feed"]
        self.markers.setdefault(name, []).append(marker["body"])
        if not marker["last"]:
            return
        gap = self.gaps.get((product, feed))
        mine = gap is not None and gap.resync_id == name
        if mine and gap is not None and self.say_gap > 0:
            self.say_gap -= 1
            await self._say(product, [self._status(gap, "gap")], position)
            return
        lines: list[dict[str, Any]] = []
        if feed == "trades":
            newest = self.chain.get((product, feed), (0, 0))[1]
            ids = {t["trade_id"] for body in self.markers[name] for t in body}
            if mine:
                lines += [
                    self._print(product, number)
                    for number in sorted(ids)
                    if number > newest and number not in self.forget
                ]
        elif mine or "/manual-" in name:
            lines.append(self._snapshot(product, feed, name))
        if mine and gap is not None:
            lines.append(self._status(gap, "live"))
            del self.gaps[product, feed]
        else:
            request = ResyncRequest("coinbase", product, feed, name, "manual", 0, None, 0)
            lines.append({**self._status(request, "live"), "gap": None})
        await self._say(product, lines, position)

    def _print(self, product: str, number: int) -> dict[str, Any]:
        seq = self.chain.get((product, "trades"), (0, 0))[0]
        self.chain[product, "trades"] = (seq + 10, number)
        trade = {"px": 1, "qty": 1, "side": "buy", "id": number}
        return {
            **_head("tick", product, "trades"),
            "seq": seq + 10,
            "prev_seq": seq,
            "ts_event": 1,
            "ts_ingest": 1,
            "fields": {"last_trade": trade},
        }

    def _snapshot(self, product: str, feed: Feed, name: str) -> dict[str, Any]:
        seq = self.chain.get((product, feed), (0, 0))[0] + 10
        self.chain[product, feed] = (seq, 0)
        return {
            **_head("snapshot", product, feed),
            "seq": seq,
            "ts_snapshot": 1,
            "reason": "resync",
            "resync_id": name,
            "state": {},
        }

    def _status(self, request: ResyncRequest, state: str) -> dict[str, Any]:
        return {
            **_head("status", request.product, request.feed),
            "state": state,
            "since": request.since,
            "gap": {"after": request.after, "before": request.before},
            "resync_id": request.resync_id,
        }

    async def _say(self, product: str, lines: Sequence[dict[str, Any]], position: int) -> None:
        await self.log.publish(
            ticks_subject(0, "coinbase", product),
            "\n".join(json.dumps(line, separators=(",", ":")) for line in lines).encode(),
            headers={POSITION_HEADER: str(position)},
        )


def _head(kind: str, product: str, feed: Feed) -> dict[str, Any]:
    return {"v": 1, "type": kind, "venue": "coinbase", "product": product, "feed": feed}


@dataclass
class Bench:
    """Everything a recovery test needs. Attributes: product, the one of this test."""

    settings: Settings
    nats: NatsServer
    temporal: TemporalServer
    sim: Simulator
    log: JetStreamLog
    client: Client
    normalizer: FakeNormalizer
    outcome: OutcomeActivities
    product: str = PRODUCT

    def fresh(self, product: str) -> "Bench":
        """Return this bench for another test: a product of its own, and nothing wrong."""
        self.sim.venue.clear()
        self.normalizer.say_gap, self.normalizer.silent = 0, False
        return replace(self, product=product)

    def by_hand(self, feed: Feed) -> ResyncInput:
        """Return what a person orders."""
        now_us = time.time_ns() // 1000
        name = f"resync/coinbase/{self.product}/{feed}{MANUAL}{now_us}"
        return ResyncInput(venue="coinbase", product=self.product, feed=feed, resync_id=name)

    def newest_trade(self, product: str | None = None) -> int:
        """Return the id of the venue's newest print."""
        product = product or self.product
        return self.sim.venue.exchange.listed[product].last_trade_id

    async def lose_prints(self, count: int, product: str | None = None) -> ResyncRequest:
        """Announce that the newest prints, but one, were lost."""
        product = product or self.product
        newest = self.newest_trade(product)
        after = newest - count - 1
        await self.normalizer.prints(product, [after - 1, after])
        return await self.normalizer.open_gap(product, "trades", "trade_id", after, newest)

    async def start(
        self, request: ResyncRequest | ResyncInput, **more: Any
    ) -> WorkflowHandle[Any, ResyncReport]:
        """Start a workflow, past the dispatcher."""
        gap = request if isinstance(request, ResyncInput) else of_request(request)
        return await start_resync(self.client, gap.model_copy(update=more))

    async def run(self, request: ResyncRequest | ResyncInput, **more: Any) -> ResyncReport:
        """Run a workflow to its end."""
        return await (await self.start(request, **more)).result()


class WorkerProcess(Process):
    """The worker as a process of its own, which a test can kill."""

    def __init__(self, root: Path, settings: Settings) -> None:
        self.metrics_port = free_port()
        env = {
            "NATS_URLS": ",".join(settings.nats_urls),
            "TEMPORAL_ADDRESS": settings.temporal_address,
            "COINBASE_REST_URL": settings.coinbase_rest_url,
            "COINBASE_REST_PER_S": str(settings.coinbase_rest_per_s),
            "COINBASE_REST_TIMEOUT_S": str(settings.coinbase_rest_timeout_s),
            "METRICS_PORT": str(self.metrics_port),
        }
        super().__init__([sys.executable, "-m", "workers.temporal"], root / "worker.log", env)


@asynccontextmanager
async def bench(
    root: Path,
    *,
    products: Sequence[str] = (PRODUCT,),
    limits: Limits | None = None,
    workers: bool = True,
    market: Mapping[str, Any] | None = None,
    cached: int = 0,
    **overrides: Any,
) -> AsyncIterator[Bench]:
    """Run NATS, Temporal, the simulator, the workers in this process and a plain normalizer.

    `cached`: workflows that the worker keeps; none, so that each step is replayed, unless many run
    at once (their local activities would begin anew). `market`: of the simulator; `overrides` are
    settings; without `workers` the test runs its own.
    """
    sim_config = SimConfig(
        port=0,
        products=tuple(products),
        limits=limits or Limits.none(),
        paused=True,
        **(market or {}),
    )
    async with AsyncExitStack() as stack:
        nats = stack.enter_context(NatsServer(root / "nats"))
        temporal = stack.enter_context(TemporalServer(root / "temporal"))
        sim = await stack.enter_async_context(Simulator(sim_config))
        await port_open(nats.port)
        settings = load_settings(
            nats_urls=(nats.url,),
            js_max_bytes=1024**3,
            temporal_address=temporal.address,
            coinbase_rest_url=sim.rest_url,
            **{"coinbase_rest_per_s": 1000.0, **overrides},
        )
        log = await stack.enter_async_context(await JetStreamLog.connect([nats.url], name="test"))
        await log.ensure_streams(settings)
        client = await connect_patiently(settings)
        outcome = OutcomeActivities()
        if workers:
            rest = await stack.enter_async_context(rest_client(settings))
            for worker in (
                resync_worker(client, log, settings, outcome, cached=cached),
                venue_worker(client, log, settings, rest),
            ):
                await stack.enter_async_context(worker)
        normalizer = FakeNormalizer(log)
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(normalizer.run())]
            if workers:
                dispatcher = Dispatcher(log, STREAMS, client)
                running.append(tasks.create_task(dispatcher.run()))
            try:
                yield Bench(settings, nats, temporal, sim, log, client, normalizer, outcome)
            finally:
                for task in running:
                    task.cancel()
