"""The gateway's HTTP and WebSocket surface. Parses and answers; `hub` does the work."""

from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, WebSocket
from fastapi.requests import HTTPConnection
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field
from starlette.types import Receive, Scope, Send

from gateway.fanout import EXTENSION
from gateway.hub import Hub
from gateway.ledger import GapView
from gateway.product import FEED_BITS
from gateway.readiness import Readiness
from gateway.session import Session
from gateway.sink import Sink

_NOT_READY = 503
_RETRY = {"Retry-After": "1"}


class FeedView(BaseModel):
    """One feed of a product as it is now."""

    feed: str = Field(description="ticker, trades or book.")
    seq: int = Field(description="`seq` of its newest message; 0 before the first.")
    status: str = Field(description="live, gap, resyncing or stale.")


class ProductView(BaseModel):
    """One product that can be subscribed to."""

    venue: str = Field(description="The exchange that it trades on.")
    product: str = Field(description="The name to subscribe with.")
    feeds: list[FeedView] = Field(description="Its feeds.")


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


def create_app(hub: Hub, readiness: Readiness) -> FastAPI:
    """Build the application around a hub."""
    app = GatewayApp(
        title="LedgerFlux gateway",
        description="Market data over one WebSocket: a snapshot, then every change after it. "
        'Connect to `/ws` and send `{"op":"subscribe","products":["BTC-USD"]}`.',
    )
    app.state.hub = hub
    app.state.readiness = readiness
    app.include_router(_router)
    return app


def _hub(connection: HTTPConnection) -> Hub:
    hub: Hub = connection.app.state.hub
    return hub


def _readiness(connection: HTTPConnection) -> Readiness:
    readiness: Readiness = connection.app.state.readiness
    return readiness


HubOf = Annotated[Hub, Depends(_hub)]
ReadinessOf = Annotated[Readiness, Depends(_readiness)]
_router = APIRouter()


async def stream(websocket: WebSocket) -> None:
    """Serve one subscriber until it leaves."""
    hub, readiness = _hub(websocket), _readiness(websocket)
    if not readiness.warm.is_set():
        # Before that the state is incomplete, and a snapshot of it would be wrong.
        answer = Health(ok=False, reason=readiness.problem()).model_dump()
        await websocket.send_denial_response(JSONResponse(answer, _NOT_READY, _RETRY))
        return
    sink: Sink = websocket.scope["extensions"][EXTENSION]
    await websocket.accept()
    client = hub.join(sink)
    try:
        await _converse(websocket, Session(hub, client), sink)
    finally:
        hub.leave(client)


async def _converse(websocket: WebSocket, session: Session, sink: Sink) -> None:
    """Answer each message; a client that does not read its answers is not read from."""
    while True:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            return
        await sink.room.wait()
        session.receive(message.get("text"))


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


@_router.get("/v1/products", summary="What can be subscribed to")
async def products(hub: HubOf) -> list[ProductView]:
    """List products that are configured or have been seen, with each feed's newest position."""
    return [
        ProductView(
            venue=product.venue,
            product=product.name,
            feeds=[
                FeedView(feed=feed, seq=product.feeds[bit].seq, status=product.feeds[bit].status)
                for feed, bit in FEED_BITS.items()
            ],
        )
        for product in hub.products
    ]


@_router.get("/v1/resyncs", summary="Gaps, open and past")
async def resyncs(hub: HubOf) -> list[GapView]:
    """List the gaps that were announced since this gateway's state begins, open ones first."""
    return hub.ledger.gaps()


def _answer(problem: str | None, response: Response) -> Health:
    if problem:
        response.status_code = _NOT_READY
    return Health(ok=problem is None, reason=problem)
