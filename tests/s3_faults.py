"""An HTTP proxy before an object store that does to requests what networks and stores do.

Deterministic by its seed. One request per connection, so that each can be treated by itself.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

Fault = Literal["error", "busy", "slow", "silence", "cut_request", "cut_answer"]

NOTHING: Mapping[Fault, float] = {}
RANDOM: Mapping[Fault, float] = {
    "error": 0.05,
    "busy": 0.04,
    "slow": 0.05,
    "silence": 0.005,
    "cut_request": 0.05,
    "cut_answer": 0.05,
}
"""Each fault's share of the requests: in all, one in four goes wrong."""

_SLOW_S = 0.3
_SILENCE_S = 3.0
_CUT_AFTER = 300


@dataclass
class FaultyStore:
    """The proxy.

    Attributes: shares, of each fault; refusal, an answer (status, code) to every request whose
    method begins with `refuse_method`; away, whether nobody answers; done, faults by kind,
    `asked`, all requests that came through, `objects`, those to store one of the lake's, and
    `turned_away`, connections while it was away.
    """

    target: int
    seed: int = 1
    port: int = 0
    shares: Mapping[Fault, float] = field(default_factory=dict)
    refusal: tuple[int, str] | None = None
    refuse_method: str = ""
    away: bool = False
    done: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        try:
            if self.away:
                self.done["turned_away"] += 1
            else:
                await self._request(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # either side hung up
        finally:
            writer.transport.abort() if self.away else writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head, body = await _read(reader, writer)
        if self.refusal is not None and head.startswith(self.refuse_method.encode()):
            self.done["refused"] += 1
            answer = _refusal(*self.refusal)
            # The answer to a HEAD ends with its head.
            writer.write(answer.partition(b"<Error>")[0] if head.startswith(b"HEAD") else answer)
            await writer.drain()
            return
        self.done["asked"] += 1
        self.done["objects"] += head.startswith(b"PUT") and b".parquet" in head
        fault = self._fault()
        if fault is not None:
            self.done[fault] += 1
        if fault == "error":
            writer.write(_refusal(500, "InternalError"))
        elif fault == "busy":
            writer.write(_refusal(503, "SlowDown"))
        elif fault == "silence":
            await asyncio.sleep(_SILENCE_S)
            writer.transport.abort()
        elif fault == "cut_request":
            await self._forward(head, body[: len(body) // 2], answer=False)
            writer.transport.abort()
        else:
            await asyncio.sleep(_SLOW_S if fault == "slow" else 0)
            answer = await self._forward(head, body)
            writer.write(answer[:_CUT_AFTER] if fault == "cut_answer" else answer)
        await writer.drain()

    def _fault(self) -> Fault | None:
        drawn = self._random.random()
        for fault, share in self.shares.items():
            drawn -= share
            if drawn < 0:
                return fault
        return None

    async def _forward(self, head: bytes, body: bytes, *, answer: bool = True) -> bytes:
        there, back = await asyncio.open_connection("127.0.0.1", self.target)
        try:
            back.write(head + body)
            await back.drain()
            if not answer:
                return b""
            # Or the client would try to use the connection again.
            return (await there.read()).replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
        finally:
            back.close()
            with suppress(OSError):
                await back.wait_closed()


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[bytes, bytes]:
    """Return a request's head, so that its connection will be closed, and its body."""
    lines = (await reader.readuntil(b"\r\n\r\n")).rstrip().split(b"\r\n")
    size, kept = 0, [lines[0]]
    for line in lines[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            size = int(value)
        if name.lower() == b"expect":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        elif name.lower() != b"connection":
            kept.append(line)
    body = await reader.readexactly(size)
    return b"\r\n".join([*kept, b"Connection: close", b"", b""]), body


def _refusal(status: int, code: str) -> bytes:
    body = f"<Error><Code>{code}</Code><Message>as the test wants it</Message></Error>".encode()
    head = (
        f"HTTP/1.1 {status} Refused\r\nContent-Type: application/xml\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


@asynccontextmanager
async def faulty_store(target: int, seed: int = 1) -> AsyncIterator[FaultyStore]:
    """Give a proxy before the store at a port; it does nothing wrong yet."""
    shown = FaultyStore(target, seed)
    server = await asyncio.start_server(shown.handle, "127.0.0.1", 0, backlog=1000)
    shown.port = server.sockets[0].getsockname()[1]
    try:
        yield shown
    finally:
        server.close()
