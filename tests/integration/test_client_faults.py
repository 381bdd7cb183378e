"""The client libraries against gateways that refuse, lie, hurry them or go away."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from models.settings import Settings
from streaming.broker.jetstream import JetStreamLog
from tests.clients import Run, in_node, in_python
from tests.gateways import PRODUCT, SUBJECT, running_gateway, snapshot, tick
from tests.servers import eventually, free_port

BOTH = pytest.mark.parametrize("run", [in_python, in_node])
TICKER: dict[str, Any] = {"products": [PRODUCT], "feeds": ["ticker"]}
Handle = Callable[[ServerConnection], Awaitable[None]]
Refuse = Callable[[ServerConnection, Request], Response | None]


@asynccontextmanager
async def scripted(handle: Handle, refuse: Refuse | None = None) -> AsyncIterator[str]:
    """Serve by a script; give the address."""
    async with serve(handle, "127.0.0.1", 0, process_request=refuse) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws"


async def heard(connection: ServerConnection) -> Any:
    """Return the next message of the client."""
    return json.loads(await connection.recv())


async def acknowledge(connection: ServerConnection) -> Any:
    """Answer the next subscription, and return it."""
    request = await heard(connection)
    await say(connection, op="subscribed", products=[PRODUCT], feeds=["ticker"], epoch="e")
    return request


async def say(connection: ServerConnection, **fields: object) -> None:
    """Send a message."""
    await connection.send(json.dumps(fields))


async def tell(connection: ServerConnection, op: str, line: bytes) -> None:
    """Send a canonical line."""
    await connection.send(f'{{"op":"{op}","data":{line.decode()}}}')


@BOTH
async def test_client_with_a_broken_chain_gets_what_is_missing(run: Run) -> None:
    """It asks from the last message that linked; the consumer sees the whole chain."""
    asked: list[Any] = []

    async def handle(connection: ServerConnection) -> None:
        await acknowledge(connection)
        await tell(connection, "snapshot", snapshot(5))
        await tell(connection, "incr", tick(7))
        asked.append(await acknowledge(connection))
        named = {"venue": "coinbase", "product": PRODUCT, "feed": "ticker", "from_seq": 5}
        await say(connection, op="resumed", **named, recovered=True, source="ring")
        for seq in (6, 7, 8):
            await tell(connection, "incr", tick(seq))
        await connection.wait_closed()

    async with scripted(handle) as url, run(url, **TICKER) as client:
        await eventually(lambda: len(client.updates) == 4)
    assert [update["data"]["seq"] for update in client.updates] == [5, 6, 7, 8]
    assert asked[0]["from_seq"] == {"coinbase/BTC-USD": {"ticker": 5}}
    assert asked[0]["epoch"] == "e"


@BOTH
async def test_client_told_to_raise_ends_with_the_broken_chain(run: Run) -> None:
    """Who wants to know gets an error."""

    async def handle(connection: ServerConnection) -> None:
        await acknowledge(connection)
        await tell(connection, "snapshot", snapshot(5))
        await tell(connection, "incr", tick(7))
        await connection.wait_closed()

    async with scripted(handle) as url, run(url, **TICKER, on_broken="raise") as client:
        await eventually(lambda: client.refused is not None)
    assert client.refused == "ChainBrokenError"
    assert len(client.updates) == 1


@BOTH
async def test_client_that_is_too_fast_says_it_again_after_the_pause(run: Run) -> None:
    """`rate_limit` is honoured: not before, and nothing is left out."""
    times: list[float] = []

    async def handle(connection: ServerConnection) -> None:
        loop = asyncio.get_running_loop()
        requests = [await heard(connection)]
        await say(connection, op="rate_limit", retry_ms=300)
        times.append(loop.time())
        requests.append(await acknowledge(connection))
        times.append(loop.time())
        assert requests[0] == requests[1]
        await tell(connection, "snapshot", snapshot(5))
        await connection.wait_closed()

    async with scripted(handle) as url, run(url, **TICKER) as client:
        await eventually(lambda: client.updates)
    assert 0.29 <= times[1] - times[0] < 2


@BOTH
@pytest.mark.parametrize("code", [1002, 1003, 1007, 1009, 4401, 4408])
async def test_client_closed_for_good_does_not_come_again(run: Run, code: int) -> None:
    """What connecting again would not cure ends the iteration with the code."""
    came = 0

    async def handle(connection: ServerConnection) -> None:
        nonlocal came
        came += 1
        await acknowledge(connection)
        await connection.close(code)

    async with scripted(handle) as url, run(url, **TICKER) as client:
        await eventually(lambda: client.refused is not None)
    assert (client.refused, came) == (str(code), 1)


@BOTH
@pytest.mark.parametrize("code", [1000, 1001, 1011, 1012, 4001, 4429, 4999])
async def test_client_closed_for_now_comes_again(run: Run, code: int) -> None:
    """Everything else is a reason to come back."""
    came = 0

    async def handle(connection: ServerConnection) -> None:
        nonlocal came
        came += 1
        await acknowledge(connection)
        if came == 1:
            await connection.close(code)
        await connection.wait_closed()

    async with scripted(handle) as url, run(url, **TICKER) as client:
        await eventually(lambda: came == 2)
    assert client.refused is None


@BOTH
async def test_client_of_a_gateway_that_drops_everybody_waits_longer_each_time(run: Run) -> None:
    """A connection that was good for nothing does not count as one."""
    times: list[float] = []

    async def handle(connection: ServerConnection) -> None:
        times.append(asyncio.get_running_loop().time())
        await connection.close(1011)

    async with scripted(handle) as url, run(url, **TICKER):
        await eventually(lambda: len(times) == 5)
    assert times[4] - times[3] > 0.3


@BOTH
async def test_client_without_a_gateway_gives_up(run: Run) -> None:
    """After the time that it was given, with an error."""
    url = f"ws://127.0.0.1:{free_port()}/ws"
    async with run(url, **TICKER, give_up_after_s=0.3) as client:
        await eventually(lambda: client.refused is not None)
    assert client.refused == "GatewayUnavailableError"
    assert client.said[0].startswith("waiting for a gateway")


@BOTH
async def test_client_of_a_product_that_is_not_there_is_refused(
    settings: Settings, run: Run
) -> None:
    """The gateway's own code reaches the consumer."""
    async with (
        running_gateway(settings) as gateway,
        run(gateway.url, products=["NOPE-USD"], feeds=["ticker"]) as client,
    ):
        await eventually(lambda: client.refused is not None)
    assert client.refused == "unknown_product"


async def test_client_leaves_a_full_gateway_alone_as_long_as_it_asks() -> None:
    """`Retry-After` is honoured."""
    times: list[float] = []

    def refuse(connection: ServerConnection, _: Request) -> Response | None:
        times.append(asyncio.get_running_loop().time())
        if len(times) > 1:
            return None
        answer = connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "draining\n")
        answer.headers["Retry-After"] = "1"
        return answer

    async def handle(connection: ServerConnection) -> None:
        await acknowledge(connection)
        await connection.wait_closed()

    async with scripted(handle, refuse) as url, in_python(url, **TICKER):
        await eventually(lambda: len(times) == 2)
    assert times[1] - times[0] >= 1


async def test_client_that_asked_to_be_disconnected_when_slow_misses_nothing(
    log: JetStreamLog, settings: Settings
) -> None:
    """It is closed with 4001 and resumes, so even a slow consumer gets everything."""
    last, batch = 60_000, 500
    async with (
        running_gateway(settings, ws_max_client_bytes=64 * 1024) as gateway,
        in_python(gateway.url, **TICKER, on_slow="disconnect", pause_s=1) as client,
    ):
        await eventually(lambda: client.updates)
        for first in range(1, last, batch):
            await log.publish(SUBJECT, b"\n".join(tick(first + n) for n in range(batch)))
        await eventually(lambda: client.has(PRODUCT, "ticker", last))
    assert [update["data"]["seq"] for update in client.updates] == list(range(last + 1))
    assert any("4001" in said for said in client.said)


@BOTH
@pytest.mark.parametrize("reconnect_ms", [0, 60_000])
async def test_client_that_ends_while_it_moves_leaves_no_connection(
    run: Run, reconnect_ms: int
) -> None:
    """Neither the old one nor the next, whether that is there already or not."""
    came, gone = 0, 0

    async def handle(connection: ServerConnection) -> None:
        nonlocal came, gone
        came += 1
        first = came == 1
        # Each has the snapshot at which the client ends: it may have left the old one before.
        with suppress(ConnectionClosed):
            await acknowledge(connection)
            if first:
                await say(connection, op="drain", reconnect_ms=reconnect_ms)
            await tell(connection, "snapshot", snapshot(5))
            await connection.wait_closed()
        gone += 1

    options = {"pause_s": 0.5} if run is in_python else {}
    async with scripted(handle) as url, run(url, **TICKER, **options, stop_after=1) as client:
        await eventually(lambda: client.position is not None)
        await eventually(lambda: came == gone)
    assert came <= 2
    assert reconnect_ms == 0 or came == 1
