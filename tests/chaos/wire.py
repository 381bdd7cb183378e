"""A wire between two parts that can be cut, be slow, or be away.

Transports instead of streams, since all data of the stack goes through wires on the same two
cores: a chunk costs one call in and one out.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self, cast

_LATE_CHUNKS = 1000
"""Chunks that one direction of a slow connection holds before it stops reading."""


class Wire:
    """Passes connections on to a port.

    Attributes: port; delay_s, by which every chunk is late; connections, how many there are.
    """

    def __init__(self, target: int) -> None:
        self.port = 0
        self.delay_s = 0.0
        self._target, self._away = target, False
        self._near: set[_End] = set()
        self._connecting: set[asyncio.Task[None]] = set()

    @property
    def connections(self) -> int:
        return len(self._near)

    def cut(self) -> None:
        """Cut every connection, in whatever it is doing; new ones are passed on."""
        for end in tuple(self._near):
            end.abort()

    def leave(self) -> None:
        """Cut every connection, and refuse new ones until `back`."""
        self._away = True
        self.cut()

    def back(self) -> None:
        """Pass connections on again."""
        self._away = False

    def opened(self, near: "_End") -> None:
        """Take a connection, and connect to the target for it."""
        if self._away:
            near.abort()
            return
        self._near.add(near)
        connecting = asyncio.create_task(self._connect(near))
        self._connecting.add(connecting)
        connecting.add_done_callback(self._connecting.discard)

    def closed(self, near: "_End") -> None:
        """Forget a connection."""
        self._near.discard(near)

    async def _connect(self, near: "_End") -> None:
        loop, far = asyncio.get_running_loop(), _End(self)
        try:
            await loop.create_connection(lambda: far, "127.0.0.1", self._target)
        except OSError:
            near.abort()
        else:
            near.join(far)


class _End(asyncio.Protocol):
    """One end of a connection; what it reads its peer writes."""

    def __init__(self, wire: Wire, *, near: bool = False) -> None:
        self._wire, self._is_near = wire, near
        self._peer: Self | None = None
        self._made: asyncio.Transport | None = None
        self._late: deque[tuple[float, bytes]] = deque()
        self._loop = asyncio.get_running_loop()

    @property
    def transport(self) -> asyncio.Transport | None:
        """The connection while it is open."""
        return None if self._made is None or self._made.is_closing() else self._made

    @property
    def there(self) -> asyncio.Transport | None:
        """The peer's connection while that is open."""
        return None if self._peer is None else self._peer.transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._made = cast("asyncio.Transport", transport)  # uvloop's only looks like one
        if self._is_near:
            self._wire.opened(self)

    def join(self, far: Self) -> None:
        """Pass on what has come, and what will, unless either has ended already."""
        self._peer, far._peer = far, self
        if self.transport is None or far.transport is None:
            self.abort()
        else:
            self._pass_due()
            far._pass_due()

    def abort(self) -> None:
        """End both ends at once."""
        for transport in (self.transport, self.there):
            if transport is not None:
                transport.abort()

    def data_received(self, data: bytes) -> None:
        delay_s = self._wire.delay_s
        if self._peer is not None and not delay_s and not self._late:
            self._pass_on(data)
            return
        self._late.append((self._loop.time() + delay_s, data))
        if len(self._late) == 1:
            self._loop.call_later(delay_s, self._pass_due)
        elif len(self._late) >= _LATE_CHUNKS and self.transport is not None:
            self.transport.pause_reading()

    def pause_writing(self) -> None:
        if self.there is not None:
            self.there.pause_reading()

    def resume_writing(self) -> None:
        if self.there is not None:
            self.there.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._made = None
        if self._is_near:
            self._wire.closed(self)
        if self.there is None:
            return
        if error is None and not self._late:
            self.there.close()
        else:
            self.there.abort()

    def _pass_on(self, data: bytes) -> None:
        if self.there is not None:
            self.there.write(data)

    def _pass_due(self) -> None:
        """Pass on what is due, in order, whatever the delay is by now."""
        if self._peer is None:
            return  # `join` comes back to it
        now = self._loop.time()
        while self._late and self._late[0][0] <= now:
            self._pass_on(self._late.popleft()[1])
        if self._late:
            self._loop.call_at(self._late[0][0], self._pass_due)
        if self.transport is not None:
            self.transport.resume_reading()


@asynccontextmanager
async def wired(target: int) -> AsyncIterator[Wire]:
    """Give a wire to a port."""
    wire, loop = Wire(target), asyncio.get_running_loop()
    server = await loop.create_server(lambda: _End(wire, near=True), "127.0.0.1", 0)
    wire.port = server.sockets[0].getsockname()[1]
    try:
        yield wire
    finally:
        server.close()
        wire.cut()
        await server.wait_closed()
