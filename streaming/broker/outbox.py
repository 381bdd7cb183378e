"""Natural batching: one writer per subject with at most one publish in flight.

What arrives while a publish is on its way goes into the next one: a single message when it is
quiet, many per message under load, with no timer. Order within the subject is kept.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping

from streaming.broker.log import Log

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
    ) -> None:
        """Prepare.

        `fenced_after`: position of the subject's newest message, or none for no fence;
        `position`: the MD_RAW position that this message speaks for; `on_stored(position in the
        stream, MD_RAW position)` is called after each publish.
        """
        self._log = log
        self._subject = subject
        self._tasks = tasks
        self._budget = budget
        self._fenced = fenced_after is not None
        self.last = fenced_after or 0
        self._position = position
        self._on_stored = on_stored
        self._waiting: deque[tuple[bytes, int]] = deque()
        self._task: asyncio.Task[None] | None = None

    def put(self, lines: bytes, position: int = 0) -> None:
        """Queue NDJSON without its final line break; never waits.

        `position`: MD_RAW is consumed up to here once these lines are stored.
        """
        self._waiting.append((lines, position))
        self._budget.take(len(lines))
        if self._task is None:
            self._task = self._tasks.create_task(self._drain(), name=f"outbox {self._subject}")

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
            while self._waiting:
                payload, position = self._batch()
                await self._store(payload, position)
        finally:
            self._task = None

    def _batch(self) -> tuple[bytes, int]:
        """Take what waits, up to the batch bound."""
        waiting = self._waiting
        lines, position = waiting.popleft()
        if not waiting or len(lines) >= MAX_BATCH_BYTES:
            return lines, position
        batch, size = [lines], len(lines)
        while waiting and size + len(waiting[0][0]) < MAX_BATCH_BYTES:
            lines, position = waiting.popleft()
            batch.append(lines)
            size += len(lines) + 1
        joined = b"\n".join(batch)
        # Joining adds line breaks that the budget has never seen.
        self._budget.take(len(batch) - 1)
        return joined, position

    async def _store(self, payload: bytes, position: int) -> None:
        headers: Mapping[str, str] | None = None
        unfinished: Mapping[str, str] | None = None
        if self._fenced:
            headers = {POSITION_HEADER: str(position)}
            unfinished = {POSITION_HEADER: str(self._position)}
        self.last = await self._log.publish(
            self._subject,
            payload,
            headers=headers,
            unfinished=unfinished,
            expected_last=self.last if self._fenced else None,
        )
        self._position = position
        self._budget.give(len(payload))
        if self._on_stored is not None:
            self._on_stored(self.last, position)
