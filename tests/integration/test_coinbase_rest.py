"""The Coinbase REST client against a real HTTP server on loopback."""

import asyncio
import base64
import gzip
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from decimal import Decimal
from urllib.parse import parse_qsl, urlsplit

import pytest

from tests.servers import eventually, free_port
from venues.coinbase.auth import Credentials, sign_rest
from venues.coinbase.limiter import RateLimiter
from venues.coinbase.rest import MAX_TRADES, CoinbaseRest
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
from venues.coinbase.rest_types import RestCandle

Answer = tuple[int, bytes] | tuple[int, bytes, str]
Query = dict[str, str]


class Venue:
    """An HTTP server that answers each path as its rule says and notes the requests."""

    def __init__(self, rule: Callable[[str, Query], Answer | None]) -> None:
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.url = ""
        self.open = 0
        self._rule = rule

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one request and close."""
        self.open += 1
        with suppress(ConnectionError):
            await self._answer(reader, writer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        self.open -= 1

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        target = head[0].split()[1]
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        self.requests.append((target, headers))
        parts = urlsplit(target)
        answer = self._rule(parts.path, dict(parse_qsl(parts.query)))
        if answer is None:
            await reader.read()
        else:
            status, body, *more = answer
            writer.write(
                f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
                f"{''.join(more)}\r\n".encode()
                + body
            )


@asynccontextmanager
async def asking(
    rule: Callable[[str, Query], Answer | None],
    credentials: Credentials | None = None,
    limiter: RateLimiter | None = None,
    max_answer_bytes: int = 1_000_000,
    timeout_s: float = 5.0,
) -> AsyncIterator[tuple[CoinbaseRest, Venue]]:
    """Run a venue and a client of it."""
    venue = Venue(rule)
    async with await asyncio.start_server(venue.handle, "127.0.0.1", 0) as server:
        venue.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with CoinbaseRest(
            venue.url,
            credentials,
            limiter,
            timeout_s=timeout_s,
            max_answer_bytes=max_answer_bytes,
        ) as rest:
            yield rest, venue
        await eventually(lambda: not venue.open)


def _trade(trade_id: int) -> dict[str, object]:
    return {"trade_id": trade_id, "side": "buy", "size": "0.10", "price": "1.0", "time": "t"}


def _trades(newest: int, *, holes: tuple[int, ...] = ()) -> Callable[[str, Query], Answer]:
    """Return a rule that pages trades as the venue does, `before` quirk included."""

    def rule(_: str, query: Query) -> Answer:
        top = min(newest, int(query.get("after", newest + 1)) - 1)
        low = int(query.get("before", 0))
        ids = [i for i in range(top, low, -1) if i not in holes][: int(query["limit"])]
        return 200, json.dumps([_trade(trade_id) for trade_id in ids]).encode()

    return rule


PRODUCT = (
    b'{"id":"BTC-USD","base_currency":"BTC","quote_currency":"USD","quote_increment":"0.01",'
    b'"base_increment":"0.00000001","display_name":"BTC-USD","status":"online","new_field":1}'
)
ANSWERS: dict[str, bytes] = {
    "/products": b"[" + PRODUCT + b"]",
    "/products/BTC-USD": PRODUCT,
    "/products/BTC-USD/book": b'{"bids":[["1.10","2.000",3]],"asks":[["1.20","0.1","id-1"]],'
    b'"sequence":136999327896,"auction_mode":false,"auction":null,"time":"2026-09-30T02:03:13Z"}',
    "/products/BTC-USD/ticker": b'{"ask":"2","bid":"1.50","volume":"9","trade_id":7,'
    b'"price":"1.700","size":"0.10000000","time":"t","rfq_volume":"0"}',
    "/time": b'{"iso":"2026-09-30T02:03:44.122Z","epoch":1790733824.122}',
}


async def test_rest_documented_answers_are_read_exactly() -> None:
    """Text stays text with all its zeros; unknown fields do not matter."""
    async with asking(lambda path, _: (200, ANSWERS[path])) as (rest, venue):
        assert [product.id for product in await rest.products()] == ["BTC-USD"]
        assert (await rest.product("BTC-USD")).base_increment == "0.00000001"
        book = await rest.book("BTC-USD", level=3)
        assert book.bids == [("1.10", "2.000", 3)]
        assert book.asks == [("1.20", "0.1", "id-1")]
        assert book.sequence == 136999327896
        assert (await rest.ticker("BTC-USD")).price == "1.700"
        assert (await rest.time()).epoch == Decimal("1790733824.122")
        assert [target for target, _ in venue.requests][2] == "/products/BTC-USD/book?level=3"
        assert "cb-access-sign" not in venue.requests[0][1]


async def test_rest_candles_keep_every_digit() -> None:
    """JSON numbers become Decimals without passing through a binary float."""
    row = b"[[1790733780,83404.020000000000000001,0.1,1e-7,123456789012345678901.5,0.30]]"
    async with asking(lambda *_: (200, row)) as (rest, venue):
        start = datetime(2026, 9, 30, 2, tzinfo=UTC)
        (candle,) = await rest.candles("BTC-USD", 60, start, start)
        assert candle == RestCandle(
            1790733780,
            Decimal("83404.020000000000000001"),
            Decimal("0.1"),
            Decimal("0.0000001"),
            Decimal("123456789012345678901.5"),
            Decimal("0.30"),
        )
        assert str(candle.volume) == "0.30"
        query = dict(parse_qsl(urlsplit(venue.requests[0][0]).query))
        assert query == {
            "granularity": "60",
            "start": "2026-09-30T02:00:00Z",
            "end": "2026-09-30T02:00:00Z",
        }


async def test_rest_with_credentials_signs_path_and_query() -> None:
    """The signed path is the one on the wire, with its query."""
    keys = Credentials("name", base64.b64encode(b"s").decode(), "phrase")
    async with asking(lambda path, _: (200, ANSWERS[path]), keys) as (rest, venue):
        await rest.book("BTC-USD", level=2)
        target, headers = venue.requests[0]
        expected = sign_rest(keys, headers["cb-access-timestamp"], "GET", target)
        assert headers["cb-access-sign"] == expected["CB-ACCESS-SIGN"].lower()


@pytest.mark.parametrize(
    ("answer", "kind", "is_final", "text"),
    [
        ((404, b'{"message":"NotFound"}'), NotFoundError, True, "NotFound"),
        ((400, b'{"message":"Unsupported granularity"}'), BadRequestError, True, "granularity"),
        ((405, b""), BadRequestError, True, "no text"),
        ((401, b'{"message":"invalid signature"}'), UnauthorizedError, True, "signature"),
        ((403, b"<html>Forbidden</html>"), UnauthorizedError, True, "<html>"),
        ((429, b"{}", "Retry-After: 3\r\n"), RateLimitedError, False, "{}"),
        ((500, b'{"message":"oops"}'), VenueDownError, False, "oops"),
        ((503, b"\xff", "Retry-After: soon\r\n"), VenueDownError, False, "503"),
        ((302, b"", "Location: /elsewhere\r\n"), BadAnswerError, False, "302"),
        ((200, b"<html>"), BadAnswerError, False, "unexpected answer"),
        ((200, b'{"iso":1}'), BadAnswerError, False, "iso"),
        ((200, b'{"iso":"\xff","epoch":1}'), BadAnswerError, False, "unexpected answer"),
        ((200, b"no gzip", "Content-Encoding: gzip\r\n"), BadAnswerError, False, "unreadable"),
    ],
)
async def test_rest_failure_is_a_typed_error_with_facts(
    answer: Answer,
    kind: type[CoinbaseRestError],
    is_final: bool,  # noqa: FBT001
    text: str,
) -> None:
    """Each answer has its error, with address, status, sentence and whether to try again."""
    async with asking(lambda *_: answer) as (rest, venue):
        with pytest.raises(kind) as caught:
            await rest.time()
        error = caught.value
        assert type(error) is kind
        assert error.is_final is is_final
        assert text in str(error)
        assert error.url == f"{venue.url}/time"
        assert error.status in (None, answer[0])
        assert error.retry_after_s == (3 if answer[0] == 429 else None)


async def test_rest_nobody_listening_is_venue_down() -> None:
    """A refused connection is typed."""
    async with CoinbaseRest(f"http://127.0.0.1:{free_port()}") as rest:
        with pytest.raises(VenueDownError, match="ConnectError") as caught:
            await rest.time()
        assert caught.value.status is None


async def test_rest_no_answer_in_time_is_venue_down() -> None:
    """The timeout bounds the whole request."""
    async with asking(lambda *_: None, timeout_s=0.2) as (rest, _):
        with pytest.raises(VenueDownError):
            await rest.time()


@pytest.mark.parametrize("packed", [False, True])
async def test_rest_answer_beyond_the_cap_is_refused(packed: bool) -> None:  # noqa: FBT001
    """A huge answer is not read to its end, compressed or not."""
    body = b'"' + b"x" * 2_000_000 + b'"'
    answer: Answer = (200, body)
    if packed:
        answer = (200, gzip.compress(body), "Content-Encoding: gzip\r\n")
    async with asking(lambda *_: answer) as (rest, _):
        with pytest.raises(BadAnswerError, match="exceeds 1000000 bytes"):
            await rest.time()


async def test_rest_many_requests_keep_to_the_limit() -> None:
    """The client waits by itself, and is never told 429."""
    limiter = RateLimiter(rate=100, burst=5)
    loop = asyncio.get_running_loop()
    async with asking(lambda path, _: (200, ANSWERS[path]), limiter=limiter) as (rest, venue):
        began_s = loop.time()
        await asyncio.gather(*(rest.time() for _ in range(25)))
        assert loop.time() - began_s >= 0.2 - 0.001
        assert len(venue.requests) == 25


async def test_rest_full_limiter_is_rate_limited() -> None:
    """Too many callers waiting is the same kind of error as the venue's 429."""
    limiter = RateLimiter(rate=1, burst=1, max_waiters=0)
    async with asking(lambda path, _: (200, ANSWERS[path]), limiter=limiter) as (rest, _):
        with pytest.raises(RateLimitedError) as caught:
            await rest.time()
        assert caught.value.retry_after_s is not None


async def test_rest_trades_between_pages_gives_each_once_oldest_first() -> None:
    """Three pages, far below the newest trade, in order and without neighbours."""
    async with asking(_trades(1_000_000)) as (rest, venue):
        trades = await rest.trades_between("BTC-USD", 5000, 7501)
        assert [trade.trade_id for trade in trades] == list(range(5001, 7501))
        assert len(venue.requests) == 3
        assert not any("before=" in target for target, _ in venue.requests)


async def test_rest_trades_between_neighbours_asks_nothing() -> None:
    """An empty range is complete as it is."""
    async with asking(_trades(100)) as (rest, venue):
        assert await rest.trades_between("BTC-USD", 50, 51) == []
        assert venue.requests == []


async def test_rest_trades_between_holes_names_what_is_missing() -> None:
    """Holes in the middle and a newest page that is too old are told by id."""
    async with asking(_trades(90, holes=(60, 61, 70))) as (rest, _):
        with pytest.raises(MissingTradesError, match=r"13 trades .*: 60-61, 70, 91-100") as caught:
            await rest.trades_between("BTC-USD", 50, 101)
        assert caught.value.missing == ((60, 61), (70, 70), (91, 100))
        assert not caught.value.is_final


async def test_rest_trades_between_empty_or_odd_pages_end() -> None:
    """A venue that gives nothing, or the same page always, does not keep us asking."""
    async with asking(lambda *_: (200, b"[]")) as (rest, venue):
        with pytest.raises(MissingTradesError):
            await rest.trades_between("BTC-USD", 1, 9)
        assert len(venue.requests) == 1
    same = json.dumps([_trade(8), _trade(7)]).encode()
    async with asking(lambda *_: (200, same)) as (rest, venue):
        with pytest.raises(MissingTradesError, match="2-6"):
            await rest.trades_between("BTC-USD", 1, 9)
        assert len(venue.requests) == 2


async def test_rest_trades_between_too_many_is_refused() -> None:
    """A mistaken range does not become a million requests."""
    async with asking(_trades(1)) as (rest, _):
        with pytest.raises(ValueError, match="at most"):
            await rest.trades_between("BTC-USD", 0, MAX_TRADES + 2)


async def test_rest_odd_product_stays_within_its_path() -> None:
    """A product name cannot reach another path."""
    async with asking(lambda *_: (404, b'{"message":"NotFound"}')) as (rest, venue):
        with pytest.raises(NotFoundError):
            await rest.ticker("../accounts?x=1")
        assert venue.requests[0][0].startswith("/products/..%2Faccounts%3Fx%3D1/ticker")
