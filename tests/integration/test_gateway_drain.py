"""A gateway that goes: nobody new, everybody told when, data to the last, 1012, a bounded time."""

import asyncio
import itertools
import json
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from cli.stack import answering
from models.settings import Settings
from streaming.broker.jetstream import JetStreamLog
from tests.gateways import (
    PRODUCT,
    SUBJECT,
    numbers,
    receive,
    running_gateway,
    subscriber,
    tick,
)
from tests.raw_websocket import TEXT, raw_websocket
from tests.servers import PATIENCE_S, Process, eventually, free_port
from workers.process import SAME_ORDER_S

LONG_S = 10 * PATIENCE_S
"""What would be waited for if nothing ended at once."""

TICKER = {"products": [PRODUCT], "feeds": ["ticker"]}


async def opened(client: ClientConnection) -> None:
    """Read the acknowledgement and the snapshot."""
    assert [message["op"] for message in await receive(client, 2)] == ["subscribed", "snapshot"]


async def to_the_end(client: ClientConnection) -> list[Any]:
    """Return what comes until the connection closes."""
    messages = []
    async with asyncio.timeout(PATIENCE_S):
        try:
            while True:
                messages.append(json.loads(await client.recv()))
        except ConnectionClosed:
            return messages


async def test_drain_tells_each_client_its_own_time_within_the_spread(settings: Settings) -> None:
    """So that those who come again do not come at once."""
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(running_gateway(settings, gateway_drain_s=0.8))
        clients = [await stack.enter_async_context(subscriber(gateway, **TICKER)) for _ in range(8)]
        for client in clients:
            await opened(client)
        gateway.stop()
        times = []
        for client in clients:
            (message,) = await receive(client, 1)
            assert message["op"] == "drain"
            times.append(message["reconnect_ms"])
            await client.close()
    assert [time * 8 // 800 for time in sorted(times)] == list(range(8))


async def test_drain_refuses_new_clients_and_says_that_it_is_not_ready(settings: Settings) -> None:
    """A load balancer sees it, and a client that comes is sent on."""
    async with (
        running_gateway(settings, gateway_drain_s=LONG_S) as gateway,
        subscriber(gateway, **TICKER) as client,
    ):
        await opened(client)
        gateway.stop()
        await receive(client, 1)
        ready = await gateway.get("/readyz")
        assert ready.status_code == 503
        assert ready.json()["reason"].startswith("draining")
        assert (await gateway.get("/healthz")).status_code == 200
        with pytest.raises(InvalidStatus) as refused:
            async with subscriber(gateway):
                pass
        response = refused.value.response
        assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
        assert json.loads(response.body)["code"] == "draining"


async def test_drain_keeps_data_coming_until_the_client_leaves(
    log: JetStreamLog, settings: Settings
) -> None:
    """Nothing is lost while the client connects elsewhere; then the gateway ends at once."""
    async with running_gateway(settings, gateway_drain_s=LONG_S) as gateway:
        async with subscriber(gateway, **TICKER) as client:
            await opened(client)
            gateway.stop()
            assert (await receive(client, 1))[0]["op"] == "drain"
            for seq in range(1, 4):
                await log.publish(SUBJECT, tick(seq))
            assert numbers(await receive(client, 3)) == [("incr", seq) for seq in (1, 2, 3)]
        async with asyncio.timeout(PATIENCE_S):
            await gateway.ended


async def test_drain_of_a_client_that_stays_ends_with_all_that_is_due_and_1012(
    log: JetStreamLog, settings: Settings
) -> None:
    """What has been read from the log before the close has been delivered before it."""
    async with (
        running_gateway(settings, gateway_drain_s=0.2) as gateway,
        subscriber(gateway, **TICKER) as client,
    ):
        await opened(client)
        reading = asyncio.create_task(to_the_end(client))
        gateway.stop()
        began = time.monotonic()
        for seq in range(1, 200):
            await log.publish(SUBJECT, tick(seq))
            if reading.done():
                break
        messages = await reading
        assert time.monotonic() - began >= 1
    assert messages[0]["op"] == "drain"
    seqs = [message["data"]["seq"] for message in messages[1:]]
    assert seqs
    assert seqs == list(range(1, len(seqs) + 1))
    assert client.close_code == 1012


async def test_drain_without_clients_ends_at_once(settings: Settings) -> None:
    """However long clients would be given."""
    async with running_gateway(settings, gateway_drain_s=LONG_S) as gateway:
        gateway.stop()
        async with asyncio.timeout(PATIENCE_S):
            await gateway.ended


async def test_drain_does_not_wait_for_a_client_that_owes_its_key(settings: Settings) -> None:
    """Nothing is due to it."""
    keyed = Settings(**{**settings.model_dump(), "auth_api_keys": "k"})
    async with (
        running_gateway(keyed, gateway_drain_s=LONG_S) as gateway,
        subscriber(gateway) as client,
    ):
        gateway.stop()
        assert await to_the_end(client) == []
        assert client.close_code == 1012


@pytest.fixture
async def process(settings: Settings, tmp_path: Path) -> AsyncIterator[Process]:
    """Give a gateway process that drains for long."""
    env = {
        "NATS_URLS": settings.nats_urls[0],
        "GATEWAY_PORT": str(free_port()),
        "GATEWAY_DRAIN_S": str(LONG_S),
    }
    with Process([sys.executable, "-m", "workers.gateway"], tmp_path / "gateway.log", env) as child:
        async with asyncio.timeout(PATIENCE_S):
            await answering(f"http://127.0.0.1:{env['GATEWAY_PORT']}/readyz")()
        yield child


async def attached(process: Process) -> ClientConnection:
    """Return a client that has subscribed."""
    url = f"ws://127.0.0.1:{process._env['GATEWAY_PORT']}/ws"
    client = await connect(url, proxy=None, close_timeout=1)
    await client.send(json.dumps({"op": "subscribe", **TICKER}))
    await opened(client)
    return client


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_second_signal_ends_the_process_at_once(
    process: Process, second: signal.Signals
) -> None:
    """Whoever stays is told to come again all the same."""
    async with await attached(process) as client:
        process.send(signal.SIGTERM)
        assert (await receive(client, 1))[0]["op"] == "drain"
        assert process.returncode is None
        await asyncio.sleep(SAME_ORDER_S + 0.1)  # what comes at once would count as one
        process.send(second)
        await eventually(lambda: process.returncode is not None)
        await to_the_end(client)
        assert client.close_code == 1012
    assert process.returncode == 1
    assert "second signal" in process.log_file.read_text()
    assert "Traceback" not in process.log_file.read_text()


async def test_drain_cuts_off_a_client_that_reads_nothing(
    log: JetStreamLog, settings: Settings
) -> None:
    """One whose buffers are full keeps nobody waiting beyond the bound."""
    limits: dict[str, Any] = {"gateway_drain_s": 0.2, "ws_max_client_bytes": 1024**2}
    async with (
        running_gateway(settings, **limits) as gateway,
        raw_websocket(gateway.url, receive_buffer_bytes=4096) as deaf,
    ):
        await deaf.send(TEXT, json.dumps({"op": "subscribe", **TICKER}).encode())
        seq = itertools.count(1)

        async def full() -> bool:
            await log.publish(SUBJECT, b"\n".join(tick(next(seq)) for _ in range(2000)))
            return await gateway.metric("md_gateway_conflated_total") == 1

        await eventually(full)
        gateway.stop()
        began = time.monotonic()
        async with asyncio.timeout(PATIENCE_S):
            await gateway.ended
        assert time.monotonic() - began > 1
