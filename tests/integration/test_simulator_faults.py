"""Faults injected over HTTP, seen by clients over real sockets."""

import asyncio
import time
from collections.abc import AsyncIterator

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from tests.servers import PATIENCE_S, eventually
from tests.unit.simulator.client import Message, listening, of_type, rest_client, still, trade_some
from venues.simulator.server import Simulator

BTC = "/products/BTC-USD"


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    """Give an exchange that stands still."""
    async with Simulator(still()) as running:
        yield running


@pytest.fixture
async def http(simulator: Simulator) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client of its REST API and its control."""
    async with rest_client(simulator) as client:
        yield client


async def _inject(http: httpx.AsyncClient, **spec: object) -> Message:
    response = await http.post("/sim/faults", json=spec)
    assert response.status_code == 201
    answer: Message = response.json()
    return answer


def _ids(messages: list[Message]) -> list[int]:
    return [one["trade_id"] for one in of_type(messages, "match")]


async def test_drop_makes_a_gap_of_its_count(simulator: Simulator, http: httpx.AsyncClient) -> None:
    """Five matches of one product are missing, and nothing else."""
    async with listening(simulator, "matches", "ticker") as feed:
        newest = simulator.venue.exchange.listed["BTC-USD"].engine.trade_id
        await _inject(http, kind="drop", product="BTC-USD", channel="matches", count=5)
        trade_some(simulator, 8)
        ids = _ids(await feed.rest())
        assert ids[0] == newest + 6
        (fault,) = (await http.get("/sim/faults")).json()["faults"]
        assert (fault["hits"], fault["left"], fault["active"]) == (5, 0, False)


async def test_duplicate_and_reorder_reach_the_client(
    simulator: Simulator, http: httpx.AsyncClient
) -> None:
    """One message twice; the next two swapped."""
    async with listening(simulator, "matches") as feed:
        await _inject(http, kind="duplicate", channel="matches")
        trade_some(simulator, 1)
        first, again, *_ = _ids(await feed.rest())
        assert first == again
        await _inject(http, kind="reorder", channel="matches")
        trade_some(simulator, 3)
        second, first, *others = _ids(await feed.rest())
        assert second == first + 1
        assert others == sorted(others)


async def test_malformed_and_garbage_come_beside_good_messages(
    simulator: Simulator, http: httpx.AsyncClient
) -> None:
    """Nothing good is lost, unless `replace` says so."""
    async with listening(simulator, "matches") as feed:
        await _inject(http, kind="malformed", channel="matches")
        await _inject(http, kind="garbage", channel="matches", variant="unknown_type", count=1)
        trade_some(simulator, 5)
        seen = await feed.rest()
        assert len(of_type(seen, "broken")) == 1
        assert len(of_type(seen, "mystery")) == 1
        ids = _ids(seen)
        assert ids == list(range(ids[0], ids[0] + len(ids)))


async def test_disconnect_cuts_those_who_listen(
    simulator: Simulator, http: httpx.AsyncClient
) -> None:
    """Without a word, or with the close code that was asked for."""
    async with listening(simulator, "matches") as matches, listening(simulator, "ticker") as ticker:
        answer = await _inject(http, kind="disconnect", channel="matches")
        assert answer["hits"] == 1
        with pytest.raises(ConnectionClosed):
            await matches.next()
        assert matches.socket.close_code == 1006
        trade_some(simulator, 1)
        assert (await ticker.next())["type"] == "ticker"
        await _inject(http, kind="disconnect", code=1012)
        with pytest.raises(ConnectionClosed):
            await ticker.rest()
        assert ticker.socket.close_code == 1012


async def test_stall_is_silent_and_cured_by_a_new_connection(
    simulator: Simulator, http: httpx.AsyncClient
) -> None:
    """The socket stays open; what was said meanwhile is lost to it."""
    async with listening(simulator, "matches") as stalled:
        await _inject(http, kind="stall", duration_ms=2000)
        trade_some(simulator, 3)
        async with listening(simulator, "matches") as fresh:
            trade_some(simulator, 1)
            assert (await fresh.next())["type"] == "match"
        assert await stalled.rest() == []

        async def over() -> bool:
            return not any(
                one["active"] for one in (await http.get("/sim/faults")).json()["faults"]
            )

        await eventually(over)
        trade_some(simulator, 1)
        assert (await stalled.next())["type"] == "match"


async def test_stall_that_holds_delivers_late_and_in_order(
    simulator: Simulator, http: httpx.AsyncClient
) -> None:
    """Nothing is lost, though the market stays quiet after."""
    async with listening(simulator, "matches") as feed:
        await _inject(http, kind="stall", duration_ms=200, hold=True)
        trade_some(simulator, 4)
        ids: list[int] = []
        while len(ids) < 4:
            ids += _ids([await feed.next()])
        assert ids == sorted(ids)


async def test_fault_of_one_connection_spares_the_other_line(
    simulator: Simulator, http: httpx.AsyncClient
) -> None:
    """Two lines, and a loss on one of them."""
    async with listening(simulator, "matches") as first, listening(simulator, "matches") as second:
        numbers = [one["conn"] for one in (await http.get("/sim/status")).json()["connections"]]
        await _inject(http, kind="drop", conn=numbers[1], count=2)
        trade_some(simulator, 5)
        whole, holed = _ids(await first.rest()), _ids(await second.rest())
        assert whole[2:] == holed


async def test_delist_takes_the_product_away_until_cleared(
    simulator: Simulator, http: httpx.AsyncClient
) -> None:
    """REST knows it no more, nobody can subscribe, and it comes back."""
    fault = await _inject(http, kind="delist", product="BTC-USD")
    assert (await http.get(f"{BTC}/book")).status_code == 404
    assert [one["id"] for one in (await http.get("/products")).json()] == ["ETH-USD"]
    async with listening(simulator) as feed:
        await feed.subscribe("ticker")
        assert (await feed.next())["reason"] == "BTC-USD is not a valid product"
    assert simulator.venue.trading() == ["ETH-USD"]
    assert (await http.delete(f"/sim/faults/{fault['id']}")).json() == {"cleared": 1}
    assert (await http.get(BTC)).status_code == 200


async def test_rest_faults_answer_badly_and_once(http: httpx.AsyncClient) -> None:
    """429 with Retry-After, a 5xx of choice, and a slow answer."""
    await _inject(http, kind="rest_429", retry_after_s=7, endpoint="trades")
    assert (await http.get(f"{BTC}/ticker")).status_code == 200
    limited = await http.get(f"{BTC}/trades")
    assert (limited.status_code, limited.headers["Retry-After"]) == (429, "7")
    await _inject(http, kind="rest_500", status=503)
    assert (await http.get(BTC)).status_code == 503
    await _inject(http, kind="rest_slow", delay_ms=150)
    before = time.perf_counter()
    assert (await http.get(BTC)).status_code == 200
    assert time.perf_counter() - before >= 0.15


async def test_rest_timeout_answers_nothing_and_does_not_delay_the_end(
    simulator: Simulator, http: httpx.AsyncClient
) -> None:
    """A client gives up; the exchange stops all the same."""
    await _inject(http, kind="rest_timeout")
    with pytest.raises(httpx.ReadTimeout):
        await http.get(BTC, timeout=0.1)
    await _inject(http, kind="rest_timeout")
    pending = asyncio.create_task(http.get(BTC))
    await asyncio.sleep(0.05)
    async with asyncio.timeout(PATIENCE_S):
        await simulator.stop()
    assert (await pending).status_code == 504


async def test_stale_book_is_of_the_injection(
    simulator: Simulator, http: httpx.AsyncClient
) -> None:
    """A resync that comes later gets a sequence from before the gap, so many times."""
    before = (await http.get(f"{BTC}/book?level=3")).json()
    await _inject(http, kind="rest_stale_book", product="BTC-USD", count=2)
    trade_some(simulator, 5)
    sequences = [(await http.get(f"{BTC}/book?level=3")).json()["sequence"] for _ in range(3)]
    assert sequences[:2] == [before["sequence"]] * 2
    assert sequences[2] > before["sequence"]


async def test_stale_book_older_than_allowed_is_taken_anew(
    simulator: Simulator, http: httpx.AsyncClient
) -> None:
    """`stale_ms` is how old an edge cache lets a book become."""
    await _inject(http, kind="rest_stale_book", stale_ms=0, count=1)
    trade_some(simulator, 5)
    fresh = simulator.venue.exchange.listed["BTC-USD"].engine.sequence
    assert (await http.get(f"{BTC}/book")).json()["sequence"] == fresh


async def test_fault_that_cannot_be_injected_is_refused(http: httpx.AsyncClient) -> None:
    """With the status that says whose mistake it is, and nothing is injected."""
    for spec, status in (
        ({"kind": "explode"}, 422),
        ({"kind": "stall"}, 422),
        ({"kind": "drop", "product": "NO-NO"}, 400),
        ({"kind": "drop", "conn": 99}, 400),
    ):
        assert (await http.post("/sim/faults", json=spec)).status_code == status
    assert (await http.get("/sim/faults")).json() == {"faults": []}


async def test_pause_and_resume_stop_and_start_the_market(
    simulator: Simulator, http: httpx.AsyncClient
) -> None:
    """Between the two nothing trades; heartbeats go on."""
    engine = simulator.venue.exchange.listed["BTC-USD"].engine
    start = engine.sequence
    assert (await http.post("/sim/resume")).json()["paused"] is False
    await eventually(lambda: engine.sequence > start)
    status = (await http.post("/sim/pause")).json()
    await asyncio.sleep(0.1)
    assert status["paused"] is True
    assert engine.sequence == status["products"]["BTC-USD"]["sequence"]
