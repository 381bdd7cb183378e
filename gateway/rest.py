"""REST under /v1: what there is, as JSON. The same keys as the WebSocket; OpenAPI at `/docs`.

Canonical messages go out verbatim, so that numbers keep the venue's own digits.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from importlib.metadata import version
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Depends, Query, Security
from fastapi.requests import Request
from fastapi.responses import Response
from fastapi.security import APIKeyHeader, HTTPBearer
from pydantic import BaseModel, Field

from gateway.access import Access, Guest, RefusedError, key_of
from gateway.errors import ErrorView
from gateway.hub import Hub
from gateway.ladder import Page
from gateway.ledger import GapView
from gateway.product import FEED_BITS, Product
from gateway.protocol import DEFAULT_DEPTH
from gateway.readiness import Readiness
from models.canonical import Feed, decode_heads

MAX_TICKS = 10_000
"""Messages that one page of `ticks` may have."""

MAX_PAGES = 64
"""Pages of `ticks` that are put together at the same time; beyond that the answer is `busy`."""

PAGE_WITHIN_S = 10.0
"""How long a page may take; the log may be away."""

MAX_TROUBLED = 100
"""Feeds in trouble that `status` names."""


def _hub(request: Request) -> Hub:
    hub: Hub = request.app.state.hub
    return hub


def _demand_key(request: Request) -> None:
    """Refuse a request without a valid key, where keys are needed."""
    _access(request).keys.demand(key_of(request.headers))


def _readiness(request: Request) -> Readiness:
    readiness: Readiness = request.app.state.readiness
    return readiness


def _access(request: Request) -> Access:
    access: Access = request.app.state.access
    return access


async def _take_turn(request: Request) -> AsyncIterator[None]:
    """Bound the pages that are put together at the same time."""
    state = request.app.state
    if state.pages >= MAX_PAGES:
        raise RefusedError(503, "busy", "too many others read the past: come again", retry_s=1)
    state.pages += 1
    try:
        yield
    finally:
        state.pages -= 1


HubOf = Annotated[Hub, Depends(_hub)]
ReadinessOf = Annotated[Readiness, Depends(_readiness)]
AccessOf = Annotated[Access, Depends(_access)]
FeedParam = Annotated[Feed, Query(description="Which feed.", examples=["ticker"])]
VenueParam = Annotated[
    str | None,
    Query(description="The product's venue; needed where several have one of this name."),
]

router = APIRouter(
    prefix="/v1",
    dependencies=[
        # These two only document; `_demand_key` decides.
        Security(APIKeyHeader(name="X-API-Key", auto_error=False)),
        Security(HTTPBearer(auto_error=False)),
        Depends(_demand_key),
    ],
    responses={
        401: {"model": ErrorView, "description": "No valid key."},
        422: {"model": ErrorView, "description": "A parameter cannot be used."},
    },
)


class FeedView(BaseModel):
    """One feed of a product as it is now."""

    feed: str = Field(description="ticker, trades or book.", examples=["ticker"])
    seq: int = Field(
        description="`seq` of its newest message; 0 before the first.", examples=[1234567]
    )
    status: str = Field(description="live, gap, resyncing or stale.", examples=["live"])


class ProductView(BaseModel):
    """One product that can be subscribed to."""

    venue: str = Field(description="The exchange that it trades on.", examples=["coinbase"])
    product: str = Field(description="The name to subscribe with.", examples=["BTC-USD"])
    feeds: list[FeedView] = Field(description="Its feeds.")


@router.get("/products", summary="What can be subscribed to")
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


@router.get("/resyncs", summary="Gaps, open and past")
async def resyncs(hub: HubOf) -> list[GapView]:
    """List the gaps that were announced since this gateway's state begins, open ones first."""
    return hub.ledger.gaps()


class StatusView(BaseModel):
    """This gateway process as a whole."""

    version: str = Field(description="Of LedgerFlux.", examples=["0.1.0"])
    uptime_s: int = Field(description="Since this process began to serve.", examples=[3600])
    epoch: str = Field(
        description="The canonical log, as in `subscribed`.", examples=["18a1f0c2d4e6b800"]
    )
    ready: bool = Field(description="Whether subscribers may be sent here, as at /readyz.")
    reason: str | None = Field(description="If not, why.")
    clients: int = Field(description="Connections.", examples=[120])
    connections: dict[str, int] = Field(
        description="Their number by state: `live` and up to date; `lagging`, reading too slowly; "
        "`resuming`; `idle`, without a subscription; `unauthorized`, their key is still to come.",
        examples=[{"live": 118, "idle": 2}],
    )
    feeds: dict[str, int] = Field(
        description="Number of feeds (each of a product) by status.",
        examples=[{"live": 899, "gap": 1}],
    )
    troubled: list[str] = Field(
        description=f"Feeds that are not live, by name; at most {MAX_TROUBLED}.",
        examples=[["coinbase/BTC-USD/trades: gap"]],
    )
    position: int = Field(
        description="Of the newest message read from MD_TICKS.", examples=[981234]
    )
    position_age_ms: int | None = Field(
        description="How long ago that message was stored; it grows in a quiet market.",
        examples=[3],
    )


@router.get("/status", summary="How this gateway does")
async def status(hub: HubOf, readiness: ReadinessOf, access: AccessOf) -> StatusView:
    """Tell version, uptime, connections and feeds of the process that answers."""
    feeds: Counter[str] = Counter()
    troubled: list[str] = []
    for product in hub.products:
        for feed, bit in FEED_BITS.items():
            state = product.feeds[bit].status
            feeds[state] += 1
            if state != "live" and len(troubled) < MAX_TROUBLED:
                troubled.append(f"{product.venue}/{product.name}/{feed}: {state}")
    reason = readiness.problem()
    return StatusView(
        version=version("ledgerflux"),
        uptime_s=int(time.monotonic() - readiness.began_s),
        epoch=hub.epoch,
        ready=reason is None,
        reason=reason,
        clients=len(access.guests),
        connections=Counter(_state_of(guest) for guest in access.guests),
        feeds=feeds,
        troubled=troubled,
        position=hub.ring.upto,
        position_age_ms=_age_ms(hub),
    )


def _state_of(guest: Guest) -> str:
    if guest.session is None:
        return "unauthorized"
    client = guest.session.client
    if client.sink.paused or client.pending:
        return "lagging"
    if client.backfills:
        return "resuming"
    return "live" if client.selection else "idle"


def _age_ms(hub: Hub) -> int | None:
    """Return the age of the newest message, or none before the first."""
    newest_us = hub.ring.newest_us
    return (time.time_ns() // 1000 - newest_us) // 1000 if newest_us else None


_SNAPSHOT: dict[str, Any] = {
    "v": 1, "type": "snapshot", "venue": "coinbase", "product": "BTC-USD", "feed": "ticker",
    "seq": 1234500, "ts_snapshot": 1735942853000000, "reason": "subscribe", "resync_id": None,
    "state": {"last_trade": {"px": 65123.45, "qty": 0.01, "side": "buy", "id": 5551}},
}  # fmt: skip
_TICK: dict[str, Any] = {
    "v": 1, "type": "tick", "venue": "coinbase", "product": "BTC-USD", "feed": "ticker",
    "seq": 1234567, "prev_seq": 1234500, "ts_event": 1735942854123456,
    "ts_ingest": 1735942854126789,
    "fields": {"last_trade": {"px": 65123.45, "qty": 0.01, "side": "buy", "id": 5551}},
}  # fmt: skip
_PAGE: dict[str, Any] = {
    "venue": "coinbase", "product": "BTC-USD", "feed": "ticker", "from_seq": 1234500,
    "source": "ring", "complete": True, "next_from_seq": 1234567, "messages": [_TICK],
}  # fmt: skip
_NO_PRODUCT: dict[int | str, dict[str, Any]] = {
    404: {"model": ErrorView, "description": "There is no such product."},
    409: {"model": ErrorView, "description": "Several venues have it: give `venue`."},
}


def _json(description: str, example: object) -> dict[str, Any]:
    """Return OpenAPI's description of an answer that is assembled as bytes."""
    schema = {"type": "object"}
    content = {"application/json": {"schema": schema, "example": example}}
    return {"description": description, "content": content}


@router.get(
    "/products/{product}/snapshot",
    summary="The whole state of a feed",
    response_class=Response,
    responses={200: _json("A canonical snapshot, verbatim.", _SNAPSHOT), **_NO_PRODUCT},
)
async def snapshot(
    hub: HubOf,
    product: str,
    feed: FeedParam,
    venue: VenueParam = None,
    depth: Annotated[
        Annotated[int, Field(ge=1, le=1_000_000)] | Literal["full"],
        Query(description="Levels a side of a book, or `full`."),
    ] = DEFAULT_DEPTH,
) -> Response:
    """Return the newest state as a subscriber would get it; 0 as `seq` means nothing came yet."""
    line = hub.snapshot(_named(product, venue), feed, None if depth == "full" else depth)
    return Response(line, media_type="application/json")


@router.get(
    "/products/{product}/ticks",
    summary="What followed a number",
    response_class=Response,
    dependencies=[Depends(_take_turn)],
    responses={
        200: _json("Canonical messages, verbatim and in order, each once.", _PAGE),
        **_NO_PRODUCT,
        410: {"model": ErrorView, "description": "It cannot be recovered; `code` says why."},
        503: {"model": ErrorView, "description": "Too many others ask at this moment."},
    },
)
async def ticks(
    hub: HubOf,
    product: str,
    feed: FeedParam,
    from_seq: Annotated[int, Query(ge=0, lt=2**63, description="The last `seq` that you have.")],
    venue: VenueParam = None,
    limit: Annotated[int, Query(ge=1, le=MAX_TICKS, description="About how many at most.")] = 1000,
) -> Response:
    """Return every message after `from_seq`, as resuming would; go on from `next_from_seq`.

    `complete` says that there are no more at this moment. Never a part of what followed as if it
    were all: what cannot be recovered is answered with 410.
    """
    found = hub.products.one(_named(product, venue))
    page, upto = await _page(hub, found, feed, from_seq, limit)
    head = {
        "venue": found.venue,
        "product": found.name,
        "feed": feed,
        "from_seq": from_seq,
        "source": page.source,
        "complete": page.complete,
        "next_from_seq": upto,
    }
    body = b'%b,"messages":[%b]}' % (msgspec.json.encode(head)[:-1], b",".join(page.lines))
    return Response(body, media_type="application/json")


async def _page(
    hub: Hub, product: Product, feed: Feed, from_seq: int, limit: int
) -> tuple[Page, int]:
    """Return what follows a number, and the number to go on from.

    Raises:
        RefusedError: 410, it cannot be recovered; 503, too many others do at this moment.
    """
    while True:
        try:
            async with asyncio.timeout(PAGE_WITHIN_S):
                page = await hub.ladder.page(product, feed, from_seq, limit)
        except TimeoutError:
            raise RefusedError(
                503, "busy", "the log does not answer: come again", retry_s=1
            ) from None
        if page.reason == "busy":
            raise RefusedError(503, "busy", "too many others resume: come again", retry_s=1)
        if page.reason is not None:
            raise RefusedError(
                410,
                page.reason,
                f"what followed {from_seq} cannot be recovered: begin with a snapshot",
            )
        seqs = [head.seq for head in decode_heads(b"\n".join(page.lines)) if head.type != "status"]
        if seqs or page.complete:
            return page, seqs[-1] if seqs else from_seq
        limit *= 2  # nothing but statuses, which have no number to go on from


def _named(product: str, venue: str | None) -> str:
    return product if venue is None else f"{venue}/{product}"
