"""The exchange's public REST API, answered from the same markets as the WebSocket feed.

https://docs.cdp.coinbase.com/api-reference/exchange-api/rest-api. Errors are
`{"message": …}`. Injected REST faults and the request limit are applied before each answer.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from models.numbers import iso_to_us, us_to_iso
from venues.simulator.exchange import Listed
from venues.simulator.fault_spec import Endpoint
from venues.simulator.stale import StaleBooks
from venues.simulator.venue import Venue

GRANULARITIES = (60, 300, 900, 3600, 21600, 86400)
MAX_INTERVALS = 300
MAX_TRADES = 1000
_LEVELS = {"1": 1, "2": 2, "3": 3}
_BEFORE_ANSWER = frozenset({"rest_slow", "rest_429", "rest_500", "rest_timeout"})
_TIMEOUT_MS = 600_000
_LARGEST_ID = 2**63


class VenueError(Exception):
    """An answer other than 200: status, message and headers."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers or {}


def mount(app: FastAPI, venue: Venue, stale: StaleBooks) -> None:
    """Add the routes and the exchange's error format to an app."""
    app.include_router(_router(venue, stale))

    @app.exception_handler(VenueError)
    async def _venue_error(_: Request, error: VenueError) -> Response:
        return JSONResponse({"message": error.message}, error.status, error.headers)

    @app.exception_handler(HTTPException)
    async def _http_error(_: Request, error: HTTPException) -> Response:
        message = "NotFound" if error.status_code == 404 else str(error.detail)  # noqa: PLR2004
        return JSONResponse({"message": message}, error.status_code, error.headers)


def _guard(venue: Venue, endpoint: Endpoint) -> Callable[[Request], Awaitable[None]]:
    """Return the check that runs before an endpoint: the limit, then faults, in that order."""

    async def check(request: Request) -> None:
        client = request.client.host if request.client else ""
        if not venue.doors.may_request(client, venue.clock() / 1e6):
            raise VenueError(429, "Public rate limit exceeded", {"Retry-After": "1"})
        product = request.path_params.get("product")
        faults = venue.hub.faults.answer(endpoint, product, venue.clock(), _BEFORE_ANSWER)
        for spec in list(faults):
            match spec.kind:
                case "rest_slow":
                    await asyncio.sleep(spec.delay_ms / 1000)
                case "rest_429":
                    headers = {"Retry-After": str(spec.retry_after_s)}
                    raise VenueError(429, "Public rate limit exceeded", headers)
                case "rest_500":
                    raise VenueError(spec.status, "Internal server error")
                case _:
                    await venue.wait_for_stop((spec.duration_ms or _TIMEOUT_MS) / 1000)
                    raise VenueError(504, "Gateway timeout")

    return check


def _router(venue: Venue, stale: StaleBooks) -> APIRouter:  # noqa: C901 - one closure per route
    router = APIRouter()

    async def find(product: str) -> Listed:
        listed = venue.exchange.listed.get(product)
        if listed is None or product not in venue.listed():
            raise VenueError(404, "NotFound")
        return listed

    product_route = Annotated[Listed, Depends(find)]

    def route(path: str, endpoint: Endpoint) -> Callable[[Callable[..., object]], object]:
        return router.get(path, dependencies=[Depends(_guard(venue, endpoint))])

    @route("/products", "products")
    async def _products() -> Response:
        return _json(venue.listings())

    @route("/products/{product}", "product")
    async def _product(listed: product_route) -> Response:
        return _json(listed.product.listing)

    @route("/products/{product}/book", "book")
    async def _book(listed: product_route, level: str = "1") -> Response:
        if level not in _LEVELS:
            raise VenueError(400, "Invalid level")
        return _text(stale.book(listed, _LEVELS[level], venue.clock()))

    @route("/products/{product}/ticker", "ticker")
    async def _ticker(listed: product_route) -> Response:
        last = listed.history.last
        if last is None:
            raise VenueError(404, "NotFound")
        time = us_to_iso(last.time_us)
        return _text(listed.wire.rest_ticker(last, time, listed.engine, listed.history))

    @route("/products/{product}/trades", "trades")
    async def _trades(
        listed: product_route,
        limit: str | None = None,
        before: str | None = None,
        after: str | None = None,
    ) -> Response:
        most = min(_whole("limit", limit) or MAX_TRADES, MAX_TRADES)
        page = listed.history.page(most, _whole("before", before), _whole("after", after))
        rows = (listed.wire.rest_trade(one.match, us_to_iso(one.time_us)) for one in page)
        response = _text(f"[{','.join(rows)}]")
        if page:
            response.headers["cb-before"] = str(page[0].match.trade_id)
            response.headers["cb-after"] = str(page[-1].match.trade_id)
        return response

    @route("/products/{product}/candles", "candles")
    async def _candles(
        listed: product_route,
        granularity: str = "60",
        start: str | None = None,
        end: str | None = None,
    ) -> Response:
        step = int(granularity) if granularity in map(str, GRANULARITIES) else 0
        if not step:
            raise VenueError(400, "Unsupported granularity")
        first, last = _span(start, end, step, venue.clock() / 1e6)
        return _text(listed.wire.rest_candles(listed.history, step, first, last))

    @route("/products/{product}/stats", "stats")
    async def _stats(listed: product_route) -> Response:
        return _text(listed.wire.rest_stats(listed.history))

    @route("/time", "time")
    async def _time() -> Response:
        millis = venue.clock() // 1000
        iso = f"{us_to_iso(millis * 1000)[:-4]}Z"
        return _text(f'{{"iso":"{iso}","epoch":{millis // 1000}.{millis % 1000:03d}}}')

    return router


def _span(start: str | None, end: str | None, step: int, now_s: float) -> tuple[float, float]:
    """Return the asked span of time in seconds; without both ends, the last 300 buckets."""
    if start is None or end is None:
        last = now_s // step * step
        return last - (MAX_INTERVALS - 1) * step, last
    first, last = _moment("start", start), _moment("end", end)
    if first > last:
        raise VenueError(400, "start must be before end")
    if (last - first) / step > MAX_INTERVALS:
        raise VenueError(
            400,
            "granularity too small for the requested time range. "
            f"Count of aggregations requested exceeds {MAX_INTERVALS}",
        )
    return first, last


def _moment(name: str, text: str) -> float:
    """Read unix seconds or ISO time; a time without a zone is UTC."""
    try:
        if text.replace(".", "", 1).isdecimal():
            return float(text)
        moment = datetime.fromisoformat(text)
        return iso_to_us(text if moment.tzinfo else moment.replace(tzinfo=UTC).isoformat()) / 1e6
    except ValueError:
        raise VenueError(400, f"Invalid {name}") from None


def _whole(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or not 0 < int(text) < _LARGEST_ID:
        raise VenueError(400, f"Invalid {name}")
    return int(text)


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


def _text(body: str) -> Response:
    return Response(body, media_type="application/json")
