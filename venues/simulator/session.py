"""One client's connection: reads its messages, keeps its subscriptions, and feeds its socket.

The outbox is bounded in bytes; a reader that lets it overflow is cut off, as the exchange does.
What a subscriber gets first is put into the outbox in one go, so that nothing comes between.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable

import msgspec
from starlette.websockets import WebSocket, WebSocketDisconnect

from venues.simulator import messages
from venues.simulator.auth import is_signed, refusal
from venues.simulator.channels import ALL, ECHO, Key, Wish, read_wish
from venues.simulator.config import SimConfig
from venues.simulator.exchange import Exchange
from venues.simulator.faults import Said
from venues.simulator.hub import Hub
from venues.simulator.limits import Bucket

_ROOM_BYTES = 256 * 1024
_POLICY = 1008

_decode = msgspec.json.Decoder(dict[str, object]).decode


class Session:
    """The state of one connection; `number` counts the connections of this exchange from 1."""

    def __init__(
        self,
        number: int,
        socket: WebSocket,
        hub: Hub,
        exchange: Exchange,
        config: SimConfig,
        clock: Callable[[], int],
        listed: Callable[[], list[str]],
        abort: Callable[[], None],
    ) -> None:
        self.number = number
        self.room = asyncio.Event()
        self.room.set()
        self._socket = socket
        self._hub = hub
        self._exchange = exchange
        self._config = config
        self._clock = clock
        self._listed = listed
        self._abort = abort
        self._keys: dict[Key, None] = {}
        self._outbox: deque[str] = deque()
        self._bytes = 0
        self._ready = asyncio.Event()
        self._close_code: int | None = None
        rate = config.limits.messages_per_s
        self._bucket = Bucket(rate, int(rate or 0))

    def push(self, text: str) -> None:
        """Queue one frame; beyond the bound the connection is cut."""
        self._bytes += len(text)
        if self._bytes > self._config.outbox_bytes:
            self.cut(None)
            return
        self._outbox.append(text)
        self._ready.set()
        if self._bytes > _ROOM_BYTES:
            self.room.clear()

    def cut(self, code: int | None) -> None:
        """End the connection: with a close code after what is queued, or at once."""
        if code is None:
            self._outbox.clear()
            self._abort()
        elif self._close_code is None:
            self._close_code = code
        self._ready.set()

    def take_number(self) -> int | None:
        """Return the number that the next message gets: none here, messages have their own."""
        return None

    def describe(self) -> dict[str, object]:
        """Return what GET /sim/status shows of this connection."""
        client = self._socket.client
        return {
            "conn": self.number,
            "client": f"{client.host}:{client.port}" if client else "",
            "user_agent": self._socket.headers.get("user-agent", ""),
            "outbox_bytes": self._bytes,
            "channels": dict(self._channels()),
        }

    async def run(self) -> None:
        """Serve the connection until either side ends it."""
        self._hub.connections[self.number] = self
        deadline = asyncio.get_running_loop().call_later(
            self._config.subscribe_deadline_s, self._check_subscribed
        )
        writer = asyncio.create_task(self._write())
        try:
            await self._read()
        finally:
            deadline.cancel()
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError, WebSocketDisconnect):
                await writer
            self._leave()

    async def _read(self) -> None:
        while True:
            event = await self._socket.receive()
            if event["type"] == "websocket.disconnect":
                return
            self._take(event.get("text") or event.get("bytes") or "")

    async def _write(self) -> None:
        while True:
            await self._ready.wait()
            while self._outbox:
                text = self._outbox.popleft()
                await self._socket.send({"type": "websocket.send", "text": text})
                self._bytes -= len(text)
                if self._bytes <= _ROOM_BYTES:
                    self.room.set()
            if self._close_code is not None:
                await self._socket.close(self._close_code)
                return
            self._ready.clear()

    def _take(self, raw: str | bytes) -> None:
        """Answer one message of the client."""
        if not self._bucket.allow(self._clock() / 1e6):
            self.push(messages.error("Rate limit exceeded"))
            self.cut(_POLICY)
            return
        try:
            message = _decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self.push(messages.error("Malformed JSON"))
            return
        kind = message.get("type")
        if kind == "subscribe":
            self._subscribe(message)
        elif kind == "unsubscribe":
            self._unsubscribe(message)
        else:
            reason = "Type has to be either subscribe or unsubscribe"
            self.push(messages.error("Failed to subscribe", reason))

    def _subscribe(self, message: dict[str, object]) -> None:
        signed = is_signed(message)
        refused = refusal(message, self._config.keys, self._clock() / 1e6) if signed else None
        if refused is not None:
            self.push(messages.error("Authentication Failed", refused))
        authenticated = (signed and refused is None) or self._config.cassette is not None
        wish = read_wish(message, self._listed(), authenticated=authenticated)
        wish.reasons += [f"{name} requires product_ids" for name in wish.whole_channels]
        keys = self._admit(wish)
        for reason in wish.reasons:
            self.push(messages.error("Failed to subscribe", reason))
        for channel, product in keys:
            if channel == "level2_batch":
                self._exchange.flush_levels(product)
        for key in keys:
            self._keys[key] = None
            self._hub.add(self, key)
        self._acknowledge()
        self._greet(keys)

    def _admit(self, wish: Wish) -> list[Key]:
        """Return the keys that may be added under the limit; the others become reasons."""
        most = self._config.limits.subscriptions_per_key
        admitted: list[Key] = []
        for key in dict.fromkeys(wish.keys):
            if most is not None and key not in self._keys and self._hub.count(key) >= most:
                wish.reasons.append(f"subscription limit reached for {key[0]} {key[1]}".strip())
            else:
                admitted.append(key)
        return admitted

    def _greet(self, keys: list[Key]) -> None:
        now = self._clock()
        for channel, product in keys:
            for frame in self._exchange.greeting(channel, product, now):
                self._hub.greet(self, Said(channel, product, frame))

    def _unsubscribe(self, message: dict[str, object]) -> None:
        listed = {product for _, product in self._keys}
        wish = read_wish(message, listed | set(self._listed()), authenticated=True)
        for reason in wish.reasons:
            self.push(messages.error("Failed to unsubscribe", reason))
        gone = [key for key in self._keys if key in wish.keys or key[0] in wish.whole_channels]
        for key in gone:
            del self._keys[key]
            self._hub.remove(self, key)
        self._acknowledge()

    def _acknowledge(self) -> None:
        text = messages.acknowledgement(self._channels())
        self._hub.greet(self, Said(ALL, ALL, text))

    def _channels(self) -> list[tuple[str, list[str]]]:
        channels: dict[str, list[str]] = {}
        for channel, product in self._keys:
            products = channels.setdefault(ECHO.get(channel, channel), [])
            if product != ALL:
                products.append(product)
        return list(channels.items())

    def _check_subscribed(self) -> None:
        if not self._keys:
            self.cut(_POLICY)

    def _leave(self) -> None:
        for key in self._keys:
            self._hub.remove(self, key)
        self._keys.clear()
        self._hub.connections.pop(self.number, None)
        self.room.set()
