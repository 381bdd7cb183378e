"""The gateway's parts put together: socket, uvicorn, the log and its reader.

Shutdown: let nobody new in, drain (`drain`), close whoever is left with 1012, leave the log.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from functools import partial

import structlog
import uvicorn
from fastapi import FastAPI

from gateway.access import Access
from gateway.app import create_app
from gateway.drain import SHUTDOWN_S, drain
from gateway.fanout import fanout_protocol
from gateway.http import PatientProtocol
from gateway.hub import Hub, Limits
from gateway.ladder import Rung
from gateway.listening import Place, places
from gateway.protocol import HARD_MAX_MESSAGE_BYTES
from gateway.reader import follow
from gateway.readiness import Readiness
from gateway.replays import Replays
from models.settings import Settings
from storage.latest_store import latest_store
from streaming.broker.jetstream import JetStreamLog
from streaming.broker.log import Log

PING_INTERVAL_S = 20.0
PING_TIMEOUT_S = 60.0
"""Generous, since a ping waits behind all that a slow client has still to read."""

_BACKLOG = 2048
_UVICORN_LEVEL = {"DEBUG": "info", "INFO": "warning", "WARNING": "warning", "ERROR": "error"}
"""uvicorn's `info` is a line per connection."""

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Handover:
    """How a gateway process takes its place over from another, and leaves it to the next.

    `ready`: called once subscribers can be served; `waits`: until then the sockets are left to
    its predecessor; `replaced`: a successor accepts whoever comes, so stop accepting.
    """

    ready: Callable[[], None]
    waits: bool = False
    replaced: bool = False


class _Server(uvicorn.Server):
    """uvicorn without its signal handling, which would end the process with the signal."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def stop_accepting(self) -> None:
        """Close the listeners, and serve those who have come."""
        if self.started:
            for server in self.servers:
                server.close()


async def serve(
    settings: Settings, place: Place, stop: asyncio.Event, handover: Handover | None = None
) -> None:
    """Serve at a place until `stop` is set, then drain; `drain_bound_s` bounds that.

    With a `handover` this is one of several processes, and labels its metrics so.

    Raises:
        LogUnavailableError: no NATS server answered for half a minute.
    """
    access = Access(settings)
    hub = Hub(
        settings.coinbase_products,
        asyncio.get_running_loop(),
        Limits.of(settings),
        venue=settings.ingest_venue,
    )
    readiness = Readiness()
    replays = Replays(settings, hub.metrics)
    server = _Server(_config(settings, create_app(hub, replays, readiness, access)))
    if handover is not None:
        hub.metrics.process = str(place.index)
    try:
        async with replays, asyncio.TaskGroup() as tasks:
            readiness.reading = tasks.create_task(_follow(settings, hub, readiness), name="reader")
            stopping = tasks.create_task(stop.wait(), name="stop")
            taking = tasks.create_task(_take_over(readiness, handover), name="hand-over")
            if handover is not None and handover.waits:
                await asyncio.wait([taking, stopping], return_when=asyncio.FIRST_COMPLETED)
            serving = tasks.create_task(server.serve(place.sockets), name="uvicorn")
            await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
            readiness.draining = True
            if handover is not None and handover.replaced:
                server.stop_accepting()
            await drain(access, settings.gateway_drain_s)
            server.should_exit = True
            await serving
            for task in (readiness.reading, stopping, taking):
                task.cancel()
    except asyncio.CancelledError:
        await drain(access, 0)  # the close at least
        raise


async def _take_over(readiness: Readiness, handover: Handover | None) -> None:
    """Tell that this process can take its place, once it can."""
    await readiness.warm.wait()
    if handover is not None:
        handover.ready()


async def _follow(settings: Settings, hub: Hub, readiness: Readiness) -> None:
    """Connect to the log and follow it."""
    async with (
        await JetStreamLog.of(settings, name="gateway") as log,
        _lake_rungs(settings, log) as rungs,
    ):
        readiness.connected = lambda: log.connected
        await log.ensure_streams(settings)
        rows = partial(latest_store, settings)
        await follow(log, hub, settings.streams, readiness, rows=rows, farther=rungs)


@contextlib.asynccontextmanager
async def _lake_rungs(settings: Settings, log: Log) -> AsyncIterator[list[Rung]]:
    """Give the rung of the lake, where there is one."""
    if not settings.has_lake:
        yield []
        return
    # Parquet takes 60 MB, which gateways without a lake need not spend.
    from gateway.lake import LakeRung, lake_of  # noqa: PLC0415

    async with lake_of(settings) as lake:
        minutes = settings.backfill_max_minutes
        yield [LakeRung(lake, log, settings.streams.ticks, max_minutes=minutes)]


def _config(settings: Settings, app: FastAPI) -> uvicorn.Config:
    proxies = list(settings.gateway_trusted_proxies)
    return uvicorn.Config(
        app,
        ws=fanout_protocol(settings.ws_max_client_bytes),
        ws_max_size=HARD_MAX_MESSAGE_BYTES,
        ws_ping_interval=PING_INTERVAL_S,
        ws_ping_timeout=PING_TIMEOUT_S,
        # `fanout` compresses, once for all clients.
        ws_per_message_deflate=False,
        http=PatientProtocol,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=proxies,
        lifespan="off",
        log_config=None,
        log_level=_UVICORN_LEVEL[settings.log_level],
        access_log=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=int(SHUTDOWN_S),
    )


async def gateway(settings: Settings, stop: asyncio.Event) -> None:
    """Serve on GATEWAY_HOST and GATEWAY_PORT until `stop` is set, then drain.

    Raises:
        AddressInUseError: the port is taken.
        LogUnavailableError: no NATS server answered for half a minute.
    """
    (place,) = places(settings.model_copy(update={"gateway_processes": 1}))
    with contextlib.closing(place):
        _log.info("gateway listens", url=place.url)
        await serve(settings, place, stop)
