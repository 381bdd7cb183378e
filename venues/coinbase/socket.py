"""One WebSocket as the feed needs it: whole text messages as bytes, called back in order.

Owns framing above picows (fragments, permessage-deflate, the cap) and the closing handshake; knows
nothing of the venue. What a message means, and when to connect, is in feed.py.

picows' own `websockets`-like layer goes on decoding after a message beyond the cap, with a broken
compression context; here nothing is delivered once a connection has failed.
"""

import asyncio
import socket
import zlib
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from typing import Final

from picows import (
    WSCloseCode,
    WSError,
    WSFrame,
    WSListener,
    WSMsgType,
    WSParsedURL,
    WSTransport,
    WSUpgradeRequest,
    WSUpgradeResponse,
    ws_connect,
)

from venues.coinbase.addresses import proxy_for

OFFER: Final = ("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits")
"""The compression that is offered (RFC 7692); what we send ourselves stays plain, as it may."""

HANG_UP_S: Final = 1.0
"""How long a connect that was given up may take to end."""

_TAIL: Final = b"\x00\x00\xff\xff"
_EXTENSION: Final = "permessage-deflate"


class MessageFault(Enum):
    """Why a message could not be delivered."""

    TOO_BIG = "frame_too_big"
    """Beyond the cap; the connection is closed, since the rest of it may follow."""
    BINARY = "binary_frame"
    """Not text; the connection stays."""
    NOT_UTF8 = "bad_utf8"
    """Text that is none; the connection stays, so that nothing good is lost with it."""
    BROKEN = "broken_frame"
    """Against the protocol; the connection is closed."""

    @property
    def is_final(self) -> bool:
        """Tell whether the connection ends with it."""
        return self in (MessageFault.TOO_BIG, MessageFault.BROKEN)


class Inflater:
    """Undoes permessage-deflate for one connection (RFC 7692)."""

    def __init__(self, extension: str) -> None:
        """Take the venue's answer to the offer; without deflate in it nothing is compressed."""
        self.agreed = _EXTENSION in extension
        self._fresh = "server_no_context_takeover" in extension
        self._stream = zlib.decompressobj(wbits=-zlib.MAX_WBITS)

    def inflate(self, data: bytes, limit: int) -> bytes | None:
        """Return the whole message, or nothing when it is longer than `limit`.

        Raises:
            zlib.error: `data` is not compressed text.
        """
        if self._fresh:
            self._stream = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
        inflated = self._stream.decompress(data + _TAIL, limit + 1)
        return inflated if len(inflated) <= limit else None


class FeedSocket(WSListener):
    """Collects messages from frames and hands each on, until the connection ends or fails.

    `on_text` is called for each text message, `on_fault` for each that could not be delivered.
    """

    def __init__(
        self,
        max_bytes: int,
        on_open: Callable[[], None],
        on_text: Callable[[bytes], None],
        on_fault: Callable[[MessageFault, str], None],
    ) -> None:
        self.ended = asyncio.Event()
        """Set when the connection is gone."""
        self.failure: Exception | None = None
        """What a callback raised, if one did; nothing is delivered after it."""
        self._max_bytes = max_bytes
        self._on_open = on_open
        self._on_text = on_text
        self._on_fault = on_fault
        self._transport: WSTransport | None = None
        self._inflater = Inflater("")
        self._parts: list[bytes] = []
        self._parts_bytes = 0
        self._first: WSMsgType | None = None
        self._compressed = False
        self._deaf = False
        self._dialled: socket.socket | None = None

    async def connect(self, url: str, timeout_s: float) -> None:
        """Connect and upgrade; `on_open` is called before the first message can arrive.

        Raises:
            OSError: nothing answered, or not in time.
            picows.WSError: something answered, but not with an upgrade.
        """
        connecting = asyncio.ensure_future(self._upgrade(url, timeout_s))
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(connecting)
        finally:
            if not connecting.done():
                await self._hang_up(connecting)

    async def _upgrade(self, url: str, timeout_s: float) -> None:
        _, listener = await ws_connect(
            self._upgraded,
            url,
            websocket_handshake_timeout=timeout_s,
            max_frame_size=min(self._max_bytes, 2**31 - 1),
            extra_headers=[OFFER, ("User-Agent", "ledgerflux")],
            proxy=proxy_for(url),
            socket_factory=self._dial,
        )
        if listener is None:  # picows' way to say so
            raise ConnectionError("the venue closed the connection during the handshake")

    async def _dial(self, address: WSParsedURL) -> socket.socket:
        """Connect to the first address of a name that answers."""
        loop = asyncio.get_running_loop()
        failure: OSError | None = None
        for family, kind, protocol, _, place in await loop.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM
        ):
            dialled = socket.socket(family, kind, protocol)
            dialled.setblocking(False)
            try:
                await loop.sock_connect(dialled, place)
            except BaseException as error:
                dialled.close()
                if not isinstance(error, OSError):
                    raise
                failure = error
            else:
                self._dialled = dialled
                return dialled
        raise failure or OSError(f"{address.host} has no address")

    async def _hang_up(self, connecting: "asyncio.Future[None]") -> None:
        """Give up a connect in any of its stages, and leave no socket behind.

        Cancelling picows during a handshake would leave its transport open; a shut socket makes the
        transport end by itself.
        """
        if self._dialled is None:
            connecting.cancel()
        else:
            with suppress(OSError):
                self._dialled.shutdown(socket.SHUT_RDWR)
        await asyncio.wait([connecting], timeout=HANG_UP_S)
        if not connecting.cancel() and not connecting.cancelled():
            connecting.exception()

    def send(self, text: str) -> None:
        """Send one text message."""
        if self._transport is not None:
            self._transport.send(WSMsgType.TEXT, text.encode())

    def pause(self) -> None:
        """Read nothing more from the network; what has been read is still delivered."""
        if self._transport is not None:
            self._transport.underlying_transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._transport is not None:
            self._transport.underlying_transport.resume_reading()

    async def close(self, within_s: float) -> None:
        """Close politely, and after `within_s` in any case; deliver nothing more."""
        self._deaf = True
        if self._transport is None:
            return
        if not self.ended.is_set():
            self._transport.send_close(WSCloseCode.OK)
            self.resume()
        try:
            async with asyncio.timeout(within_s):
                await self._gone(self._transport)
        except TimeoutError:
            pass
        finally:
            self._transport.disconnect(graceful=False)

    async def _gone(self, transport: WSTransport) -> None:
        """Wait for the end; what picows raises here has been told as a fault already."""
        with suppress(WSError):
            await transport.wait_disconnected()

    @property
    def end_reason(self) -> str:
        """Say how the connection ended, in a few words."""
        handshake = self._transport.close_handshake if self._transport is not None else None
        if handshake is None or handshake.recv is None:
            return "connection lost"
        code = handshake.recv.code
        number = code.value if isinstance(code, Enum) else code
        return f"closed by the venue: {number} {handshake.recv.reason or ''}".rstrip()

    def _upgraded(self, _: WSUpgradeRequest, response: WSUpgradeResponse) -> WSListener:
        self._inflater = Inflater(response.headers.get("Sec-WebSocket-Extensions", ""))
        return self

    # What picows calls

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Begin."""
        self._transport = transport
        self._guarded(self._on_open)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """End; picows itself closes when a frame's header breaks the protocol or the cap."""
        handshake = transport.close_handshake
        ours = handshake.sent if handshake is not None and not handshake.recv_then_sent else None
        if ours is not None and not self._deaf:
            if ours.code == WSCloseCode.MESSAGE_TOO_BIG:
                self._guarded(self._too_big)
            else:
                self._guarded(lambda: self._broken(ours.reason or "a broken frame"))
        self.ended.set()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Take a frame; a whole text message, the usual case, goes straight through."""
        if self._deaf:
            if frame.msg_type == WSMsgType.CLOSE:
                transport.disconnect()
        elif (
            frame.msg_type == WSMsgType.TEXT
            and frame.fin
            and self._first is None
            and frame.payload_size <= self._max_bytes
            and (not frame.rsv1 or self._inflater.agreed)
        ):
            try:
                data = frame.get_payload_as_bytes()
                if frame.rsv1:
                    self._inflate(data, self._on_text)
                else:
                    self._on_text(data)
            except Exception as error:  # noqa: BLE001 (raised again by whoever runs the feed)
                self._broke(error)
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        elif frame.msg_type != WSMsgType.PONG:
            self._guarded(lambda: self._assemble(frame))

    def _guarded(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 (raised again by whoever runs the feed)
            self._broke(error)

    def _broke(self, error: Exception) -> None:
        self.failure = error
        self._fail_with(WSCloseCode.INTERNAL_ERROR)

    def _assemble(self, frame: WSFrame) -> None:
        """Take a frame that is compressed, a part of a message, or odd."""
        continues = frame.msg_type == WSMsgType.CONTINUATION
        if continues is (self._first is None) or (frame.rsv1 and not self._may_compress(frame)):
            self._broken("a frame out of turn")
            return
        if not continues:
            self._first = frame.msg_type
            self._compressed = frame.rsv1
        self._parts_bytes += frame.payload_size
        if self._parts_bytes > self._max_bytes:
            self._too_big()
            return
        self._parts.append(frame.get_payload_as_bytes())
        if frame.fin:
            self._complete()

    def _may_compress(self, frame: WSFrame) -> bool:
        return self._inflater.agreed and frame.msg_type != WSMsgType.CONTINUATION

    def _complete(self) -> None:
        """Deliver the message whose last frame has come."""
        data = b"".join(self._parts)
        deliver = self._on_text if self._first == WSMsgType.TEXT else self._binary
        self._first = None
        self._parts = []
        self._parts_bytes = 0
        if self._compressed:
            self._inflate(data, deliver)
        else:
            deliver(data)

    def _inflate(self, data: bytes, deliver: Callable[[bytes], None]) -> None:
        try:
            inflated = self._inflater.inflate(data, self._max_bytes)
        except zlib.error as error:
            self._broken(f"bad deflate: {error}")
            return
        if inflated is None:
            self._too_big()
        else:
            deliver(inflated)

    def _binary(self, data: bytes) -> None:
        self._on_fault(MessageFault.BINARY, f"a binary frame of {len(data)} bytes")

    def _too_big(self) -> None:
        detail = f"a frame exceeds the cap of {self._max_bytes} bytes"
        self._fail(MessageFault.TOO_BIG, detail, WSCloseCode.MESSAGE_TOO_BIG)

    def _broken(self, detail: str) -> None:
        self._fail(MessageFault.BROKEN, detail, WSCloseCode.PROTOCOL_ERROR)

    def _fail(self, fault: MessageFault, detail: str, code: WSCloseCode) -> None:
        self._fail_with(code)
        self._on_fault(fault, detail)

    def _fail_with(self, code: WSCloseCode) -> None:
        """Close with a code and be deaf to what still comes."""
        self._deaf = True
        if self._transport is not None:
            self._transport.send_close(code)
            self._transport.disconnect()
