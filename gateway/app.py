"""The gateway's HTTP and WebSocket surface. Parses and answers; `hub` does the work."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, WebSocket
from fastapi.requests import HTTPConnection
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from gateway import rest
from gateway.access import AUTH_WITHIN_S, NO_AUTH, Access, Guest, RefusedError, key_of
from gateway.errors import answer_errors, refusal
from gateway.fanout import EXTENSION
from gateway.frames import json_frame
from gateway.hub import Hub
from gateway.protocol import Auth, Authenticated, ClientError, parse_request
from gateway.readiness import Readiness
from gateway.replays import Replays
from gateway.session import Session
from gateway.sink import Sink

_NOT_READY = 503
_INTERNAL_ERROR = 1011
_RETRY_S = 1
_KEY_FIRST = ClientError(
    "unauthorized",
    'a key is needed before anything else: send {"op":"auth","key":"<key>"}.',
)


class Health(BaseModel):
    """An answer for a load balancer or an operator."""

    ok: bool = Field(description="Whether all is well.")
    reason: str | None = Field(None, description="If not, why, in one sentence.")


class GatewayApp(FastAPI):
    """FastAPI with a short way to the one WebSocket."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or a subscriber.

        Middleware and routing stay on the stack while a WebSocket is open: 7 KB a subscriber.
        """
        if scope["type"] == "websocket" and scope["path"] == "/ws":
            scope["app"] = self
            await stream(WebSocket(scope, receive, send))
        else:
            await super().__call__(scope, receive, send)


def create_app(hub: Hub, replays: Replays, readiness: Readiness, access: Access) -> FastAPI:
    """Build the application around the live hub and those of replays."""
    app = GatewayApp(
        title="LedgerFlux gateway",
        description="Market data over one WebSocket: a snapshot, then every change after it. "
        'Connect to `/ws` and send `{"op":"subscribe","products":["BTC-USD"]}`.',
    )
    app.state.hub = hub
    app.state.replays = replays
    app.state.readiness = readiness
    app.state.access = access
    app.state.pages = 0
    answer_errors(app)
    app.include_router(_router)
    app.include_router(rest.router)
    return app


def _hub(connection: HTTPConnection) -> Hub:
    hub: Hub = connection.app.state.hub
    return hub


def _replays(connection: HTTPConnection) -> Replays:
    replays: Replays = connection.app.state.replays
    return replays


def _readiness(connection: HTTPConnection) -> Readiness:
    readiness: Readiness = connection.app.state.readiness
    return readiness


HubOf = Annotated[Hub, Depends(_hub)]
ReadinessOf = Annotated[Readiness, Depends(_readiness)]
_router = APIRouter()


async def stream(websocket: WebSocket) -> None:
    """Serve one subscriber until it leaves."""
    sink: Sink = websocket.scope["extensions"][EXTENSION]
    access: Access = websocket.app.state.access
    try:
        guest = _let_in(websocket, sink, access)
    except RefusedError as refused:
        _hub(websocket).metrics.refused.labels(refused.code).inc()
        await websocket.send_denial_response(refusal(refused))
        return
    try:
        await websocket.accept()
        if await _known(websocket, guest, access):
            await _subscribe(websocket, guest)
    finally:
        access.leave(guest)


def _let_in(websocket: WebSocket, sink: Sink, access: Access) -> Guest:
    """Decide about a handshake.

    Raises:
        RefusedError: it gets an HTTP answer instead.
    """
    if reason := _readiness(websocket).refusal():
        code = reason.partition(":")[0].replace(" ", "_")
        raise RefusedError(_NOT_READY, code, reason, retry_s=_RETRY_S)
    address = websocket.client.host if websocket.client is not None else ""
    now_s = asyncio.get_running_loop().time()
    # Not `websocket.headers`, which would keep them for as long as the connection lasts.
    return access.enter(sink, address, key_of(Headers(scope=websocket.scope)), now_s)


async def _known(websocket: WebSocket, guest: Guest, access: Access) -> bool:
    """Wait for the key of a guest that owes one; return whether it may go on."""
    if not access.keys.required or guest.key is not None:
        return True
    try:
        async with asyncio.timeout(AUTH_WITHIN_S):
            while (message := await _next(websocket, guest)) is not None:
                key = _key_in(message.get("text"))
                if key is not None:
                    access.identify(guest, key)
                    guest.sink.write(json_frame(Authenticated().model_dump()))
                    return True
                guest.sink.write(json_frame(_KEY_FIRST.reply()))
    except TimeoutError:
        _hub(websocket).metrics.refused.labels("no_auth").inc()
        guest.sink.hang_up(NO_AUTH, f"no auth came within {AUTH_WITHIN_S:g} s: send it first")
    except RefusedError as refused:
        _hub(websocket).metrics.refused.labels(refused.code).inc()
        guest.sink.hang_up(refused.close_code, refused.msg)
    return False


async def _subscribe(websocket: WebSocket, guest: Guest) -> None:
    """Answer each message of a guest until it leaves."""
    hub, replays = _hub(websocket), _replays(websocket)
    session = guest.session = Session(hub, hub.join(guest.sink))
    try:
        while (message := await _next(websocket, guest)) is not None:
            request = session.receive(message.get("text"))
            if request is not None:
                await session.attach(request, replays)
    except RefusedError as refused:
        hub.metrics.refused.labels(refused.code).inc()
        guest.sink.hang_up(refused.close_code, refused.msg)
    except Exception:
        guest.sink.hang_up(_INTERNAL_ERROR, "an error in the gateway: connect again")
        raise
    finally:
        session.end(replays)


async def _next(websocket: WebSocket, guest: Guest) -> Message | None:
    """Return the next message, or none when the guest has gone.

    A client that does not read its answers is not read from.
    """
    message = await websocket.receive()
    if message["type"] == "websocket.disconnect":
        return None
    await guest.sink.room.wait()
    return message


def _key_in(text: str | None) -> str | None:
    """Return the key in an `auth` message; none if it is anything else."""
    try:
        request = None if text is None else parse_request(text)
    except ClientError:
        return None
    return request.key if isinstance(request, Auth) else None


@_router.get("/healthz", summary="Whether this process works")
async def healthz(readiness: ReadinessOf, response: Response) -> Health:
    """Tell whether the process can go on; 503 means that it must be replaced."""
    return _answer(readiness.failure(), response)


@_router.get("/readyz", summary="Whether to send subscribers here")
async def readyz(readiness: ReadinessOf, response: Response) -> Health:
    """Tell whether the state is complete and the log is there; 503 with a reason if not."""
    return _answer(readiness.problem(), response)


@_router.get("/metrics", summary="Prometheus metrics", response_class=PlainTextResponse)
async def metrics(hub: HubOf) -> Response:
    """Return counters and gauges in Prometheus text."""
    return Response(hub.metrics.render(), media_type=CONTENT_TYPE_LATEST)


def _answer(problem: str | None, response: Response) -> Health:
    if problem:
        response.status_code = _NOT_READY
    return Health(ok=problem is None, reason=problem)
