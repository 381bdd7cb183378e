"""Several gateway processes on one port: started, kept alive, replaced one by one, stopped.

This parent serves nobody. It holds the sockets (`gateway.listening`), so that they outlive the
processes. SIGHUP replaces the processes one after the other: each successor is ready before its
predecessor drains, and whoever connects in between waits for neither. While a process that died
is started again, whoever connects is served by the others.
"""

import asyncio
import signal
import sys
from collections.abc import Sequence

import structlog

from gateway.drain import drain_bound_s
from gateway.listening import Place, places
from models.settings import Settings
from workers.process import die_with_parent

READY = b"ready\n"
"""What a gateway process says on its standard output, once, when it can serve."""

HAND_OVER = signal.SIGHUP
"""Tells a gateway process that its successor is ready: stop accepting, drain, end."""

READY_WITHIN_S = 60.0
"""A successor that is not ready after so long is given up; its predecessor stays."""

_RESTART_FIRST_S = 0.1
_RESTART_MAX_S = 5.0
_STEADY_S = 30.0
_END_MARGIN_S = 1.0
_AT_ONCE_S = 2.0

_log = structlog.get_logger(__name__)


class Member:
    """One of the processes, or rather its place: the process in it changes."""

    def __init__(self, place: Place, end_within_s: float) -> None:
        """Take a place; a process that is to end and has not within `end_within_s` is killed."""
        self.place = place
        self._end_within_s = end_within_s
        self._changing = asyncio.Lock()
        self._current: asyncio.subprocess.Process | None = None
        self._ready: asyncio.subprocess.Process | None = None
        self._alive: set[asyncio.subprocess.Process] = set()

    @property
    def serves(self) -> bool:
        """Tell whether there is a process here that got ready."""
        return self._ready is not None and self._ready.returncode is None

    async def keep(self, others: Sequence["Member"]) -> None:
        """Have a process in this place for ever, with a growing pause while it keeps failing.

        While one of the `others` serves, nobody is sent here before the process is ready.
        """
        loop, pause_s = asyncio.get_running_loop(), _RESTART_FIRST_S
        options: list[str] = []
        while True:
            async with self._changing:
                if self._current is None or self._current.returncode is not None:
                    self._current = await self._spawn(*options)
            process, began = self._current, loop.time()
            if process is not self._ready and await _says_ready(process):
                self._ready = process
            status = await process.wait()
            self._alive.discard(process)
            if process is not self._current:
                continue  # it has been replaced
            options = []
            if any(other.serves for other in others):
                self.place = self.place.anew()
                options = ["--waits"]
            pause_s = _RESTART_FIRST_S if loop.time() - began > _STEADY_S else pause_s
            _log.error(
                "a gateway process has ended and is started again",
                process=self.place.index,
                status=status,
                pause_s=pause_s,
            )
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _RESTART_MAX_S)

    async def replace(self) -> bool:
        """Put a new process in the old one's place; tell whether that succeeded."""
        async with self._changing:
            successor = await self._spawn("--waits")
            if not await _ready_in_time(successor):
                await self._end(successor, signal.SIGTERM)
                return False
            predecessor, self._current = self._current, successor
            self._ready = successor
        if predecessor is not None:
            await self._end(predecessor, HAND_OVER)
        return True

    async def stop(self) -> None:
        """End every process of this place; cancelling this ends them at once."""
        try:
            await self._end_all(signal.SIGTERM)
        except asyncio.CancelledError:
            self._end_within_s = _AT_ONCE_S
            await self._end_all(signal.SIGTERM)  # the second one, so it does not drain
            raise

    async def _spawn(self, *options: str) -> asyncio.subprocess.Process:
        sockets = [taken.fileno() for taken in self.place.sockets]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "workers.gateway", "--index", str(self.place.index)),
            *("--sockets", ",".join(map(str, sockets)), *options),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=sockets,
            start_new_session=True,  # a Ctrl-C at the terminal reaches only the parent
            preexec_fn=die_with_parent,
        )
        self._alive.add(process)
        return process

    async def _end_all(self, order: signal.Signals) -> None:
        async with asyncio.TaskGroup() as ending:
            for process in self._alive:
                ending.create_task(self._end(process, order))

    async def _end(self, process: asyncio.subprocess.Process, order: signal.Signals) -> None:
        """Order a process to end, and kill it when it does not."""
        if process.returncode is None:
            process.send_signal(order)
        try:
            async with asyncio.timeout(self._end_within_s):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        self._alive.discard(process)


async def gateways(settings: Settings, stop: asyncio.Event) -> None:
    """Keep GATEWAY_PROCESSES gateway processes until `stop` is set, then drain them all.

    Raises:
        AddressInUseError: a port is taken.
    """
    again = asyncio.Event()
    end_within_s = drain_bound_s(settings) + _END_MARGIN_S
    members = [Member(place, end_within_s) for place in places(settings)]
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, again.set)
    _log.info("gateways listen", url=members[0].place.url, processes=len(members))
    tasks = [
        asyncio.create_task(member.keep([other for other in members if other is not member]))
        for member in members
    ]
    tasks.append(asyncio.create_task(_replace_all(members, again)))
    try:
        await _first_of(tasks, stop)
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for member in members:
            member.place.close()
        # A group, since `gather` would not wait for all when it is cancelled.
        async with asyncio.TaskGroup() as stopping:
            for member in members:
                stopping.create_task(member.stop())


async def _first_of(tasks: list[asyncio.Task[None]], stop: asyncio.Event) -> None:
    """Wait for the order to stop; what ends before it has failed, and raises here."""
    stopping = asyncio.create_task(stop.wait())
    try:
        done, _ = await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        stopping.cancel()


async def _replace_all(members: list[Member], again: asyncio.Event) -> None:
    """Replace all, one after the other, whenever `again` is set."""
    while True:
        await again.wait()
        again.clear()
        _log.info("replacing the gateway processes, one after the other")
        for member in members:
            if not await member.replace():
                _log.error(
                    "the new gateway process did not get ready: the others stay as they are",
                    process=member.place.index,
                )
                break
        else:
            _log.info("all gateway processes are new")


async def _ready_in_time(process: asyncio.subprocess.Process) -> bool:
    """Wait until a process can serve; false if it ends or takes too long."""
    try:
        async with asyncio.timeout(READY_WITHIN_S):
            return await _says_ready(process)
    except TimeoutError:
        return False


async def _says_ready(process: asyncio.subprocess.Process) -> bool:
    """Wait until a process can serve; false if it ends before."""
    assert process.stdout is not None  # noqa: S101  # as spawned
    return await process.stdout.readline() == READY
