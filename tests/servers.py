"""Real servers for tests: started from the wheels on free ports, stopped and killed at will."""

import asyncio
import os
import random
import signal
import socket
import subprocess
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from streaming.broker.server import nats_command
from workers.process import die_with_parent

# Ports for servers lie below the range from which the kernel gives ports to clients, and each
# process of a parallel test run has a part of its own: nobody takes one before its server is up.
_FIRST, _PARTS, _PART = 10_000, 8, 2_500
PATIENCE_S = 90.0
"""Bounds a wait that ends by an event: on a slow and busy machine too it is never reached."""

_part = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _PARTS
_next = random.randrange(_PART)


def free_ports(count: int) -> int:
    """Return the first of so many ports in a row that nothing listens on."""
    global _next  # noqa: PLW0603  # the same port is not handed out twice in a row
    for _ in range(_PART):
        first = _FIRST + _part * _PART + _next
        _next = (_next + count) % (_PART - count)
        try:
            with ExitStack() as taken:
                for port in range(first, first + count):
                    taken.enter_context(socket.create_server(("127.0.0.1", port)))
        except OSError:
            continue
        return first
    raise AssertionError(f"no {count} free ports in a row")


def free_port() -> int:
    """Return a port that nothing listens on."""
    return free_ports(1)


async def eventually(
    check: Callable[[], object | Awaitable[object]], *, within_s: float = PATIENCE_S
) -> None:
    """Wait until `check` is true; it raises or returns false until then.

    It is asked often at first and ever less often, down to ten times a second.

    Raises:
        AssertionError: it never became true; what it last raised is the cause.
    """
    deadline = asyncio.get_running_loop().time() + within_s
    failure: Exception | None = None
    pause_s = 0.01
    while asyncio.get_running_loop().time() < deadline:
        try:
            result = check()
            if isinstance(result, Awaitable):
                result = await result
            failure = None
            if result:
                return
        except (AssertionError, OSError) as error:
            failure = error
        await asyncio.sleep(pause_s)
        pause_s = min(0.1, 1.3 * pause_s)
    raise AssertionError(f"not true within {within_s} s") from failure


async def port_open(port: int, *, within_s: float = PATIENCE_S) -> None:
    """Wait until something listens on the port."""

    async def check() -> bool:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        await writer.wait_closed()
        return True

    await eventually(check, within_s=within_s)


class Process:
    """A child process in a session of its own, with its output in a file."""

    def __init__(
        self,
        command: Sequence[str],
        log_file: Path,
        env: dict[str, str] | None = None,
        *,
        measured: bool = True,
    ) -> None:
        """Prepare; without `measured` the child is not slowed by counting its coverage."""
        self._command = list(command)
        self.log_file = log_file
        self._env = {
            name: value
            for name, value in {**os.environ, **(env or {})}.items()
            if measured or not name.startswith("COVERAGE_PROCESS")
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, again if need be."""
        with self.log_file.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603
                self._command,
                stdout=output,
                stderr=output,
                env=self._env,
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509  # a killed test leaves nothing behind
            )

    @property
    def pid(self) -> int:
        """Process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit status, or none while it runs."""
        return None if self._process is None else self._process.poll()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def ask(self, number: signal.Signals) -> None:
        """Send it a signal if it runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """Kill it as `kill -9` does."""
        self.ask(signal.SIGKILL)
        self.wait()

    def stop(self, within_s: float = PATIENCE_S) -> int:
        """Ask it to stop and return its exit status; kill it when it does not."""
        self.ask(signal.SIGTERM)
        return self.wait(within_s)

    def wait(self, within_s: float = PATIENCE_S) -> int:
        """Wait until it has ended and return its exit status; kill it when it does not end."""
        if self._process is not None:
            try:
                self._process.wait(within_s)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        return self.returncode or 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def stop_together(processes: Iterable[Process], within_s: float = PATIENCE_S) -> None:
    """Ask all to stop at once, and wait for each; kill those that do not."""
    asked = list(processes)
    for process in asked:
        process.ask(signal.SIGTERM)
    for process in asked:
        process.wait(within_s)


class Server(Process):
    """One whose data nobody needs when its test is over: it is killed then, which takes no time."""

    def __exit__(self, *_: object) -> None:
        self.kill()


class NatsServer(Server):
    """A nats-server with JetStream and the project's own configuration."""

    def __init__(self, data_dir: Path) -> None:
        self.port = free_port()
        self.data_dir = data_dir
        super().__init__(nats_command(data_dir, self.port), data_dir / "nats.log")

    @property
    def url(self) -> str:
        """Address for clients."""
        return f"nats://127.0.0.1:{self.port}"
