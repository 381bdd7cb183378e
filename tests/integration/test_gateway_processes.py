"""Several gateway processes on one port: spread, kept alive, replaced one by one, stopped."""

import asyncio
import itertools
import json
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import psutil
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from client.subscriber import Subscriber
from models.settings import Settings
from streaming.broker.jetstream import JetStreamLog
from tests.gateways import PRODUCT, SUBJECT, receive, tick
from tests.servers import PATIENCE_S, Process, eventually, free_ports
from workers.process import SAME_ORDER_S

pytestmark = pytest.mark.long

COUNT = 2
TICKER = {"products": [PRODUCT], "feeds": ["ticker"]}


class Fleet:
    """A parent with its gateway processes."""

    def __init__(self, parent: Process, port: int, metrics_port: int) -> None:
        self.parent = parent
        self.port = port
        self.url = f"ws://127.0.0.1:{port}/ws"
        self._metrics_port = metrics_port

    def pids(self) -> set[int]:
        """Return the processes of the gateways."""
        return {child.pid for child in psutil.Process(self.parent.pid).children()}

    async def get(self, index: int, path: str) -> httpx.Response:
        """Ask one process by its own port."""
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as http:
            return await http.get(f"http://127.0.0.1:{self._metrics_port + index}{path}")

    async def ready(self) -> bool:
        """Tell whether every process can be sent traffic."""
        try:
            answers = [await self.get(index, "/readyz") for index in range(COUNT)]
        except httpx.TransportError:
            return False
        return all(answer.is_success for answer in answers)

    async def clients(self, index: int) -> int:
        """Return how many subscribers one process has."""
        text = (await self.get(index, "/metrics")).text
        found = re.search(rf'^md_gateway_clients{{process="{index}"}} (\S+)$', text, re.MULTILINE)
        assert found, text
        return int(float(found[1]))

    def said(self) -> str:
        """Return what all of them have written."""
        return self.parent.log_file.read_text(encoding="utf-8")


@pytest.fixture
async def fleet(settings: Settings, tmp_path: Path) -> AsyncIterator[Fleet]:
    """Give two gateway processes that are ready."""
    port = free_ports(1 + COUNT)
    metrics_port = port + 1
    env = {
        "NATS_URLS": settings.nats_urls[0],
        "GATEWAY_PORT": str(port),
        "METRICS_PORT": str(metrics_port),
        "GATEWAY_DRAIN_S": "0.5",
    }
    command = [sys.executable, "-m", "cli.main", "gateway", "--processes", str(COUNT)]
    with Process(command, tmp_path / "gateways.log", env) as parent:
        fleet = Fleet(parent, port, metrics_port)
        await eventually(fleet.ready)
        pids = fleet.pids()
        yield fleet
        pids |= fleet.pids() if parent.returncode is None else set()
    assert not [pid for pid in pids if psutil.pid_exists(pid)]


async def attached(fleet: Fleet, stack: AsyncExitStack) -> ClientConnection:
    """Return a client that has subscribed."""
    client = await stack.enter_async_context(connect(fleet.url, proxy=None, close_timeout=1))
    await client.send(json.dumps({"op": "subscribe", **TICKER}))
    ops = [message["op"] for message in await receive(client, 2)]
    if "drain" in ops:  # its process is being replaced; data comes all the same
        ops.remove("drain")
        ops += [message["op"] for message in await receive(client, 1)]
    assert ops == ["subscribed", "snapshot"]
    return client


async def test_clients_are_spread_over_the_processes_and_all_get_the_data(
    fleet: Fleet, log: JetStreamLog
) -> None:
    """One port, one process by the kernel's choice, the same stream from each."""
    async with AsyncExitStack() as stack:
        clients = [await attached(fleet, stack) for _ in range(40)]
        spread = [await fleet.clients(index) for index in range(COUNT)]
        assert sum(spread) == 40
        assert min(spread) >= 5  # 40 tosses of a coin: less comes once in a million
        await log.publish(SUBJECT, tick(1))
        for client in clients:
            assert (await receive(client, 1))[0]["data"]["seq"] == 1


async def test_process_that_dies_is_started_again_and_the_others_stay(fleet: Fleet) -> None:
    """Its clients reconnect; nobody else notices."""
    async with AsyncExitStack() as stack:
        clients = [await attached(fleet, stack) for _ in range(20)]
        before = fleet.pids()
        victim = min(before)
        os.kill(victim, signal.SIGKILL)
        await eventually(lambda: victim not in fleet.pids() and len(fleet.pids()) == COUNT)
        await eventually(fleet.ready)
        assert len(before & fleet.pids()) == COUNT - 1
        alive = [client for client in clients if await answers(client)]
        assert 0 < len(alive) < 20
        await attached(fleet, stack)
    assert "is started again" in fleet.said()


async def test_nobody_waits_for_the_successor_of_a_process_that_died(fleet: Fleet) -> None:
    """While it is on its way, the others serve whoever comes; then it takes its part again."""
    before = fleet.pids()
    os.kill(min(before), signal.SIGKILL)
    await eventually(lambda: fleet.pids() - before)
    (successor,) = fleet.pids() - before
    os.kill(successor, signal.SIGSTOP)
    async with AsyncExitStack() as stack:
        for _ in range(20):
            await attached(fleet, stack)
    os.kill(successor, signal.SIGCONT)
    await eventually(fleet.ready)
    async with AsyncExitStack() as stack:
        for _ in range(40):
            await attached(fleet, stack)
        assert min([await fleet.clients(index) for index in range(COUNT)]) >= 5


async def answers(client: ClientConnection) -> bool:
    """Tell whether a client's gateway is still there."""
    try:
        await client.send('{"op":"ping"}')
        return bool((await receive(client, 1))[0]["op"] == "pong")
    except ConnectionClosed:
        return False


async def test_sighup_replaces_every_process_and_drops_nobody(fleet: Fleet) -> None:
    """Who connects at any moment is served; who is there is told, and goes on elsewhere."""
    before, ended = fleet.pids(), asyncio.Event()
    outcomes: Counter[str] = Counter()

    async def knock() -> None:
        while not ended.is_set():
            async with AsyncExitStack() as stack:
                try:
                    await attached(fleet, stack)
                    outcomes["served"] += 1
                except InvalidStatus as refused:
                    outcomes[f"{refused.response.status_code}"] += 1
                except (OSError, ConnectionClosed, EOFError) as error:
                    outcomes[repr(error)] += 1

    async def stay() -> list[str]:
        async with AsyncExitStack() as stack:
            client = await attached(fleet, stack)
            async with asyncio.timeout(PATIENCE_S):
                told = json.loads(await client.recv())
                await client.wait_closed()
            return [told["op"], str(client.close_code)]

    async with asyncio.TaskGroup() as tasks:
        knocking = [tasks.create_task(knock()) for _ in range(4)]
        staying = [tasks.create_task(stay()) for _ in range(8)]
        await eventually(lambda: outcomes["served"] > 20)
        fleet.parent.send(signal.SIGHUP)
        await eventually(lambda: "all gateway processes are new" in fleet.said())
        ended.set()
    assert all(task.done() for task in knocking)
    assert [task.result() for task in staying] == [["drain", "1012"]] * 8
    # A connection that its process had accepted as it began to drain is sent on with 503.
    assert outcomes["served"] > 50
    assert outcomes["503"] <= 8
    assert set(outcomes) <= {"served", "503"}
    assert not before & fleet.pids()
    assert await fleet.ready()


@pytest.mark.parametrize(("clients", "pause_s"), [(20, 0.0), (500, 0.1)])
async def test_rolling_restart_under_load_loses_and_doubles_nothing(
    fleet: Fleet, log: JetStreamLog, clients: int, pause_s: float
) -> None:
    """Subscribers move from process to process, few at full speed or many, and get all, once."""
    seqs, replaced = itertools.count(1), asyncio.Event()
    final = -1

    async def publish() -> None:
        while not replaced.is_set():
            await log.publish(SUBJECT, tick(next(seqs)))
            await asyncio.sleep(pause_s)

    async def consume(begun: asyncio.Event) -> tuple[list[tuple[str, int]], int]:
        seen: list[tuple[str, int]] = []
        subscriber = Subscriber(fleet.url, [PRODUCT], ["ticker"])
        async for update in subscriber:
            seen.append((update.op, update.link.seq))
            begun.set()
            if update.link.seq == final:
                break
        return seen, subscriber.connects

    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
        publishing = tasks.create_task(publish())
        begun = [asyncio.Event() for _ in range(clients)]
        consuming = [tasks.create_task(consume(event)) for event in begun]
        for event in begun:
            await event.wait()
        fleet.parent.send(signal.SIGHUP)
        await eventually(lambda: "all gateway processes are new" in fleet.said())
        replaced.set()
        await publishing
        final = next(seqs)
        await log.publish(SUBJECT, tick(final))
    for seen, connects in (task.result() for task in consuming):
        (op, first), *rest = seen
        assert op == "snapshot"
        assert rest == [("incr", seq) for seq in range(first + 1, final + 1)]
        assert connects >= 2


async def test_successor_that_does_not_get_ready_leaves_the_others_as_they_are(
    fleet: Fleet,
) -> None:
    """A new version that cannot start costs nothing."""
    before = fleet.pids()
    async with AsyncExitStack() as stack:
        client = await attached(fleet, stack)
        fleet.parent.send(signal.SIGHUP)
        await eventually(lambda: fleet.pids() - before)
        (successor,) = fleet.pids() - before
        os.kill(successor, signal.SIGKILL)
        await eventually(lambda: "the others stay as they are" in fleet.said())
        assert fleet.pids() == before
        assert await answers(client)
    assert await fleet.ready()


async def test_sigterm_drains_all_and_ends_with_0(fleet: Fleet) -> None:
    """Each process tells its own clients."""
    async with AsyncExitStack() as stack:
        clients = [await attached(fleet, stack) for _ in range(10)]
        fleet.parent.send(signal.SIGTERM)
        for client in clients:
            assert (await receive(client, 1))[0]["op"] == "drain"
        async with asyncio.timeout(PATIENCE_S):
            for client in clients:
                await client.wait_closed()
    assert {client.close_code for client in clients} == {1012}
    await eventually(lambda: fleet.parent.returncode is not None)
    assert fleet.parent.returncode == 0
    assert "Traceback" not in fleet.said()


async def test_second_sigterm_ends_all_at_once(fleet: Fleet) -> None:
    """The processes get the second signal too."""
    async with AsyncExitStack() as stack:
        client = await attached(fleet, stack)
        fleet.parent.send(signal.SIGTERM)
        assert (await receive(client, 1))[0]["op"] == "drain"
        await asyncio.sleep(SAME_ORDER_S + 0.1)  # what comes at once would count as one
        fleet.parent.send(signal.SIGTERM)
        await eventually(lambda: fleet.parent.returncode is not None)
    assert fleet.parent.returncode == 1


async def test_parent_that_is_killed_leaves_no_process_behind(fleet: Fleet) -> None:
    """They drain by themselves."""
    pids = fleet.pids()
    fleet.parent.kill()
    await eventually(lambda: not [pid for pid in pids if psutil.pid_exists(pid)])


async def test_second_fleet_on_the_same_port_is_refused_with_a_sentence(
    settings: Settings, fleet: Fleet, tmp_path: Path
) -> None:
    """Sharing a port is for siblings; a stranger must not take half of the clients."""
    env = {
        "NATS_URLS": settings.nats_urls[0],
        "GATEWAY_PORT": str(fleet.port),
        "GATEWAY_PROCESSES": "2",
    }
    command = [sys.executable, "-m", "workers.gateway"]
    with Process(command, tmp_path / "second.log", env) as second:
        await eventually(lambda: second.returncode is not None)
    assert second.returncode == 1
    assert "set GATEWAY_PORT" in second.log_file.read_text(encoding="utf-8")
