"""uvicorn's HTTP protocol with bounds on how long a request may take to come, and on its headers.

Limits on connections count handshakes; somebody who connects and says nothing, or a byte now and
then, or headers without end, would have none.
"""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

REQUEST_WITHIN_S = 10.0
"""From the connection, or from its first byte, to the end of a request's headers."""

MAX_HEAD_BYTES = 64 * 1024
"""A request's line and headers may have so many bytes, and what one read brings beyond."""

_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"connection: close\r\ncontent-length: 0\r\n\r\n"
)


class PatientProtocol(HttpToolsProtocol):
    """One HTTP connection; ends with its first WebSocket handshake."""

    _giving_up: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Take what has come; refuse headers that have no end in sight."""
        waiting = self._giving_up is not None
        super().data_received(data)
        if not waiting or self._giving_up is None:
            self._head_bytes = 0
            return
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    def on_message_begin(self) -> None:
        """Wait for the rest of a request that has begun."""
        self._wait()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Stop waiting."""
        self._stop_waiting()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._stop_waiting()
        self._giving_up = self.loop.call_later(REQUEST_WITHIN_S, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._giving_up is not None:
            self._giving_up.cancel()
            self._giving_up = None
