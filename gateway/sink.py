"""One connection's way out: raw bytes to its transport, and whether the client keeps up.

Owns the byte bound of a client. Decides nothing: `hub` asks and conflates. `fanout` creates it
and tells it what the transport reports.
"""

import asyncio
from collections.abc import Callable


def _nothing() -> None:
    """Do nothing: the default of a callback."""


def _drop(_data: bytes) -> None:
    """Write nothing: nothing may follow a close frame."""


class Sink:
    """Writes whole frames, in the order of the calls.

    Attributes: write, the transport's own if it can be; paused, more than the bound is waiting;
    room, set while it is not; on_drained, called when that is over; on_closed, called once when
    nothing more may be written; hang_up, closes with a code and a reason behind all that was
    written.
    """

    __slots__ = (
        "_limit_bytes",
        "_max_bytes",
        "_transport",
        "hang_up",
        "on_closed",
        "on_drained",
        "paused",
        "room",
        "write",
    )

    def __init__(
        self,
        transport: asyncio.WriteTransport,
        max_bytes: int,
        room: asyncio.Event,
        pack: Callable[[bytes], bytes] | None = None,
    ) -> None:
        """Take a transport; `max_bytes` may wait in it before the client counts as slow.

        `room` is set while the client is not paused; `pack` is applied to all that is written.
        """
        self.room = room
        self._transport = transport
        self._max_bytes = max_bytes
        self._limit_bytes = max_bytes
        self.write: Callable[[bytes], None] = transport.write
        if pack is not None:
            self.write = lambda frames: transport.write(pack(frames))
        self.paused = False
        self.on_drained: Callable[[], None] = _nothing
        self.on_closed: Callable[[], None] = _nothing
        self.hang_up: Callable[[int, str], None] = lambda _code, _reason: transport.close()
        transport.set_write_buffer_limits(high=max_bytes, low=max_bytes // 4)

    @property
    def overfull(self) -> bool:
        """Whether more is waiting than this client is allowed."""
        return self.paused and self._transport.get_write_buffer_size() > self._limit_bytes

    def allow_waiting(self) -> None:
        """Let what waits now stay out of the account until it has drained.

        A snapshot may exceed the bound by itself; counting it would conflate its receiver at
        once, send the next snapshot, and so on for ever.
        """
        if self.paused:
            waiting = self._transport.get_write_buffer_size()
            self._limit_bytes = self._max_bytes + waiting

    def pause(self) -> None:
        """Note that the transport holds more than the bound."""
        self.paused = True

    def resume(self) -> None:
        """Note that the transport has drained."""
        self.paused = False
        self._limit_bytes = self._max_bytes
        self.on_drained()

    def close(self) -> None:
        """Note that the connection is ending; may be called again."""
        closed, self.on_closed, self.on_drained = self.on_closed, _nothing, _nothing
        self.write = _drop
        closed()
