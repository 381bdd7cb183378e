"""Child processes of the embedded stack: started in order, kept alive, stopped in reverse.

Each child has a session of its own, so a Ctrl-C at the terminal reaches only us and we decide
the order; and each dies with us, however we die.
"""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from workers.process import die_with_parent

STOP_WITHIN_S = 10.0
"""A child that is still there so long after SIGTERM is killed."""

READY_WITHIN_S = 60.0
"""A child that is not ready after so long is a failure."""

MAX_LOG_BYTES = 64 * 1024**2
"""A log file beyond this is moved aside (one generation) when its process starts."""

_RESTART_FIRST_S = 0.1
_RESTART_MAX_S = 5.0
_STEADY_S = 30.0


class ServiceError(Exception):
    """A service could not be started. The text says which, why, and where its log is."""


@dataclass(slots=True)
class Service:
    """One process of the stack.

    `ready` returns once the service can be used; `address` and `note` are for the table.
    """

    name: str
    command: Sequence[str]
    ready: Callable[[], Awaitable[None]]
    env: Mapping[str, str] = field(default_factory=dict)
    address: str = ""
    note: str = ""


class Child:
    """A service that is kept running until it is told to stop."""

    def __init__(self, service: Service, logs: Path) -> None:
        self.service = service
        self.log_file = logs / f"{service.name}.log"
        self.restarts = 0
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False
        self._keeper: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the present run."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Start it and wait until it is ready.

        Raises:
            ServiceError: it ended, or was not ready in time.
        """
        if self.log_file.exists() and self.log_file.stat().st_size > MAX_LOG_BYTES:
            self.log_file.replace(self.log_file.with_suffix(".log.1"))
        process = await self._spawn()
        ended = asyncio.ensure_future(process.wait())
        ready = asyncio.ensure_future(_await(self.service.ready))
        try:
            await asyncio.wait(
                [ended, ready], timeout=READY_WITHIN_S, return_when=asyncio.FIRST_COMPLETED
            )
            if not ready.done() or ready.exception() is not None:
                raise ServiceError(self._explain(process.returncode))
        finally:
            ended.cancel()
            ready.cancel()
        self._keeper = asyncio.create_task(self._keep(), name=f"keep {self.service.name}")

    async def _spawn(self) -> asyncio.subprocess.Process:
        with self.log_file.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self.service.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **self.service.env},
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        return self._process

    def _explain(self, status: int | None) -> str:
        how = "is not ready yet" if status is None else f"ended with status {status}"
        return f"{self.service.name} {how}: {_last_line(self.log_file)} (log: {self.log_file})"

    async def _keep(self) -> None:
        """Start it again whenever it ends, with a growing pause while it keeps failing."""
        loop, pause_s = asyncio.get_running_loop(), _RESTART_FIRST_S
        while True:
            assert self._process is not None  # noqa: S101  # set by `start`
            began = loop.time()
            await self._process.wait()
            if self._stopping:
                return
            pause_s = _RESTART_FIRST_S if loop.time() - began > _STEADY_S else pause_s
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _RESTART_MAX_S)
            self.restarts += 1
            await self._spawn()

    async def stop(self) -> None:
        """Ask it to stop, and kill it when it does not."""
        self._stopping = True
        process = self._process
        if process is not None and process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(STOP_WITHIN_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])


class Supervisor:
    """The children, in the order in which they were started."""

    def __init__(self, logs: Path) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        self.logs = logs
        self.children: list[Child] = []

    async def start(self, services: Sequence[Service]) -> None:
        """Start services at the same time and wait until all are ready.

        Raises:
            ServiceError: one could not be started; the others are left for `stop`.
        """
        children = [Child(service, self.logs) for service in services]
        self.children += children
        results = await asyncio.gather(
            *(child.start() for child in children), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def stop(self) -> None:
        """Stop all, the last started first, each before the next."""
        while self.children:
            await self.children.pop().stop()


async def _await(ready: Callable[[], Awaitable[None]]) -> None:
    await ready()


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
    return lines[-1][:500] if lines else "it said nothing"
