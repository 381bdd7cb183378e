"""The simulated exchange's REST API: answers, quirks, errors and limits."""

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.unit.simulator.client import rest_client, still, trade_some
from venues.simulator.config import Limits
from venues.simulator.server import Simulator

BTC = "/products/BTC-USD"
TOO_MANY = (
    "granularity too small for the requested time range. "
    "Count of aggregations requested exceeds 300"
)


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    """Give an exchange that stands still."""
    async with Simulator(still()) as running:
        yield running


@pytest.fixture
async def http(simulator: Simulator) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client of its REST API."""
    async with rest_client(simulator) as client:
        yield client


async def test_rest_answers_agree_with_each_other(
    simulator: Simulator, http: httpx.AsyncClient
) -> None:
    """Products, ticker, trades, book and stats tell of the same market."""
    trade_some(simulator, 30)
    products = (await http.get("/products")).json()
    assert [one["id"] for one in products] == ["BTC-USD", "ETH-USD"]
    assert (await http.get(BTC)).json() == products[0]
    ticker = (await http.get(f"{BTC}/ticker")).json()
    newest = (await http.get(f"{BTC}/trades?limit=1")).json()[0]
    assert ticker["trade_id"] == newest["trade_id"]
    assert ticker["time"] == newest["time"]
    book = (await http.get(f"{BTC}/book")).json()
    assert (len(book["bids"]), len(book["asks"])) == (1, 1)
    assert book["sequence"] == simulator.venue.exchange.listed["BTC-USD"].engine.sequence
    stats = (await http.get(f"{BTC}/stats")).json()
    assert stats["last"] == ticker["price"]
    assert stats["volume"] == ticker["volume"]
    now = (await http.get("/time")).json()
    assert now["iso"].endswith("Z")
    assert isinstance(now["epoch"], float)


async def test_trades_walked_by_after_are_contiguous(
    simulator: Simulator, http: httpx.AsyncClient
) -> None:
    """`cb-after` leads from page to page down to the oldest trade."""
    trade_some(simulator, 50)
    ids: list[int] = []
    query = "limit=100"
    while True:
        response = await http.get(f"{BTC}/trades?{query}")
        page = [one["trade_id"] for one in response.json()]
        if not page:
            break
        assert response.headers["cb-before"] == str(page[0])
        assert response.headers["cb-after"] == str(page[-1])
        ids += page
        query = f"limit=100&after={response.headers['cb-after']}"
    assert len(ids) >= 350
    assert ids == list(range(ids[0], ids[0] - len(ids), -1))


async def test_trades_before_returns_the_newest(http: httpx.AsyncClient) -> None:
    """The quirk: not the page next to the cursor."""
    newest = (await http.get(f"{BTC}/trades?limit=1")).json()[0]["trade_id"]
    page = (await http.get(f"{BTC}/trades?limit=3&before={newest - 50}")).json()
    assert [one["trade_id"] for one in page] == [newest, newest - 1, newest - 2]


async def test_candles_are_numbers_newest_first_within_the_span(http: httpx.AsyncClient) -> None:
    """Rows of six JSON numbers; both ends belong to the span."""
    rows = (await http.get(f"{BTC}/candles?granularity=60")).json()
    assert len(rows) > 30
    starts = [row[0] for row in rows]
    assert starts == sorted(starts, reverse=True)
    assert all(row[1] <= min(row[3], row[4]) <= max(row[3], row[4]) <= row[2] for row in rows)
    span = f"start={starts[5]}&end={starts[2]}"
    part = (await http.get(f"{BTC}/candles?granularity=60&{span}")).json()
    assert part == rows[2:6]
    iso = "start=2026-01-01T00:00:00Z&end=2026-01-01T05:00:00"
    assert (await http.get(f"{BTC}/candles?granularity=60&{iso}")).json() == []


ERRORS = {
    "/products/NO-NO": (404, "NotFound"),
    "/products/NO-NO/book": (404, "NotFound"),
    "/nowhere": (404, "NotFound"),
    f"{BTC}/book?level=4": (400, "Invalid level"),
    f"{BTC}/trades?limit=x": (400, "Invalid limit"),
    f"{BTC}/trades?after=-1": (400, "Invalid after"),
    f"{BTC}/candles?granularity=61": (400, "Unsupported granularity"),
    f"{BTC}/candles?start=soon&end=1": (400, "Invalid start"),
    f"{BTC}/candles?start=2&end=1": (400, "start must be before end"),
    f"{BTC}/candles?granularity=60&start=0&end=18001": (400, TOO_MANY),
}


async def test_rest_errors_have_status_and_message(http: httpx.AsyncClient) -> None:
    """Errors are spelled as the exchange spells them."""
    for path, (status, message) in ERRORS.items():
        response = await http.get(path)
        assert (response.status_code, response.json()) == (status, {"message": message}), path


async def test_candles_of_exactly_three_hundred_intervals_are_allowed(
    http: httpx.AsyncClient,
) -> None:
    """The limit is above 300, so 301 rows can come."""
    assert (await http.get(f"{BTC}/candles?granularity=60&start=0&end=18000")).json() == []


async def test_requests_beyond_the_limit_get_429() -> None:
    """Fifteen at once; the control routes are not counted."""
    config = still(limits=Limits(rest_per_s=0.001, rest_burst=2))
    async with Simulator(config) as simulator, rest_client(simulator) as http:
        codes = [(await http.get("/time")).status_code for _ in range(3)]
        assert codes == [200, 200, 429]
        assert (await http.get("/sim/status")).status_code == 200
