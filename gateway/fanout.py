"""uvicorn's sans-I/O WebSocket protocol with a way past ASGI for frames that are built already.

Gives the endpoint a `Sink` in `scope["extensions"]`. What the sink writes and what uvicorn
itself writes (handshake, pings, closes) go to the same transport at once, so the order of calls
is the order on the wire.
"""

from typing import Any

from uvicorn._types import ASGISendEvent
from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import Frame
from websockets.http11 import Request

from gateway.sink import Sink

EXTENSION = "ledgerflux.sink"
"""Key of the sink in `scope["extensions"]`."""


def fanout_protocol(max_client_bytes: int) -> type[WebSocketsSansIOProtocol]:
    """Return the protocol class to give uvicorn as `ws=`; clients may lag by so many bytes."""
    return type("FanoutProtocol", (FanoutProtocol,), {"max_client_bytes": max_client_bytes})


class FanoutProtocol(WebSocketsSansIOProtocol):
    """One client's connection."""

    max_client_bytes = 16 * 1024**2

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: Any = None,  # noqa: ANN401  # uvicorn's own signature
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._sink: Sink | None = None

    def handle_connect(self, event: Request) -> None:
        """Put the sink where the endpoint finds it; its task has not started yet."""
        super().handle_connect(event)
        if hasattr(self, "scope"):
            self._sink = Sink(self.transport, self.max_client_bytes, self.writable)
            extensions: dict[str, Any] = self.scope["extensions"]
            extensions[EXTENSION] = self._sink

    async def send(self, message: ASGISendEvent) -> None:
        """Send for the endpoint, and let go of the handshake once it is over."""
        await super().send(message)
        if message["type"] == "websocket.accept":
            # Headers of a request are several KB for as long as the connection lasts.
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

    # Nothing may follow a close frame, so each way to one takes the client out first.

    def handle_close(self, event: Frame) -> None:
        """Answer the client's close."""
        self._leave()
        super().handle_close(event)

    def handle_parser_exception(self) -> None:
        """Close on a breach of RFC 6455 or on a message beyond the hard limit."""
        self._leave()
        super().handle_parser_exception()

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
        super().connection_lost(exc)

    def _leave(self) -> None:
        if self._sink is not None:
            self._sink.close()
