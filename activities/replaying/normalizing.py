"""The normalizers of a replay: in the process that publishes, and never too far behind."""

import asyncio
from collections import deque

from models.subjects import Streams
from streaming.broker.jetstream import JetStreamLog
from streaming.broker.outbox import Budget
from streaming.normalize import Normalizer


class Normalizing:
    """The normalizers of a replay, and how far each has come behind what is published."""

    def __init__(self, log: JetStreamLog, streams: Streams, max_lead_bytes: int) -> None:
        self._log, self._streams = log, streams
        self._lead = Budget(max_lead_bytes)
        self._waiting: dict[int, deque[tuple[int, int]]] = {}
        self._through = asyncio.Event()
        self._running: list[asyncio.Task[None]] = []
        self.normalizers: list[Normalizer] = []

    async def add(self, shard: int, normalizer: Normalizer, tasks: asyncio.TaskGroup) -> None:
        """Start the normalizer of a shard; what a go before has published may still wait for it."""
        waiting = self._waiting[shard] = deque()
        subjects = f"{self._streams.root}.raw.{shard}.>"
        for subject in await self._log.subjects(self._streams.raw, subjects):
            newest = await self._log.last(self._streams.raw, subject)
            if newest is not None:
                waiting.append((newest.seq, 0))
        self._waiting[shard] = deque(sorted(waiting))
        normalizer.on_applied = lambda seq: self._applied(shard, seq)
        self.normalizers.append(normalizer)
        self._running.append(tasks.create_task(normalizer.run(), name=f"normalizer {shard}"))

    async def publish(self, subject: str, seq: int, size: int) -> None:
        """Count a message in; wait while publishing is too far ahead."""
        waiting = self._waiting.get(int(subject.split(".", 3)[2])) if self._waiting else None
        if waiting is not None:
            waiting.append((seq, size))
            self._lead.take(size)
            await self._lead.room()

    def forget(self, last: int) -> None:
        """Count out what was never stored: everything behind a position."""
        for waiting in self._waiting.values():
            while waiting and waiting[-1][0] > last:
                self._lead.give(waiting.pop()[1])

    def _applied(self, shard: int, seq: int) -> None:
        waiting = self._waiting[shard]
        while waiting and waiting[0][0] <= seq:
            self._lead.give(waiting.popleft()[1])
        if not any(self._waiting.values()):
            self._through.set()

    async def finish(self) -> None:
        """Wait until everything is normalized and stored, and stop."""
        while any(self._waiting.values()):
            self._through.clear()
            await self._through.wait()
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)
        for normalizer in self.normalizers:
            await normalizer.flush()
            await normalizer.stop()
