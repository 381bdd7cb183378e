"""Natural batching: one writer per subject with at most one publish in flight.

What arrives while a publish is on its way goes into the next one: a single message when it is
quiet, many per message under load, with no timer. Order within the subject is kept.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from streaming.broker.log import Log
from streaming.tracing import TRACEPARENT, Step

MAX_BATCH_BYTES = 512 * 1024
"""A batch is closed when it has grown beyond this; a larger entry travels alone."""

POSITION_HEADER = "LF-Raw-Seq"
"""Position in MD_RAW up to which everything of this product has been consumed."""


class Budget:
    """Bytes that may wait in all outboxes of a process together."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._used = 0
        self._free = asyncio.Event()
        self._free.set()

    @property
    def used(self) -> int:
        """Bytes that wait now."""
        return self._used

    def take(self, size: int) -> None:
        """Count bytes in. Never refuses: callers wait for `room` between their bunches."""
        self._used += size
        if self._used > self._max_bytes:
            self._free.clear()

    def give(self, size: int) -> None:
        """Count bytes out."""
        self._used -= size
        if self._used <= self._max_bytes:
            self._free.set()

    async def room(self) -> None:
        """Wait until less than the bound is waiting."""
        await self._free.wait()


@dataclass(slots=True)
class _Batch:
    """Lines that travel together, their bytes with line breaks, and the newest position.

    `step`: what the message is published under, if it is traced.
    """

    lines: list[bytes] = field(default_factory=list)
    size: int = 0
    position: int = 0
    step: Step | None = None


class Outbox:
    """Writes NDJSON to one subject.

    Attributes: last, the position of the newest message written. With `fenced` every publish
    demands that it still is the newest one of the subject.
    """

    def __init__(
        self,
        log: Log,
        subject: str,
        tasks: asyncio.TaskGroup,
        budget: Budget,
        *,
        fenced_after: int | None = None,
        position: int = 0,
        on_stored: Callable[[int, int], None] | None = None,
        begin: Callable[[bytes], Step | None] | None = None,
    ) -> None:
        """Prepare.

        `fenced_after`: position of the subject's newest message, or none for no fence;
        `position`: the MD_RAW position that this message speaks for; `on_stored(position in the
        stream, MD_RAW position)` is called after each publish; `begin(first line)` is called
        before, and may begin the trace of that message.
        """
        self._log = log
        self._subject = subject
        self._tasks = tasks
        self._budget = budget
        self._fenced = fenced_after is not None
        self.last = fenced_after or 0
        self._position = position
        self._on_stored = on_stored
        self._begin = begin
        self._sealed: deque[_Batch] = deque()
        self._open = _Batch()
        self._task: asyncio.Task[None] | None = None

    def put(self, lines: bytes, position: int = 0) -> None:
        """Queue NDJSON without its final line break; never waits.

        `position`: MD_RAW is consumed up to here once these lines are stored.
        """
        size = len(lines)
        batch = self._open
        if batch.lines and batch.size + size > MAX_BATCH_BYTES:
            self._sealed.append(batch)
            batch = self._open = _Batch()
        batch.lines.append(lines)
        batch.size += size + 1
        batch.position = position
        self._budget.take(size + 1)
        if self._task is None:
            self._task = self._tasks.create_task(self._drain(), name=f"outbox {self._subject}")

    def follow(self, step: Step) -> None:
        """Publish what was queued last under this step, which ends once it is stored."""
        batch = self._open
        if batch.step is None:
            batch.step = step
        else:  # one message has one trace
            step.link(batch.step)
            step.end()

    @property
    def idle(self) -> bool:
        """Whether everything has been stored."""
        return self._task is None

    async def flush(self) -> None:
        """Wait until everything queued so far is stored."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _drain(self) -> None:
        try:
            while self._open.lines:
                if self._sealed:
                    batch = self._sealed.popleft()
                else:
                    batch, self._open = self._open, _Batch()
                await self._store(batch)
        finally:
            self._task = None

    async def _store(self, batch: _Batch) -> None:
        position = batch.position
        headers: Mapping[str, str] | None = None
        unfinished: Mapping[str, str] | None = None
        step = batch.step if self._begin is None else self._begin(batch.lines[0])
        if self._fenced:
            headers = {POSITION_HEADER: str(position)}
            unfinished = {POSITION_HEADER: str(self._position)}
        if step is not None:
            headers = {**(headers or {}), TRACEPARENT: step.header}
        self.last = await self._log.publish(
            self._subject,
            b"\n".join(batch.lines),
            headers=headers,
            unfinished=unfinished,
            expected_last=self.last if self._fenced else None,
        )
        self._position = position
        self._budget.give(batch.size)
        if step is not None:
            step.end(position=self.last, lines=len(batch.lines), bytes=batch.size)
        if self._on_stored is not None:
            self._on_stored(self.last, position)
