"""The embedded stack as `ledgerflux up` runs it, with wires between its parts and eyes on them.

Every part is a process, kept alive by the stack's own supervisor. `Site` knows how to find one and
what a part that works looks like from outside; what is done to them is in `faults`.
"""

import asyncio
import itertools
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import psutil
from temporalio.client import Client

from activities.archive import stream_name
from cli.stack import (
    BUCKET,
    Ports,
    StackOptions,
    gateway,
    ingestors,
    normalizers,
    servers,
    workers,
)
from cli.supervisor import Child, Service, Supervisor
from models.archiving import LaneName
from models.replaying import (
    REPLAY,
    REPLAY_QUEUE,
    ReplayInput,
    ReplayReport,
    namespace_of,
    replay_id,
)
from models.settings import Settings, load_settings
from models.subjects import raw_subject
from storage.errors import UnavailableError
from storage.lake import Lake
from storage.latest_nats import NatsLatestStore
from storage.layout import Lane
from storage.manifest import Manifest
from storage.objects import ObjectStore
from streaming.broker.jetstream import JetStreamLog
from tests.chaos.crowd import Crowd
from tests.chaos.wire import Wire, wired
from tests.servers import eventually, free_port, free_ports
from venues.simulator.config import Keys
from workflows import attributes
from workflows.connect import connect_patiently
from workflows.schedules import STREAMS

VENUE = "coinbase"
CHANNELS = ("ticker", "heartbeat", "level2", "matches")
LANES = tuple(LaneName(stream, VENUE, 0) for stream in STREAMS)
LINES = ("ingestor-a", "ingestor-b")

WITHIN_S = 90.0
"""What has not recovered within this time has not recovered."""

_CAUGHT_UP_WITHIN_S = 300.0
_HTTP_S = 30.0
"""The exchange may be paused when it is asked for something."""

_GATEWAYS = 2
_METRICS_PORTS = 16
_TRADE_SHARE = "0.3"
_REPLACED = "all gateway processes are new"
_REPLAYED_US = 3_000_000
"""How much of the lake a replay takes that shows that replays work."""


@dataclass(frozen=True)
class Size:
    """How large a site is: messages of the exchange in a second, products, subscribers.

    `flush_s`: age at which the archive stores what it has.
    """

    rate: float
    products: int
    subscribers: int
    flush_s: float


class Site:
    """A running stack.

    Attributes: wires by name; settings, for clients that stand outside, and the clients: log, lake,
    client (of Temporal), rows, crowd; states, of feeds by product and feed as the canonical log
    tells them; opened, how many gaps it has told; ends, of each lane when all was quiet;
    began_us, when all feeds were live for the first time.
    """

    def __init__(self, root: Path, size: Size, seed: int) -> None:
        self.root, self.size = root, size
        self.products = tuple(f"C{number:02}-USD" for number in range(size.products))
        gateway_, ui, temporal, nats, s3, sim = (free_port() for _ in range(6))
        self.ports = Ports(gateway_, ui, temporal, nats, s3, sim, free_ports(_METRICS_PORTS))
        self.truth_file = root / "truth.ndjson"
        self.options = StackOptions(
            "sim",
            self.products,
            CHANNELS,
            root,
            self.ports,
            sim_rate=size.rate,
            sim_seed=seed,
            ground_truth=self.truth_file,
            lines=len(LINES),
            gateway_processes=_GATEWAYS,
        )
        self.settings: Settings = load_settings(
            nats_urls=(f"nats://127.0.0.1:{self.ports.nats}",),
            temporal_address=f"127.0.0.1:{self.ports.temporal}",
            s3_endpoint=f"http://127.0.0.1:{self.ports.s3}",
            s3_bucket=BUCKET,
            s3_access_key="ledgerflux",
            s3_secret_key="ledgerflux",  # noqa: S106  # the embedded store checks none
            coinbase_products=self.products,
        )
        self.wires: dict[str, Wire] = {}
        self.supervisor = Supervisor(root / "logs")
        self.http = httpx.AsyncClient(
            timeout=_HTTP_S, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0)
        )
        self.log: JetStreamLog
        self.lake: Lake
        self.client: Client
        self.rows: NatsLatestStore
        self.crowd: Crowd
        self.states: dict[tuple[str, str], str] = {}
        self.opened = 0
        self.ends: dict[LaneName, int] = {}
        self.began_us = 0
        self._replays = itertools.count(1)

    def child(self, name: str) -> Child:
        """Return a part by its name."""
        return next(one for one in self.supervisor.children if one.service.name == name)

    def pid(self, name: str) -> int:
        """Return the process of a part; of `gateway-<n>` that of the parent's n-th child."""
        if name.startswith("gateway-"):
            family = psutil.Process(self.pid("gateway")).children()
            return sorted(one.pid for one in family)[int(name[-1])]
        pid = self.child(name).pid
        assert pid is not None
        return pid

    async def kill(self, name: str) -> None:
        """Kill a part, and wait until it is gone."""
        await self.end(name, signal.SIGKILL)

    async def end(self, name: str, order: signal.Signals) -> None:
        """Send a part a signal that ends it, and wait until it has; its supervisor sees to it."""
        process = psutil.Process(self.pid(name))
        process.send_signal(order)
        await eventually(lambda: not process.is_running(), within_s=WITHIN_S)

    async def replace_gateways(self) -> None:
        """Have the gateway's processes replaced one after the other, and wait until all are new."""
        child = self.child("gateway")
        before = child.log_file.read_text().count(_REPLACED)
        os.kill(self.pid("gateway"), signal.SIGHUP)
        await eventually(
            lambda: child.log_file.read_text().count(_REPLACED) > before, within_s=WITHIN_S
        )

    async def ready(self, name: str) -> None:
        """Wait until a part is ready, as `ledgerflux up` waits for it."""

        async def check() -> bool:
            if not psutil.pid_exists(self.pid(name)):
                return False  # it has not been started again
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self.child(name).service.ready()
                    return True
            return False

        await eventually(check, within_s=WITHIN_S)

    async def simulator(self, method: str, path: str, body: Any = None) -> Any:
        """Call the exchange's control or REST."""
        url = f"http://127.0.0.1:{self.ports.sim}{path}"
        answer = await self.http.request(method, url, json=body)
        answer.raise_for_status()
        return answer.json()

    async def fresh(self, since_us: int) -> None:
        """Wait until every subscriber has a tick that came from the venue after a time."""

        async def check() -> bool:
            await asyncio.sleep(0.03)
            return await self.crowd.waiting(since_us) == 0

        await eventually(check, within_s=WITHIN_S)

    async def brings(self, line: str, since_us: int) -> None:
        """Wait until an ingestor has stored something of every product anew."""
        name = f'"conn":"{line[-1]}-'.encode()
        ends = [await self.log.end(self.settings.streams.raw)] * len(self.products)
        for product, after in zip(self.products, ends, strict=True):
            await self._stored(product, after, name, since_us)

    async def _stored(self, product: str, after: int, name: bytes, since_us: int) -> None:
        cursor = after
        streams, subject = self.settings.streams, raw_subject(0, VENUE, product)

        async def check() -> bool:
            nonlocal cursor
            found = await self.log.fetch(
                streams.raw, subject, after=cursor, limit=500, max_bytes=2**20
            )
            cursor = found[-1].seq if found else cursor
            return any(name in one.payload and one.time_us > since_us for one in found)

        await eventually(check, within_s=WITHIN_S)

    async def live(self) -> None:
        """Wait until every gap is closed."""
        await eventually(lambda: self.not_live() == [], within_s=WITHIN_S)

    def not_live(self) -> list[str]:
        """Return the feeds that are not live, by the canonical log."""
        return [
            f"{' '.join(key)} is {state}" for key, state in self.states.items() if state != "live"
        ]

    async def broken(self, opened: int) -> None:
        """Wait until there was a gap more than so many."""
        await eventually(lambda: self.opened > opened, within_s=WITHIN_S)

    async def mended(self, opened: int) -> None:
        """Wait until there was a gap more than so many, and all are closed."""
        await self.broken(opened)
        await self.live()

    async def archives(self) -> None:
        """Wait until each lane of the lake has come further, however far it is behind."""
        await self.ready("s3")
        for lane, last in [(lane, await self._last(lane)) for lane in LANES]:
            await self._archived(lane, last + 1)

    async def _archived(self, lane: LaneName, end: int, within_s: float = WITHIN_S) -> None:
        async def check() -> bool:
            await asyncio.sleep(0.1)
            with suppress(UnavailableError):
                return await self._last(lane) >= end
            return False

        await eventually(check, within_s=within_s)

    async def _last(self, lane: LaneName) -> int:
        """Return the position that a lane has come to; 0 if it has not begun."""
        place = await self.lane(lane)
        hour = await self.lake.newest_hour(place)
        manifest = Manifest() if hour is None else await self.lake.manifest(place, hour)
        return max((last for _, last in manifest.ranges()), default=0)

    async def lane(self, lane: LaneName) -> Lane:
        """Return a lane of the log as it is."""
        extent = await self.log.extent(self.stream(lane))
        return Lane(lane.stream, lane.venue, lane.shard, extent.created_us)

    def stream(self, lane: LaneName) -> str:
        """Return the name of a lane's stream."""
        return stream_name(self.settings.streams, lane)

    async def written(self) -> None:
        """Wait until the latest state of each product is newer than the log is now."""
        end = await self.log.end(self.settings.streams.ticks)

        async def check() -> bool:
            rows = [await self.rows.get(VENUE, product) for product in self.products]
            return all(row is not None and row.position > end for row in rows)

        await eventually(check, within_s=WITHIN_S)

    async def replays(self) -> None:
        """Have the first seconds of the lake replayed, and wait until that is complete."""
        await self.archives()
        wanted = ReplayInput(
            name=f"chaos-{next(self._replays)}",
            products=[self.products[0]],
            until=str(self.began_us + _REPLAYED_US),
            speed=0,
            keep_minutes=0,
        )
        try:
            async with asyncio.timeout(WITHIN_S):
                report = await self.client.execute_workflow(
                    REPLAY,
                    wanted,
                    id=replay_id(namespace_of(wanted.name)),
                    task_queue=REPLAY_QUEUE,
                    result_type=ReplayReport,
                    search_attributes=attributes.of_archive("raw", VENUE),
                )
        except TimeoutError as error:
            raise AssertionError("the replay is not complete") from error
        assert report.outcome == "complete", report.sentence

    async def settled(self) -> None:
        """Stop the market and wait until everything is normalized, delivered and archived."""
        await self.live()
        await self.simulator("POST", "/sim/pause")
        ends: list[int] = []

        async def quiet() -> bool:
            ends.append(await self.log.end(self.settings.streams.ticks))
            await asyncio.sleep(0.5)
            return len(ends) > 3 and len(set(ends[-4:])) == 1

        await eventually(quiet, within_s=WITHIN_S)
        await self.live()
        # Heartbeats go on, so there is always something that is not archived yet.
        self.ends = {lane: await self.log.end(self.stream(lane)) for lane in LANES}
        for lane, end in self.ends.items():
            await self._archived(lane, end, _CAUGHT_UP_WITHIN_S)

    async def watch(self) -> None:
        """Follow the canonical log's statuses, for ever."""
        reading = self.log.read(self.settings.streams.ticks, self.settings.streams.every("ticks"))
        async with aclosing(reading) as messages:
            async for message in messages:
                if b'"type":"status"' not in message.payload:
                    continue
                for line in message.payload.split(b"\n"):
                    told = json.loads(line)
                    if told["type"] == "status":
                        self.states[told["product"], told["feed"]] = told["state"]
                        self.opened += told["state"] == "gap"


@asynccontextmanager
async def site(root: Path, size: Size, seed: int) -> AsyncIterator[Site]:
    """Run a site whose market trades and whose subscribers have all got something."""
    running = Site(root, size, seed)
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        await stack.enter_async_context(running.http)
        targets = {
            "exchange to ingestor-a": running.ports.sim,
            "exchange to ingestor-b": running.ports.sim,
            "ingestor-a to log": running.ports.nats,
            "log to normalizer": running.ports.nats,
            "log to gateway": running.ports.nats,
            "gateway to subscribers": running.ports.gateway,
            "workers to Temporal": running.ports.temporal,
            "archive to store": running.ports.s3,
        }
        for name, target in targets.items():
            running.wires[name] = await stack.enter_async_context(wired(target))
        stack.push_async_callback(running.supervisor.stop)
        await _start(running)
        running.log = await stack.enter_async_context(
            await JetStreamLog.of(running.settings, name="chaos")
        )
        store = await stack.enter_async_context(ObjectStore.connect(running.settings))
        running.lake = Lake(store)
        running.rows = await stack.enter_async_context(NatsLatestStore.connect(running.settings))
        running.client = await connect_patiently(running.settings)
        urls = [
            f"ws://127.0.0.1:{port}/ws"
            for port in (running.ports.gateway, running.wires["gateway to subscribers"].port)
        ]
        running.crowd = Crowd(root, urls, running.products, size.subscribers)
        stack.push_async_callback(running.crowd.stop)
        await running.crowd.start()
        watching = tasks.create_task(running.watch())
        await running.fresh(time.time_ns() // 1000)
        await running.live()
        running.began_us = time.time_ns() // 1000
        yield running
        watching.cancel()


async def _start(running: Site) -> None:
    """Start all parts as `ledgerflux up` does."""
    options = running.options
    stages: Sequence[Sequence[Service]] = (
        servers(options),
        normalizers(options),
        workers(options),
        [gateway(options)],
        ingestors(options),
    )
    for stage in stages:
        await running.supervisor.start([_wired(running, service) for service in stage])


def _wired(running: Site, service: Service) -> Service:
    """Return a service whose connections go over the wires."""
    keys = Keys()
    env = {
        # The children are not measured: counting their coverage would slow them.
        "COVERAGE_PROCESS_START": "",
        "COVERAGE_PROCESS_CONFIG": "",
        "COINBASE_API_KEY": keys.key,
        "COINBASE_API_SECRET": keys.secret,
        "COINBASE_API_PASSPHRASE": keys.passphrase,
        "COINBASE_REST_PER_S": "1000",
        "ARCHIVE_FLUSH_S": str(running.size.flush_s),
        "ARCHIVE_EVERY_S": "1",
        "TEMPORAL_ADDRESS": f"127.0.0.1:{running.wires['workers to Temporal'].port}",
        "S3_ENDPOINT": f"http://127.0.0.1:{running.wires['archive to store'].port}",
    }
    over = {
        "ingestor-a": "ingestor-a to log",
        "normalizer-0": "log to normalizer",
        "gateway": "log to gateway",
    }
    if service.name in over:
        env["NATS_URLS"] = f"nats://127.0.0.1:{running.wires[over[service.name]].port}"
    if service.name in LINES:
        port = running.wires[f"exchange to {service.name}"].port
        env["COINBASE_WS_PRIMARY"] = f"ws://127.0.0.1:{port}"
    command = list(service.command)
    if service.name == "simulator":
        command += ["--no-limits", "--trade-share", _TRADE_SHARE]
        command += ["--truth-channels", "ticker,level2,matches"]
    return replace(service, command=command, env={**service.env, **env})
