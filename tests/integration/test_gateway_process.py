"""The gateway as an operator meets it: a process with signals and exit statuses."""

import asyncio
import socket
import sys
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from client.subscriber import Subscriber
from models.settings import Settings
from streaming.broker.jetstream import JetStreamLog
from tests.gateways import PRODUCT, SUBJECT, tick
from tests.servers import PATIENCE_S, Process, eventually, free_port

COMMAND = [sys.executable, "-m", "workers.gateway"]


@pytest.fixture
def process(settings: Settings, tmp_path: Path) -> Process:
    """Give a gateway process that has not started yet."""
    env = {
        "NATS_URLS": settings.nats_urls[0],
        "GATEWAY_PORT": str(free_port()),
        "WS_MAX_CLIENT_BYTES": "65536",
        "GATEWAY_DRAIN_S": "0",
    }
    return Process(COMMAND, tmp_path / "gateway.log", env)


def address(process: Process) -> str:
    """Return host and port."""
    return f"127.0.0.1:{process._env['GATEWAY_PORT']}"


async def ready(process: Process) -> None:
    """Wait until the process serves."""

    async def check() -> bool:
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as client:
            try:
                answer = await client.get(f"http://{address(process)}/readyz")
            except httpx.TransportError:
                return False
            return answer.status_code == httpx.codes.OK

    await eventually(check)


async def test_process_told_to_stop_closes_clients_with_1012_and_exits_0(
    log: JetStreamLog, process: Process
) -> None:
    """Also a client that reads nothing does not hold it up."""
    async with asyncio.timeout(PATIENCE_S):
        with process:
            await ready(process)
            async with (
                connect(f"ws://{address(process)}/ws", proxy=None) as client,
                connect(
                    f"ws://{address(process)}/ws", proxy=None, max_queue=1, close_timeout=0.2
                ) as deaf,
            ):
                await subscribe(client)
                await subscribe(deaf)
                await log.publish(SUBJECT, b"\n".join(tick(seq) for seq in range(1, 5001)))
                reading = asyncio.create_task(read_to_the_end(client))
                assert await asyncio.to_thread(process.stop) == 0
                await reading
                assert client.close_code == 1012


async def subscribe(client: ClientConnection) -> None:
    """Subscribe to the ticker."""
    await client.send('{"op":"subscribe","products":["BTC-USD"],"feeds":["ticker"]}')


async def read_to_the_end(client: ClientConnection) -> None:
    """Read until the connection closes."""
    with suppress(ConnectionClosed):
        async for _ in client:
            pass


async def test_process_on_a_taken_port_says_so_and_exits_1(process: Process) -> None:
    """One sentence tells what to do, without a traceback."""
    with socket.create_server(("127.0.0.1", int(process._env["GATEWAY_PORT"]))):
        process.start()
        await eventually(lambda: process.returncode is not None)
    said = process.log_file.read_text(encoding="utf-8")
    assert process.returncode == 1
    assert "set GATEWAY_PORT" in said
    assert "Traceback" not in said


async def test_subscriber_over_a_restart_of_the_gateway_goes_on_where_it_was(
    log: JetStreamLog, process: Process
) -> None:
    """After `kill -9` the client comes back by itself and misses nothing."""
    seen: list[tuple[str, int]] = []
    subscriber = Subscriber(f"ws://{address(process)}/ws", [PRODUCT], ["ticker"])

    async def read() -> None:
        async for update in subscriber:
            seen.append((update.op, update.link.seq))
            if update.link.seq == 3:
                return

    async with asyncio.timeout(PATIENCE_S):
        reading = asyncio.create_task(read())
        with process:
            await eventually(lambda: seen == [("snapshot", 0)])
            await log.publish(SUBJECT, tick(1))
            await eventually(lambda: len(seen) == 2)
            await asyncio.to_thread(process.kill)
            await log.publish(SUBJECT, tick(2))
            process.start()
            await eventually(lambda: len(seen) == 3)
            await log.publish(SUBJECT, tick(3))
            await reading
    assert seen == [("snapshot", 0), ("incr", 1), ("incr", 2), ("incr", 3)]
    assert (subscriber.verifier.verified, subscriber.connects) == (3, 2)
