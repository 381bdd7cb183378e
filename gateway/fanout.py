"""uvicorn's sans-I/O WebSocket protocol with a way past ASGI for frames that are built already.

Gives the endpoint a `Sink` in `scope["extensions"]`. What the sink writes and what uvicorn
itself writes (handshake, pings, closes) go to the same transport at once, so the order of calls
is the order on the wire.
"""

import asyncio
from typing import Any

from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import CloseCode, Frame
from websockets.http11 import Request

from gateway.deflate import OFFER_ANSWER, Deflater
from gateway.sink import Sink

EXTENSION = "ledgerflux.sink"
"""Key of the sink in `scope["extensions"]`."""

LINGER_S = 2.5
"""A client that is being closed may take so long to read what waits for it; then it is cut off."""

MAX_FRAGMENTS = 64
"""Fragments of a message that are kept apart; more are joined, so that empty ones cost nothing."""


def fanout_protocol(max_client_bytes: int) -> type[WebSocketsSansIOProtocol]:
    """Return the protocol class to give uvicorn as `ws=`; clients may lag by so many bytes."""
    shared = {"max_client_bytes": max_client_bytes, "deflater": Deflater()}
    return type("FanoutProtocol", (FanoutProtocol,), shared)


class Mailbox:
    """The part of a queue that a connection needs: one reader, and writers that never wait.

    Bounded by its writer, which does not read from the socket while an event is waiting.
    """

    __slots__ = ("_events", "_oldest_last", "_waiter")

    def __init__(self) -> None:
        self._events: list[ASGIReceiveEvent] = []
        self._oldest_last: list[ASGIReceiveEvent] = []
        self._waiter: asyncio.Future[None] | None = None

    def put_nowait(self, event: ASGIReceiveEvent) -> None:
        """Add an event."""
        self._events.append(event)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def get(self) -> ASGIReceiveEvent:
        """Take the oldest event; wait for one if there is none."""
        while self.empty():
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if not self._oldest_last:
            self._oldest_last = self._events[::-1]
            self._events = []
        return self._oldest_last.pop()

    def empty(self) -> bool:
        """Tell whether there is no event."""
        return not (self._events or self._oldest_last)


class FanoutProtocol(WebSocketsSansIOProtocol):
    """One client's connection. Its subclass has what all of a gateway's connections share."""

    max_client_bytes: int
    deflater: Deflater

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: Any = None,  # noqa: ANN401  # uvicorn's own signature
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        # asyncio's own is 3 KB a client, most of it for things that are not used here.
        self.queue = Mailbox()  # type: ignore[assignment]
        self.conn.available_extensions = [OFFER_ANSWER]
        self._sink: Sink | None = None
        self._lingering: asyncio.TimerHandle | None = None

    def handle_connect(self, event: Request) -> None:
        """Put the sink where the endpoint finds it; its task has not started yet."""
        super().handle_connect(event)
        if hasattr(self, "scope"):
            pack = self.deflater.deflate if self.conn.extensions else None
            self._sink = Sink(self.transport, self.max_client_bytes, self.writable, pack)
            self._sink.hang_up = self.hang_up
            extensions: dict[str, Any] = self.scope["extensions"]
            extensions[EXTENSION] = self._sink

    async def send(self, message: ASGISendEvent) -> None:
        """Send for the endpoint, and let go of the handshake once it is over."""
        await super().send(message)
        if message["type"] == "websocket.accept":
            # Headers of a request are several KB for as long as the connection lasts; the parser
            # keeps the request itself.
            self.request.headers.clear()
            del self.request, self.response
            self.scope["headers"] = []

    def pause_writing(self) -> None:
        """Note that the client lags."""
        super().pause_writing()
        if self._sink is not None:
            self._sink.pause()

    def resume_writing(self) -> None:
        """Note that the client has caught up."""
        super().resume_writing()
        if self._sink is not None:
            self._sink.resume()

    def handle_ping(self) -> None:
        """Answer a ping, unless the client does not read: its answers would pile up."""
        if self._sink is not None and self._sink.paused:
            self.conn.data_to_send()
        else:
            super().handle_ping()

    def handle_cont(self, event: Frame) -> None:
        """Take a further fragment; the bound of a message's bytes does not bound their number."""
        if len(self.frames) > MAX_FRAGMENTS:
            self.frames = [b"".join(self.frames)]
        super().handle_cont(event)

    def send_receive_event_to_app(self) -> None:
        """Hand a message to the endpoint, or close with 1007 if it is no UTF-8.

        uvicorn would log a traceback for each, which is the client's mistake and not ours.
        """
        if self.curr_msg_data_type == "text" and not self.close_sent:
            self.frames = [b"".join(self.frames)]
            try:
                self.frames[0].decode()
            except UnicodeDecodeError:
                self.frames = []
                self.conn.send_close(CloseCode.INVALID_DATA, "a text message must be UTF-8")
                self.handle_parser_exception()
                return
        super().send_receive_event_to_app()

    # Nothing may follow a close frame, so each way to one takes the client out first.

    def hang_up(self, code: int, reason: str) -> None:
        """Close from this side, behind all that has been written; `reason`: at most 123 bytes."""
        self._leave()
        if not (self.close_sent or self.transport.is_closing()):
            self.conn.send_close(code, reason)
            self._say_close()

    def handle_close(self, event: Frame) -> None:
        """Answer the client's close."""
        self._leave()
        super().handle_close(event)

    def handle_parser_exception(self) -> None:
        """Close on a breach of RFC 6455 or on a message beyond the hard limit."""
        self._leave()
        if self.conn.close_sent is None:
            self.transport.abort()  # it spoke before the handshake was over
        elif not (self.close_sent or self.transport.is_closing()):
            self._say_close()
            # What still comes is read and dropped: closing a socket with unread bytes would reset
            # the connection, and the client would never learn what it did wrong.
            self.transport.write_eof()

    def keepalive_timeout(self) -> None:
        """Drop a client that answers no ping; waiting for its buffer would keep it for ever."""
        self._leave()
        super().keepalive_timeout()
        self.transport.abort()

    def shutdown(self) -> None:
        """Close with 1012: the service restarts, come again."""
        self._leave()
        super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client."""
        self._leave()
        if self._lingering is not None:
            self._lingering.cancel()
        super().connection_lost(exc)

    def _say_close(self) -> None:
        """Write the close frame, end the endpoint, and give the client time to answer."""
        close = self.conn.close_sent
        assert close is not None  # noqa: S101  # by both callers
        self.queue.put_nowait(
            {"type": "websocket.disconnect", "code": close.code, "reason": close.reason}
        )
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(LINGER_S, self.transport.close)

    def _leave(self) -> None:
        """Let nothing more be written, and do not wait for ever until the client has read it."""
        if self._sink is not None:
            self._sink.close()
            if self._lingering is None:
                self._lingering = self.loop.call_later(LINGER_S, self.transport.abort)
