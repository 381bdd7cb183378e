"""A transport that a test drains by hand, and a reader of what came through it."""

import asyncio
import json
from typing import Any

from gateway.sink import Sink


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
        self.sink = Sink(self, max_bytes, asyncio.Event())

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

    def _arrive(self) -> None:
        self._arrived += self._waiting
        self._waiting.clear()

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
