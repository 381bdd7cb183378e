"""A venue that costs next to nothing: frames made beforehand, or paced and stamped when sent.

Runs as a process of its own (`python -m bench.source MODE PORT …`), so that what is measured is
the pipeline and not the source. Modes: `flood FRAMES PRODUCTS` sends all as fast as the reader
takes them; `pace RATE PRODUCTS SECONDS` sends at a rate, each frame's `time` being the moment
of sending; `drop SECONDS COUNT` cuts each connection after so long and prints how long it took
until the next subscribe.
"""

import asyncio
import base64
import hashlib
import json
import random
import struct
import sys
import time
from collections.abc import AsyncIterator, Iterator

import uvloop

from models.numbers import us_to_iso

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_UPDATE = (
    b'{"type":"l2update","product_id":"%b","changes":[["%b","%.2f","%d.25000000"]],"time":"%b"}'
)
_MATCH = (
    b'{"type":"match","trade_id":%d,"maker_order_id":"0b2f3f2e-7d1f-4a7c-9f58-3c1b0e4f5a6b",'
    b'"taker_order_id":"1b2f3f2e-7d1f-4a7c-9f58-3c1b0e4f5a6b","side":"buy","size":"0.01250000",'
    b'"price":"30000.50","product_id":"%b","sequence":%d,"time":"%b"}'
)
_TICKER = (
    b'{"type":"ticker","sequence":%d,"product_id":"%b","price":"30000.50","open_24h":"29000.10",'
    b'"volume_24h":"12345.67800000","low_24h":"28000.00","high_24h":"31000.00",'
    b'"volume_30d":"345678.90000000","best_bid":"30000.00","best_bid_size":"0.12340000",'
    b'"best_ask":"30001.00","best_ask_size":"0.23450000","side":"sell","time":"%b",'
    b'"trade_id":%d,"last_size":"0.01250000"}'
)
_CHUNK_FRAMES = 200
_SLEEP_S = 0.001
_HEARTBEATS = 300


def products(count: int) -> list[str]:
    """Return the names of the products that the source knows."""
    return [f"P{number}-USD" for number in range(count)]


def ws_frame(payload: bytes) -> bytes:
    """Frame a text message as a server does (RFC 6455)."""
    size = len(payload)
    if size < 126:
        return b"\x81" + bytes([size]) + payload
    if size < 1 << 16:
        return b"\x81\x7e" + struct.pack(">H", size) + payload
    return b"\x81\x7f" + struct.pack(">Q", size) + payload


class Market:
    """Messages in the proportions of the recorded feed of a busy product: mostly level 2."""

    def __init__(self, count: int, seed: int = 1) -> None:
        self._random = random.Random(seed)
        self._names = products(count)
        self._sequence = dict.fromkeys(self._names, 1000)
        self._trade = dict.fromkeys(self._names, 10)

    def opening(self) -> Iterator[bytes]:
        """Yield what a subscription begins with."""
        now = us_to_iso(time.time_ns() // 1000)
        yield b'{"type":"subscriptions","channels":[{"name":"ticker","product_ids":["P0-USD"]}]}'
        bids = [[f"{30_000 - level / 100:.2f}", "1.5"] for level in range(500)]
        asks = [[f"{30_001 + level / 100:.2f}", "1.5"] for level in range(500)]
        for name in self._names:
            yield json.dumps(
                {"type": "snapshot", "product_id": name, "bids": bids, "asks": asks, "time": now}
            ).encode()

    def message(self, time_us: int) -> bytes:
        """Make the next message."""
        name = self._random.choice(self._names)
        kind = self._random.random()
        moment = us_to_iso(time_us).encode()
        if kind < 0.85:
            level = self._random.randrange(500)
            side, price = (
                ("buy", 30_000 - level / 100)
                if self._random.random() < 0.5
                else ("sell", 30_001 + level / 100)
            )
            size = self._random.randrange(1, 9)
            values = (name.encode(), side.encode(), price, size, moment)
            return _UPDATE % values
        self._sequence[name] += self._random.randrange(1, 30)
        if kind < 0.93:
            self._trade[name] += 1
            return _MATCH % (self._trade[name], name.encode(), self._sequence[name], moment)
        return _TICKER % (self._sequence[name], name.encode(), moment, self._trade[name])


async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Do the opening handshake and wait for the subscribe."""
    request = await reader.readuntil(b"\r\n\r\n")
    key = next(
        line.partition(b":")[2].strip()
        for line in request.split(b"\r\n")
        if line.lower().startswith(b"sec-websocket-key")
    )
    answer = base64.b64encode(hashlib.sha1(key + _GUID).digest())  # noqa: S324  # RFC 6455
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + answer + b"\r\n\r\n"
    )
    await reader.read(65536)


def flood(market: Market, frames: int) -> list[bytes]:
    """Make chunks of frames."""
    now = time.time_ns() // 1000
    made = [ws_frame(market.message(now + number)) for number in range(frames)]
    return [
        b"".join(made[start : start + _CHUNK_FRAMES]) for start in range(0, frames, _CHUNK_FRAMES)
    ]


async def pace(market: Market, rate: float, seconds: float) -> AsyncIterator[bytes]:
    """Yield single frames at the rate; each is stamped when it is sent.

    Wakes every millisecond and sends what is due: a busy wait would take a core from the
    pipeline that is measured.
    """
    started, sent = time.perf_counter(), 0
    while sent < int(rate * seconds):
        await asyncio.sleep(_SLEEP_S)
        due = int((time.perf_counter() - started) * rate)
        for _ in range(min(due, int(rate * seconds)) - sent):
            yield ws_frame(market.message(time.time_ns() // 1000))
            sent += 1


async def serve(mode: str, port: int, arguments: list[str]) -> None:
    """Serve until killed."""
    drops: list[float] = []
    dropped_at: list[float] = []
    market = Market(int(arguments[1]))
    # Made before anybody connects, so that making them is not measured.
    chunks = flood(market, int(arguments[0])) if mode == "flood" else []

    async def feed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if mode == "drop":
            await _drop(reader, writer, arguments, drops, dropped_at)
            return
        await accept(reader, writer)
        for message in market.opening():
            writer.write(ws_frame(message))
        if mode == "pace":
            async for frame in pace(market, float(arguments[0]), float(arguments[2])):
                writer.write(frame)
        for chunk in chunks:
            writer.write(chunk)
            await writer.drain()
        await _heartbeats(writer)

    server = await asyncio.start_server(feed, "127.0.0.1", port)
    await server.serve_forever()


async def _heartbeats(writer: asyncio.StreamWriter) -> None:
    """Keep the watchdog quiet once everything is sent."""
    for _ in range(_HEARTBEATS):
        writer.write(ws_frame(b'{"type":"status"}'))
        await asyncio.sleep(1)


async def _drop(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    arguments: list[str],
    drops: list[float],
    dropped_at: list[float],
) -> None:
    """Note when the subscribe came, send a little, and cut the connection."""
    await accept(reader, writer)
    if dropped_at:
        drops.append(time.perf_counter() - dropped_at.pop())
    market = Market(1)
    for message in market.opening():
        writer.write(ws_frame(message))
    if len(drops) == int(arguments[1]):
        print(json.dumps(drops), flush=True)
        await _heartbeats(writer)
        return
    ends = time.perf_counter() + float(arguments[0])
    while time.perf_counter() < ends:
        writer.write(ws_frame(market.message(time.time_ns() // 1000)))
        await asyncio.sleep(0.05)
    dropped_at.append(time.perf_counter())
    writer.transport.abort()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
