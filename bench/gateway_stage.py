"""Where the gateway's benchmarks play: the server under test has one core to itself.

nats-server, the publisher and all subscribers share the other core.
"""

import os
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from bench.gateway_load import PRODUCT, WITHIN_S, Connection, Publisher, Ticks
from tests.servers import NatsServer, Process, free_port

GATEWAY = ("workers.gateway",)
"""Module and arguments of the gateway; `bench.gateway_plain` has others to compare with."""

_LIMITS = {"WS_HANDSHAKES_PER_SEC": "100000", "WS_MAX_PER_ADDRESS": "100000", "LOG_LEVEL": "ERROR"}


@dataclass
class Stage:
    """A running server under test.

    Attributes: port, where it listens; publisher and ticks, its load.
    """

    port: int
    publisher: Publisher
    ticks: Ticks
    _process: psutil.Process

    def cpu_s(self) -> float:
        """Return how much processor time the server has used."""
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def waited_s(self) -> float:
        """Return how long the server had work while something else had its core."""
        _, waited_ns, _ = Path(f"/proc/{self._process.pid}/schedstat").read_text().split()
        return int(waited_ns) / 1e9

    def writes(self) -> int:
        """Return how many times the server has written to anything."""
        return int(self._process.io_counters().write_count)

    def rss_bytes(self) -> int:
        """Return the resident memory of the server."""
        return int(self._process.memory_info().rss)

    def metric(self, name: str) -> float:
        """Return one metric of the gateway."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics") as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith(f"{name} "):
                    return float(line.split()[1])
        raise AssertionError(f"the gateway has no metric {name}")


@contextmanager
def stage(server: Sequence[str] = GATEWAY, **env: str) -> Iterator[Stage]:
    """Run a server under test on a core of its own, with a log that holds one snapshot."""
    gateway_core, other_core = _two_cores()
    port = free_port()
    command = [sys.executable, "-m", server[0], *(word.format(port=port) for word in server[1:])]
    with TemporaryDirectory() as directory, ExitStack() as stack:
        root = Path(directory)
        stack.enter_context(_on_core(other_core))
        nats = stack.enter_context(NatsServer(root / "nats"))
        env = {"NATS_URLS": nats.url, "GATEWAY_PORT": str(port), **_LIMITS, **env}
        process = Process(command, root / "server.log", {"COINBASE_PRODUCTS": PRODUCT, **env})
        stack.callback(process.stop)
        with _on_core(gateway_core):
            process.start()
        stack.enter_context(_telling(process))
        probe = stack.enter_context(closing(_reach(port, process)))
        publisher = stack.enter_context(closing(Publisher(nats.port)))
        probe.subscribe(products=[PRODUCT], feeds=["ticker"], want_snapshot=False)
        ticks = Ticks(publisher)
        probe.receive()
        probe.close()
        yield Stage(port, publisher, ticks, psutil.Process(process.pid))


def _two_cores() -> tuple[int, int]:
    """Return the core of the server under test and the core of everything else."""
    cores = sorted(os.sched_getaffinity(0))
    assert len(cores) > 1, "the gateway's benchmarks need two cores: one of them is the gateway's"
    return cores[0], cores[1]


@contextmanager
def _on_core(core: int) -> Iterator[None]:
    """Run this process, and what it starts meanwhile, on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def _telling(process: Process) -> Iterator[None]:
    """Add to a failure what the server has logged."""
    try:
        yield
    except Exception as error:
        error.add_note(f"the server under test said: {process.log_file.read_text()[-4000:]}")
        raise


def _reach(port: int, process: Process) -> Connection:
    """Connect as soon as the server takes subscribers."""
    ends = time.monotonic() + WITHIN_S
    while True:
        try:
            return Connection(port)
        except (OSError, AssertionError):
            assert process.returncode is None, "the server under test has ended"
            assert time.monotonic() < ends, "the server under test takes nobody"
            time.sleep(0.05)
