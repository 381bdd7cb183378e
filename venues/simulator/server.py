"""Runs a simulated exchange on one port: WebSocket at `/`, REST, and `/sim/…` to steer it.

Advanced Trade's WebSocket is at `/advanced`, on the same markets.

`Simulator` is for other programs and tests, `serve` for a process of its own.
"""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Self

import uvicorn
from fastapi import FastAPI, Response, WebSocket
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from venues.simulator import control, pulse, rest
from venues.simulator.advanced_session import AdvancedSession
from venues.simulator.config import SimConfig
from venues.simulator.session import Session
from venues.simulator.truth import Truth
from venues.simulator.venue import Venue

_ABORT = "sim.abort"
_GRACE_S = 2
_MAX_CLIENT_BYTES = 1024 * 1024


class PortTakenError(OSError):
    """The address cannot be listened on.

    Attributes: host, port.
    """

    def __init__(self, host: str, port: int, why: str) -> None:
        super().__init__(f"cannot listen on {host}:{port}: {why}; choose another port")
        self.host = host
        self.port = port


class _Protocol(WebSocketsSansIOProtocol):
    """Lets the endpoint break a connection without a closing handshake."""

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:  # noqa: PLR2004 - Switching Protocols
            self.scope["extensions"][_ABORT] = {"call": self.transport.abort}


class _Server(uvicorn.Server):
    """Leaves signals to the process, and says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()
        self._leaving = asyncio.Event()

    def leave(self) -> None:
        """Begin to stop, at once."""
        self.should_exit = True
        self._leaving.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    async def main_loop(self) -> None:
        while not await self.on_tick(0):  # renews the Date header
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._leaving.wait()


class Simulator:
    """A simulated exchange in this process: `async with Simulator(config) as simulator`.

    Stops within about two seconds, whatever its clients do.
    """

    def __init__(self, config: SimConfig) -> None:
        """Set up the markets.

        Raises:
            ProductError, CassetteError: the configuration cannot be used.
        """
        self.venue = Venue(config)
        self.port = config.port
        self._numbers = 0
        self._task: asyncio.Task[None] | None = None
        self._server: _Server | None = None

    @property
    def ws_url(self) -> str:
        """Address of the feed."""
        return f"ws://{self.venue.config.host}:{self.port}"

    @property
    def advanced_ws_url(self) -> str:
        """Address of Advanced Trade's feed."""
        return f"{self.ws_url}/advanced"

    @property
    def rest_url(self) -> str:
        """Base address of REST, and of `/sim`."""
        return f"http://{self.venue.config.host}:{self.port}"

    async def start(self) -> None:
        """Listen, and let the market begin.

        Raises:
            PortTakenError: the address is in use or not ours.
            OSError: the ground truth cannot be written.
        """
        listener = _listen(self.venue.config.host, self.port)
        if self.venue.truth is not None:
            self._open(self.venue.truth, listener)
        self.port = listener.getsockname()[1]
        self._server = _Server(_uvicorn_config(self._app(), self.venue.config))
        self._task = asyncio.create_task(self._run(self._server, listener), name="simulator")
        listening = asyncio.create_task(self._server.listening.wait())
        await asyncio.wait({self._task, listening}, return_when=asyncio.FIRST_COMPLETED)
        if self._task.done():
            listening.cancel()
            await self._task

    async def stop(self) -> None:
        """Close all connections, stop the market, write the ground truth to its end."""
        if self._server is not None and self._task is not None:
            self.venue.stopping.set()
            self._server.leave()
            await self._task

    async def wait(self) -> None:
        """Wait until it has stopped.

        Raises:
            Exception: what made it stop.
        """
        if self._task is not None:
            await asyncio.shield(self._task)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _run(self, server: _Server, listener: socket.socket) -> None:
        venue = self.venue
        try:
            async with asyncio.TaskGroup() as group:
                timers = [group.create_task(timer) for timer in _timers(venue)]
                await server.serve(sockets=[listener])
                for timer in timers:
                    timer.cancel()
        finally:
            venue.stopping.set()
            listener.close()
            # Whoever has not taken the closing handshake by now does not read at all.
            for connection in list(server.server_state.connections):
                connection.transport.abort()
            if venue.truth is not None:
                venue.truth.close()

    @staticmethod
    def _open(truth: Truth, listener: socket.socket) -> None:
        try:
            truth.open()
        except OSError:
            listener.close()
            raise

    def _app(self) -> FastAPI:
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        rest.mount(app, self.venue, self.venue.stale)
        control.mount(app, self.venue)
        app.websocket("/")(self._connect)
        app.websocket("/advanced")(self._connect_advanced)
        return app

    async def _connect(self, websocket: WebSocket) -> None:
        await self._serve(websocket, Session)

    async def _connect_advanced(self, websocket: WebSocket) -> None:
        await self._serve(websocket, partial(AdvancedSession, self.venue.advanced))

    async def _serve(self, websocket: WebSocket, make: Callable[..., Session]) -> None:
        venue = self.venue
        client = websocket.client.host if websocket.client else ""
        if not venue.doors.may_connect(client, venue.clock() / 1e6):
            await websocket.send_denial_response(Response("Too Many Requests", 429))
            return
        await websocket.accept()
        self._numbers += 1
        abort: Callable[[], None] = websocket.scope["extensions"][_ABORT]["call"]
        session = make(
            self._numbers,
            websocket,
            venue.hub,
            venue.exchange,
            venue.config,
            venue.clock,
            venue.listed,
            abort,
        )
        await session.run()


def _timers(venue: Venue) -> list[Coroutine[None, None, None]]:
    """Return what runs beside the server; a recording takes the place of the market."""
    common = [
        pulse.repeat(pulse.STATUS_S, venue.say_status),
        pulse.repeat(pulse.TRUTH_S, venue.flush_truth),
        pulse.repeat(pulse.LEVEL2_BATCH_S, venue.hub.tidy),
    ]
    if venue.config.cassette is not None:
        return [*common, pulse.play(venue)]
    return [
        *common,
        pulse.trade(venue),
        pulse.beat(venue),
        pulse.repeat(pulse.LEVEL2_BATCH_S, venue.flush_levels),
        pulse.repeat(pulse.TICKER_BATCH_S, venue.flush_tickers),
        pulse.repeat(pulse.ADVANCED_TRADES_S, venue.flush_advanced),
        pulse.repeat(pulse.ADVANCED_TICKER_BATCH_S, venue.flush_advanced_tickers),
    ]


async def serve(config: SimConfig, started: Callable[[Simulator], None] | None = None) -> None:
    """Run a simulated exchange until SIGINT, SIGTERM or cancellation.

    Raises:
        PortTakenError, ProductError, CassetteError, OSError: it cannot be run like this.
    """
    simulator = Simulator(config)
    async with simulator:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        try:
            if started is not None:
                started(simulator)
            waiting = asyncio.create_task(stop.wait())
            ended = asyncio.create_task(simulator.wait())
            await asyncio.wait({waiting, ended}, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            if ended.done():
                await ended
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Only a socket that is declared to be TCP gets TCP_NODELAY from asyncio; without it every
    # second small frame waits 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise PortTakenError(host, port, error.strerror or str(error)) from error
    return listener


def _uvicorn_config(app: FastAPI, config: SimConfig) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        ws=_Protocol,
        ws_max_size=_MAX_CLIENT_BYTES,
        ws_per_message_deflate=config.compression,
        http="httptools",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=_GRACE_S,
    )
