"""The Coinbase Exchange REST client: products, books, tickers, trades, candles, time.

Owns the HTTP client, the rate limit and the checks of what comes back. Never retries: whoever asks
decides by the error's `is_final`. Answers are in rest_types.py, errors in rest_errors.py.

The venue's edge may answer from a cache: a book about 2 s old, a page of trades up to 6 s.
"""

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final, Self, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from models.decoding import UNREADABLE
from venues.coinbase.addresses import goes_direct
from venues.coinbase.auth import Credentials, now_text, sign_rest
from venues.coinbase.limiter import LimiterFullError, RateLimiter
from venues.coinbase.rest_errors import (
    BadAnswerError,
    BadRequestError,
    CoinbaseRestError,
    MissingTradesError,
    NotFoundError,
    RateLimitedError,
    UnauthorizedError,
    VenueDownError,
)
from venues.coinbase.rest_types import (
    Product,
    RestBook,
    RestCandle,
    RestTicker,
    RestTime,
    RestTrade,
)

MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
"""Largest answer read; a full level 3 book is tens of MB."""
MAX_PAGE: Final = 1000
"""Most trades that the venue puts into one page."""
MAX_TRADES: Final = 500_000
"""Most trades fetched by one call of `trades_between`."""

_MAX_MESSAGE = 300
_ERRORS: Final[dict[int, type[CoinbaseRestError]]] = {
    400: BadRequestError,
    401: UnauthorizedError,
    403: UnauthorizedError,
    404: NotFoundError,
    408: VenueDownError,
    429: RateLimitedError,
}

Answer = TypeVar("Answer")


class CoinbaseRest:
    """Asks the REST API; use as an async context manager.

    Every method raises the errors of rest_errors.py. Safe to use from many tasks at once: they
    share the limiter, and give one to several clients to share it among them.
    """

    def __init__(
        self,
        base_url: str,
        credentials: Credentials | None = None,
        limiter: RateLimiter | None = None,
        *,
        timeout_s: float = 10.0,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> None:
        self._credentials = credentials
        self._limiter = limiter if limiter is not None else RateLimiter()
        self._timeout_s = timeout_s
        self._max_answer_bytes = max_answer_bytes
        self._client = httpx.AsyncClient(
            base_url=base_url,
            timeout=timeout_s,
            headers={"User-Agent": "ledgerflux", "Accept": "application/json"},
            trust_env=not goes_direct(base_url),
        )

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def products(self) -> list[Product]:
        """Return all products."""
        return await self._get("/products", list[Product])

    async def product(self, product_id: str) -> Product:
        """Return one product."""
        return await self._get(_path(product_id), Product)

    async def book(self, product_id: str, level: int = 1) -> RestBook:
        """Return the book; 1 is the best prices, 2 all prices, 3 all orders."""
        return await self._get(_path(product_id, "book"), RestBook, level=level)

    async def ticker(self, product_id: str) -> RestTicker:
        """Return the last trade and the best prices."""
        return await self._get(_path(product_id, "ticker"), RestTicker)

    async def trades(
        self, product_id: str, *, limit: int = MAX_PAGE, after: int | None = None
    ) -> list[RestTrade]:
        """Return up to `limit` trades, newest first; with `after`, those with lower ids only."""
        params = {"limit": limit} if after is None else {"limit": limit, "after": after}
        return await self._get(_path(product_id, "trades"), list[RestTrade], **params)

    async def trades_between(
        self, product_id: str, after_id: int, before_id: int
    ) -> list[RestTrade]:
        """Return every trade with `after_id` < id < `before_id`, each once, oldest first.

        Walks `after` pages down from `before_id`: the venue's `before` gives the newest page, not
        the adjacent one.

        Raises:
            MissingTradesError: some ids of the range did not come.
            ValueError: the range holds more than `MAX_TRADES` ids.
        """
        wanted = before_id - after_id - 1
        if wanted > MAX_TRADES:
            raise ValueError(f"{wanted} trades wanted; ask for at most {MAX_TRADES} at once")
        found: dict[int, RestTrade] = {}
        cursor = before_id
        while cursor > after_id + 1:
            limit = min(MAX_PAGE, cursor - after_id - 1)
            page = await self.trades(product_id, limit=limit, after=cursor)
            found.update((t.trade_id, t) for t in page if after_id < t.trade_id < before_id)
            lowest = min((trade.trade_id for trade in page), default=cursor)
            if lowest >= cursor:
                break  # nothing older came: what is still missing is told below
            cursor = lowest
        missing = _missing(found, after_id, before_id)
        if missing:
            raise MissingTradesError(self._url(_path(product_id, "trades")), missing)
        return [found[trade_id] for trade_id in sorted(found)]

    async def candles(
        self,
        product_id: str,
        granularity_s: int,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> list[RestCandle]:
        """Return candles, newest first; both ends included, at most 300 intervals.

        `start` and `end` must name their zone.
        """
        params: dict[str, int | str] = {"granularity": granularity_s}
        for name, moment in (("start", start), ("end", end)):
            if moment is not None:
                params[name] = _iso(moment)
        return await self._get(_path(product_id, "candles"), list[RestCandle], **params)

    async def time(self) -> RestTime:
        """Return the venue's clock."""
        return await self._get("/time", RestTime)

    async def _get(self, path: str, answer: type[Answer], **params: int | str) -> Answer:
        """Ask, check the status, and decode."""
        request = self._client.build_request("GET", path, params=params)
        url = str(request.url)
        try:
            await self._limiter.acquire()
        except LimiterFullError as full:
            raise RateLimitedError(url, str(full), retry_after_s=full.retry_after_s) from full
        status, headers, body = await self._exchange(request)
        if status != httpx.codes.OK:
            raise _error(url, status, headers, body)
        try:
            return msgspec.json.decode(body, type=answer)
        except UNREADABLE as error:
            raise BadAnswerError(url, f"unexpected answer: {error}", status=status) from error

    async def _exchange(self, request: httpx.Request) -> tuple[int, httpx.Headers, bytes]:
        """Send and read, within the timeout in all."""
        url = str(request.url)
        self._sign(request)
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await self._client.send(request, stream=True)
                try:
                    return response.status_code, response.headers, await self._read(response)
                finally:
                    await response.aclose()
        except TimeoutError as error:
            raise VenueDownError(url, f"no answer within {self._timeout_s:g} s") from error
        except httpx.DecodingError as error:
            raise BadAnswerError(url, f"unreadable answer: {error}") from error
        except httpx.RequestError as error:
            reason = f"{type(error).__name__}: {error}"
            raise VenueDownError(url, reason) from error

    async def _read(self, response: httpx.Response) -> bytes:
        body = bytearray()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > self._max_answer_bytes:
                limit = f"the answer exceeds {self._max_answer_bytes} bytes"
                raise BadAnswerError(str(response.url), limit, status=response.status_code)
        return bytes(body)

    def _sign(self, request: httpx.Request) -> None:
        """Sign as late as possible: the venue refuses signatures older than 30 s."""
        if self._credentials is not None:
            path = request.url.raw_path.decode("ascii")
            request.headers.update(sign_rest(self._credentials, now_text(), request.method, path))

    def _url(self, path: str) -> str:
        return str(self._client.base_url.join(path))


class _ErrorBody(msgspec.Struct):
    message: str = ""


def _error(url: str, status: int, headers: httpx.Headers, body: bytes) -> CoinbaseRestError:
    """Turn an answer that is no success into its error."""
    by_class = {4: BadRequestError, 5: VenueDownError}
    kind = _ERRORS.get(status) or by_class.get(status // 100, BadAnswerError)
    return kind(url, _message(body), status=status, retry_after_s=_retry_after_s(headers))


def _message(body: bytes) -> str:
    """Return the venue's sentence, or the beginning of whatever came instead."""
    try:
        message = msgspec.json.decode(body, type=_ErrorBody).message
    except UNREADABLE:
        message = ""
    return message or body[:_MAX_MESSAGE].decode(errors="replace") or "no text"


def _retry_after_s(headers: httpx.Headers) -> float | None:
    text = headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdecimal() else None


def _missing(found: Iterable[int], after_id: int, before_id: int) -> list[tuple[int, int]]:
    """Return the ids between the two that were not found, as inclusive ranges."""
    missing = []
    expected = after_id + 1
    for trade_id in [*sorted(found), before_id]:
        if trade_id > expected:
            missing.append((expected, trade_id - 1))
        expected = trade_id + 1
    return missing


def _path(product_id: str, what: str = "") -> str:
    path = f"/products/{quote(product_id, safe='')}"
    return f"{path}/{what}" if what else path


def _iso(moment: datetime) -> str:
    if moment.tzinfo is None:
        raise ValueError(f"time without a zone: {moment}")
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
