"""`ledgerflux up` as a process: its command line, free ports for its parts, and what it prints."""

import re
import sys
from pathlib import Path

import psutil

from tests.servers import PATIENCE_S, Process, eventually, free_port

PORTS = ("gateway", "temporal-ui", "temporal", "nats", "s3", "sim", "metrics")


def metrics_base() -> int:
    """Return a port whose successors are free too: the workers' metrics need all."""
    for _ in range(50):
        port = free_port()
        if port < 65530 and not any(_taken(port + more) for more in range(1, 6)):
            return port
    raise AssertionError("no six free ports in a row")


def _taken(port: int) -> bool:
    return any(
        connection.laddr and connection.laddr.port == port
        for connection in psutil.net_connections("tcp")
    )


def command(ports: dict[str, int], *more: str) -> list[str]:
    """Return the command line with these ports."""
    options = [f"--{name}-port={port}" for name, port in ports.items()]
    return [sys.executable, "-m", "cli.main", "up", *options, *more]


def whole(ports: dict[str, int], root: Path, *, measured: bool = True) -> Process:
    """Return the whole system, which is still to be started."""
    options = ("--data-dir", str(root / "data"), "--rate", "200")
    return Process(command(ports, *options), root / "up.log", measured=measured)


async def told(stack: Process, words: str, within_s: float = PATIENCE_S) -> str:
    """Wait until the command has said something, and return all of it."""
    await eventually(lambda: words in stack.log_file.read_text(), within_s=within_s)
    return stack.log_file.read_text()


def pids(text: str) -> dict[str, int]:
    """Read the table of what runs where."""
    rows = re.findall(r"│ ([a-z0-9-]+) +│ .*│ +(\d+) │", text)
    return {name: int(pid) for name, pid in rows}
