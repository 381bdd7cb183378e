"""The gateway's parts put together: socket, uvicorn, the log and its reader.

Shutdown: stop accepting, close every client with 1012 (come again), leave the log.
"""

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import structlog
import uvicorn

from gateway.app import create_app
from gateway.fanout import fanout_protocol
from gateway.hub import Hub
from gateway.protocol import HARD_MAX_MESSAGE_BYTES
from gateway.reader import follow
from gateway.readiness import Readiness
from models.settings import Settings
from streaming.broker.jetstream import JetStreamLog

SHUTDOWN_S = 5.0
"""Clients get so long to take their close; then they are cut off."""

PING_INTERVAL_S = 20.0
PING_TIMEOUT_S = 60.0
"""Generous, since a ping waits behind all that a slow client has still to read."""

_BACKLOG = 2048
_UVICORN_LEVEL = {"DEBUG": "info", "INFO": "warning", "WARNING": "warning", "ERROR": "error"}
"""uvicorn's `info` is a line per connection."""

_log = structlog.get_logger(__name__)


class AddressInUseError(Exception):
    """The gateway cannot listen where it should. The text says why and what to do."""


class _Server(uvicorn.Server):
    """uvicorn without its signal handling, which would end the process with the signal."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(settings: Settings) -> socket.socket:
    """Take the gateway's address; port 0 takes any that is free.

    Raises:
        AddressInUseError: it is taken, or not an address of this machine.
    """
    host, port = settings.gateway_host, settings.gateway_port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Without the protocol asyncio would leave TCP_NODELAY off, and small frames would wait.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise AddressInUseError(
            f"the gateway cannot listen on {host} port {port} ({error.strerror}): stop what "
            "listens there, or set GATEWAY_PORT"
        ) from error
    listener.setblocking(False)
    return listener


async def serve(settings: Settings, listener: socket.socket, stop: asyncio.Event) -> None:
    """Serve on the socket until `stop` is set.

    Raises:
        LogUnavailableError: no NATS server answered for half a minute.
    """
    hub = Hub(settings.coinbase_products, asyncio.get_running_loop().call_soon)
    readiness = Readiness()
    server = _Server(_config(settings, hub, readiness))
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(server.serve([listener]), name="uvicorn")
        readiness.reading = tasks.create_task(_follow(settings, hub, readiness), name="reader")
        stopping = tasks.create_task(stop.wait(), name="stop")
        await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        await serving
        readiness.reading.cancel()
        stopping.cancel()


async def _follow(settings: Settings, hub: Hub, readiness: Readiness) -> None:
    """Connect to the log and follow it."""
    async with await JetStreamLog.connect(settings.nats_urls, name="gateway") as log:
        readiness.connected = lambda: log.connected
        await log.ensure_streams(settings)
        await follow(log, hub, settings.streams, readiness)


def _config(settings: Settings, hub: Hub, readiness: Readiness) -> uvicorn.Config:
    return uvicorn.Config(
        create_app(hub, readiness),
        ws=fanout_protocol(settings.ws_max_client_bytes),
        ws_max_size=HARD_MAX_MESSAGE_BYTES,
        ws_ping_interval=PING_INTERVAL_S,
        ws_ping_timeout=PING_TIMEOUT_S,
        # Frames are built once for all clients, so none is compressed.
        ws_per_message_deflate=False,
        http="httptools",
        lifespan="off",
        log_level=_UVICORN_LEVEL[settings.log_level],
        access_log=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=int(SHUTDOWN_S),
    )


async def gateway(settings: Settings, stop: asyncio.Event) -> None:
    """Serve on GATEWAY_HOST and GATEWAY_PORT until `stop` is set.

    Raises:
        AddressInUseError: the port is taken.
        LogUnavailableError: no NATS server answered for half a minute.
    """
    with listen(settings) as listener:
        host, port = listener.getsockname()[:2]
        _log.info("gateway listens", url=f"ws://{host}:{port}/ws")
        await serve(settings, listener, stop)
