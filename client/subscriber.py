"""An async iterator over the gateway's messages that reconnects and verifies every link.

Owns one WebSocket at a time. Keeps no state of the market: build it from the messages.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from functools import cached_property
from typing import Any, Literal

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from client.backoff import delays
from client.chain import ChainVerifier, Link, decode_link
from client.errors import GatewayRefusedError, GatewayUnavailableError
from models.canonical import FEEDS, Feed, Message, decode_message

MAX_MESSAGE_BYTES = 64 * 1024**2
"""A deep book is several MB; websockets' own cap of 1 MiB would lose it."""

OPEN_TIMEOUT_S = 5.0
CLOSE_TIMEOUT_S = 1.0
_FINAL_STATUS = frozenset({400, 401, 403, 404})
_AWAY = (OSError, TimeoutError, ConnectionClosed, InvalidHandshake)


class _Envelope(msgspec.Struct):
    """One server message."""

    op: Literal["incr", "snapshot", "status", "error", "subscribed", "unsubscribed", "pong"]
    data: msgspec.Raw = msgspec.Raw(b"")
    code: str = ""
    msg: str = ""


_decode_envelope = msgspec.json.Decoder(_Envelope).decode


class Update:
    """One canonical message as it came.

    Attributes: op; line, the message's bytes, verbatim; link, its place in its chain. The whole
    message is decoded only if `message` is looked at.
    """

    def __init__(self, op: Literal["snapshot", "incr", "status"], line: bytes, link: Link) -> None:
        self.op = op
        self.line = line
        self.link = link

    @cached_property
    def message(self) -> Message:
        """The message with exact numbers."""
        message: Message = decode_message(self.line)
        return message


class Subscriber:
    """Messages of some products and feeds, snapshot first, every link verified.

    Iterate with `async for update in subscriber`. It waits for a gateway that is not there yet
    and reconnects by itself, each time with fresh snapshots; the iteration ends only by an error
    or by its consumer.

    Attributes: verifier, with its counts; messages, how many canonical ones have come; connects,
    how often a connection was made.
    """

    def __init__(
        self,
        url: str,
        products: Sequence[str] = ("*",),
        feeds: Sequence[Feed] = FEEDS,
        *,
        depth: int | None = None,
        give_up_after_s: float | None = None,
        notify: Callable[[str], None] | None = None,
    ) -> None:
        """Prepare; nothing happens before the iteration.

        `depth`: levels a side in book snapshots, none for the whole book. `give_up_after_s`: how
        long to try for a connection each time, none for ever. `notify` is told in a sentence
        when the connection comes and goes.
        """
        self._url = url
        request: dict[str, Any] = {"op": "subscribe", "products": products, "feeds": feeds}
        if depth is not None:
            request["depth"] = depth
        self._request = msgspec.json.encode(request).decode()
        self._give_up_after_s = give_up_after_s
        self._notify = notify or _ignore
        self.verifier = ChainVerifier()
        self.messages = 0
        self.connects = 0

    async def __aiter__(self) -> AsyncGenerator[Update, None]:
        """Iterate.

        Raises:
            ChainBrokenError: a message is missing; iterate again for fresh snapshots.
            GatewayRefusedError: the gateway does not accept the subscription.
            GatewayUnavailableError: no gateway answered within `give_up_after_s`.
        """
        while True:
            connection = await self._connect()
            try:
                self.verifier.reset()
                await connection.send(self._request)
                async with aclosing(self._updates(connection)) as updates:
                    async for update in updates:
                        yield update
            except ConnectionClosed as closed:
                self._notify(f"lost the gateway ({closed}); connecting again")
            finally:
                await connection.close()

    async def _connect(self) -> ClientConnection:
        """Connect, trying again with growing waits."""
        began = time.monotonic()
        told = False
        for wait_s in delays():
            try:
                connection = await self._attempt()
            except _AWAY as error:
                self._give_up(began, error)
                if not told:
                    told = True
                    self._notify(f"waiting for a gateway at {self._url} ({error})")
                await asyncio.sleep(wait_s)
            else:
                self.connects += 1
                self._notify(f"connected to {self._url}")
                return connection
        raise AssertionError("the delays never end")

    async def _attempt(self) -> ClientConnection:
        """Connect once."""
        try:
            return await connect(
                self._url,
                max_size=MAX_MESSAGE_BYTES,
                compression=None,
                open_timeout=OPEN_TIMEOUT_S,
                close_timeout=CLOSE_TIMEOUT_S,
            )
        except InvalidStatus as refused:
            status = refused.response.status_code
            if status not in _FINAL_STATUS:
                raise
            raise GatewayRefusedError(str(status), str(refused)) from refused

    def _give_up(self, began: float, failure: Exception) -> None:
        """Raise when it has taken too long."""
        waited_s = time.monotonic() - began
        if self._give_up_after_s is not None and waited_s > self._give_up_after_s:
            raise GatewayUnavailableError(self._url, waited_s, str(failure)) from failure

    async def _updates(self, connection: ClientConnection) -> AsyncGenerator[Update, None]:
        """Yield what a connection brings."""
        check = self.verifier.check
        while True:
            envelope = _decode_envelope(await connection.recv(decode=False))
            op = envelope.op
            if op in ("incr", "snapshot", "status"):
                line = bytes(envelope.data)
                link = decode_link(line)
                self.messages += 1
                check(link)
                yield Update(op, line, link)
            elif op == "error":
                raise GatewayRefusedError(envelope.code, envelope.msg)


def _ignore(_: str) -> None:
    """Tell nobody."""
