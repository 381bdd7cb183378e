"""The connection under a subscription: one at a time, two for a moment while a gateway drains.

Knows connections and clocks; what is said, and what the answers mean, is the `session`'s.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from client.connector import Connector
from client.session import Session


class Line:
    """Connections, one after the other, for one iteration over a subscription."""

    def __init__(self, connector: Connector, session: Session) -> None:
        self._connector = connector
        self._session = session
        self._connection: ClientConnection | None = None
        self._successor: asyncio.Task[ClientConnection] | None = None
        self._speaking: asyncio.Task[None] | None = None

    async def open(self) -> Callable[..., Awaitable[bytes]]:
        """Connect, or take the connection that was made before the last one ended.

        Returns the way to receive from it.

        Raises:
            GatewayRefusedError: the gateway does not want this client.
            GatewayUnavailableError: none answered in time.
        """
        if self._successor is None:
            connection = await self._connector.connect()
        else:
            connection = await self._successor
        self._connection, self._successor = connection, None
        self._session.connected()
        self._speak_up(connection)
        return connection.recv

    def tend(self) -> None:
        """See to what a message has brought about: say what is due, prepare to move."""
        if self._connection is None:
            return
        self._speak_up(self._connection)
        drain_s = self._session.drain_s
        if drain_s is not None and self._successor is None:
            self._successor = asyncio.create_task(self._move(self._connection, drain_s))

    async def ended(self, closed: ConnectionClosed) -> None:
        """Leave a connection that has ended.

        Raises:
            GatewayRefusedError: it ended in a way that connecting again would not help.
            GatewayUnavailableError: none has been good for too long.
        """
        await self._hush()
        if self._successor is None:
            self._connector.ended(closed, good=self._session.acknowledged)

    async def close(self) -> None:
        """Leave everything; may be called at any time."""
        await self._hush()
        if self._successor is not None:
            self._successor.cancel()
            await asyncio.wait([self._successor])
            if not self._successor.cancelled() and self._successor.exception() is None:
                await self._successor.result().close()
        if self._connection is not None:
            await self._connection.close()

    async def _move(self, connection: ClientConnection, drain_s: float) -> ClientConnection:
        """Connect anew when it is time, or when the old one ends; then leave the old one.

        It is read until then. Only when it has ended is the subscription resumed, from the last
        message that it brought, so nothing is lost or comes twice.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(drain_s):
                await connection.wait_closed()
        successor = await self._connector.connect()
        await connection.close()
        return successor

    def _speak_up(self, connection: ClientConnection) -> None:
        """See that what is due is said."""
        if self._session.due and (self._speaking is None or self._speaking.done()):
            self._speaking = asyncio.create_task(self._speak(connection))

    async def _speak(self, connection: ClientConnection) -> None:
        """Say what is due; what the connection no longer takes is said on the next one."""
        with suppress(ConnectionClosed):
            while self._session.due:
                await asyncio.sleep(self._session.pause_s)
                for text in self._session.say():
                    await connection.send(text)

    async def _hush(self) -> None:
        """End saying."""
        if self._speaking is not None:
            self._speaking.cancel()
            await asyncio.wait([self._speaking])
            self._speaking = None
