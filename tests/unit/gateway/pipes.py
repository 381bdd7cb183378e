"""A transport that a test drains by hand, a loop that it turns by hand, and what came through."""

import asyncio
import heapq
import itertools
import json
from collections.abc import Callable
from typing import Any

from gateway.sink import Sink


class Turns:
    """An event loop's turns and clock, without a loop."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()
        self._now = 1000.0

    def call_soon(self, callback: Callable[[], None], /) -> None:
        self.soon.append(callback)

    def call_later(self, delay: float, callback: Callable[[], None], /) -> None:
        assert delay >= 0
        heapq.heappush(self._later, (self._now + delay, next(self._number), callback))

    def time(self) -> float:
        return self._now

    def end(self) -> None:
        """Do what a loop does at the end of a turn."""
        soon, self.soon = self.soon, []
        for callback in soon:
            callback()

    def pass_time(self, seconds: float) -> None:
        """Let time pass as work does: nothing is called meanwhile."""
        self._now += seconds

    def sleep(self, seconds: float) -> None:
        """Let time pass; whatever is due meanwhile is called at its time."""
        until = self._now + seconds
        while self._later and self._later[0][0] <= until:
            due, _, callback = heapq.heappop(self._later)
            self._now = max(self._now, due)
            callback()
            self.end()
        self._now = max(self._now, until)


class Pipe(asyncio.WriteTransport):
    """Keeps what is written until `drain`; pauses and resumes its sink as a socket would."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__()
        self._waiting = bytearray()
        self._arrived = bytearray()
        self._high = self._low = 0
        self._paused = False
        self.stuck = False
        self.most_waiting = 0
        self.closed_with: int | None = None
        self.sink = Sink(self, max_bytes, asyncio.Event())
        self.sink.hang_up = self._hang_up

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Take the bounds."""
        self._high, self._low = high or 0, low or 0

    def get_write_buffer_size(self) -> int:
        """Return what waits."""
        return len(self._waiting)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes; they arrive at once unless the client is stuck."""
        self._waiting += data
        if not self.stuck and not self._paused:
            self._arrive()
        self.most_waiting = max(self.most_waiting, len(self._waiting))
        if len(self._waiting) > self._high and not self._paused:
            self._paused = True
            self.sink.pause()

    def drain(self) -> None:
        """Let everything arrive."""
        self.stuck = False
        while self._waiting:
            self._arrive()
            if self._paused:
                self._paused = False
                self.sink.resume()

    def _hang_up(self, code: int, reason: str) -> None:
        assert len(reason.encode()) <= 123
        self.closed_with = code
        self.sink.close()

    def _arrive(self) -> None:
        self._arrived += self._waiting
        self._waiting.clear()

    def news(self) -> list[Any]:
        """Return the messages that have arrived since the last call of this."""
        found = self.messages()
        self._arrived.clear()
        return found

    def messages(self) -> list[Any]:
        """Take apart the frames that have arrived (RFC 6455, 5.2)."""
        data, found, at = bytes(self._arrived), [], 0
        while at < len(data):
            assert data[at] == 0x81
            size, at = data[at + 1], at + 2
            extra = {126: 2, 127: 8}.get(size, 0)
            if extra:
                size, at = int.from_bytes(data[at : at + extra]), at + extra
            found.append(json.loads(data[at : at + size]))
            at += size
        return found
