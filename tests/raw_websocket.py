"""A WebSocket client that does as it is told, right or wrong: frames are made bit by bit."""

import asyncio
import base64
import os
import socket
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple
from urllib.parse import urlsplit

from tests.servers import PATIENCE_S

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


class RawFrame(NamedTuple):
    """One frame as it came; `rsv`: the three reserved bits."""

    opcode: int
    payload: bytes
    fin: bool = True
    rsv: int = 0


class RawWebSocket:
    """One connection after its handshake. Attributes: headers, of the answer, in lower case."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, headers: dict[str, str]
    ) -> None:
        self._reader = reader
        self.writer = writer
        self.headers = headers

    async def send(
        self,
        opcode: int,
        payload: bytes = b"",
        *,
        fin: bool = True,
        rsv: int = 0,
        masked: bool = True,
    ) -> None:
        """Send one frame."""
        self.writer.write(frame(opcode, payload, fin=fin, rsv=rsv, masked=masked))
        await self.writer.drain()

    async def receive(self, within_s: float = PATIENCE_S) -> RawFrame:
        """Read one frame, which must not be masked."""
        async with asyncio.timeout(within_s):
            first, size = await self._reader.readexactly(2)
            assert not size & 0x80
            if size == 126:
                (size,) = struct.unpack(">H", await self._reader.readexactly(2))
            elif size == 127:
                (size,) = struct.unpack(">Q", await self._reader.readexactly(8))
            payload = await self._reader.readexactly(size)
        return RawFrame(first & 0x0F, payload, bool(first & 0x80), first >> 4 & 7)

    async def closed(self, within_s: float = PATIENCE_S) -> tuple[int, str]:
        """Read to the close frame and the end behind it; return its code and reason."""
        while (received := await self.receive(within_s)).opcode != CLOSE:
            pass
        async with asyncio.timeout(within_s):
            assert not await self._reader.read(1)
        return close_of(received)

    async def ended(self, within_s: float = PATIENCE_S) -> bytes:
        """Read whatever comes until the connection ends, in whichever way."""
        try:
            async with asyncio.timeout(within_s):
                return await self._reader.read()
        except ConnectionError:
            return b""


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, masked: bool = True
) -> bytes:
    """Return one frame."""
    size, mark = len(payload), 0x80 if masked else 0
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    if size < 126:
        head += bytes([mark | size])
    elif size < 65536:
        head += struct.pack(">BH", mark | 126, size)
    else:
        head += struct.pack(">BQ", mark | 127, size)
    if not masked:
        return head + payload
    mask = os.urandom(4)
    key = int.from_bytes((mask * (size // 4 + 1))[:size])
    return head + mask + (int.from_bytes(payload) ^ key).to_bytes(size)


def close_of(received: RawFrame) -> tuple[int, str]:
    """Return code and reason of a close frame; 1005 if it has none."""
    if not received.payload:
        return 1005, ""
    return int.from_bytes(received.payload[:2]), received.payload[2:].decode()


@asynccontextmanager
async def raw_websocket(
    url: str, headers: Mapping[str, str] | None = None, *, receive_buffer_bytes: int | None = None
) -> AsyncIterator[RawWebSocket]:
    """Open a connection with a handshake."""
    address = urlsplit(url)
    connection = socket.socket()
    if receive_buffer_bytes is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, (address.hostname, address.port))
    reader, writer = await asyncio.open_connection(sock=connection)
    try:
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [f"GET {address.path} HTTP/1.1", f"Host: {address.netloc}", "Upgrade: websocket"]
        lines += ["Connection: Upgrade", f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        async with asyncio.timeout(PATIENCE_S):
            answer = (await reader.readuntil(b"\r\n\r\n")).decode()
        status, *rest = answer.rstrip().split("\r\n")
        assert status.split()[1] == "101", answer
        pairs = (line.split(": ", 1) for line in rest)
        yield RawWebSocket(reader, writer, {name.lower(): value for name, value in pairs})
    finally:
        writer.transport.abort()
