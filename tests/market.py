"""A simulated market in simulated time, put into MD_RAW by the real ingest without a WebSocket.

Runs as a process of its own (`python -m tests.market URL`), so that what it costs is not the
test's. Its clock is moved by what it says: so many frames a second, whatever the machine manages;
where the machine manages more, it is held to `--compression`. Receive times begin `--ago` seconds
before now. It speaks until SIGTERM, or until `--most` frames have been said, and then stores what
is on its way.
"""

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import uvloop

from models.numbers import us_to_iso
from models.resync import ResyncRequest
from models.settings import Settings
from streaming.broker.jetstream import JetStreamLog
from streaming.ingest import Ingest
from tests.servers import Process
from venues.coinbase.mapper import VENUE
from venues.simulator.catalogue import product as listed
from venues.simulator.exchange import Exchange
from venues.simulator.market import Market

CHANNELS = ("level2", "matches", "ticker", "heartbeat")
PRODUCTS = ("BTC-USD", "ETH-USD", "SOL-USD")
RATE = 2000
"""Frames in a simulated second, over all products."""

_CONN = "a-simulated"
_SECOND_US = 1_000_000
_PAST_US, _PAST_TRADES = 3600 * _SECOND_US, 100
_BUNCH = 60


class Speaker:
    """What the exchange says goes to ingest; each frame moves the clock. Attributes: now_us, said.

    It is the exchange's `Emitter`.
    """

    def __init__(self, sink: Ingest, begin_us: int) -> None:
        self._sink, self.now_us, self.said = sink, begin_us, 0

    def wants(self, channel: str, product: str) -> bool:
        """Tell whether a channel is listened to."""
        del product
        return channel in CHANNELS

    def emit(self, channel: str, product: str, frame: str) -> None:
        """Hand a frame to ingest, as received now."""
        del channel, product
        self._sink.frame(self.now_us, _CONN, frame.encode())
        self.said += 1
        self.now_us += _SECOND_US // RATE


def rest_answer(exchange: Exchange, request: ResyncRequest, now_us: int) -> msgspec.Raw:
    """Return what the exchange's REST says to a request for recovery."""
    shown = exchange.listed[request.product]
    time = us_to_iso(now_us)
    if request.feed == "book":
        return msgspec.Raw(shown.wire.rest_book(shown.engine, 2, time).encode())
    trades = [
        shown.wire.rest_trade(one.match, us_to_iso(one.time_us))
        for one in shown.history.page(1000, None, None)
    ]
    if request.feed == "trades":
        return msgspec.Raw(f"[{','.join(reversed(trades))}]".encode())
    book = shown.wire.rest_book(shown.engine, 1, time)
    return msgspec.Raw(f'{{"book":{book},"trade":{trades[0]}}}'.encode())


class MarketProcess(Process):
    """The market as a process. Attributes: begin_us, its clock at the beginning."""

    def __init__(
        self, root: Path, url: str, *, ago_s: float, compression: float, most: int
    ) -> None:
        self.begin_us = time.time_ns() // 1000 - round(ago_s * _SECOND_US)
        command = [sys.executable, "-m", "tests.market", url, "--begin-us", str(self.begin_us)]
        command += ["--compression", str(compression), "--most", str(most)]
        super().__init__(command, root / "market.log", measured=False)


class NormalizerProcess(Process):
    """The real normalizer, which makes canonical lines of what the market says."""

    def __init__(self, root: Path, settings: Settings) -> None:
        told = {
            "NATS_URLS": ",".join(settings.nats_urls),
            "JS_MAX_BYTES": str(settings.js_max_bytes),
        }
        command = [sys.executable, "-m", "workers.normalizer"]
        super().__init__(command, root / "normalizer.log", told, measured=False)


async def speak(url: str, *, begin_us: int, compression: float, most: int) -> int:
    """Speak until told to stop; return how many frames were said."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    async with (
        await JetStreamLog.connect([url], name="market") as log,
        asyncio.TaskGroup() as tasks,
    ):
        sink = Ingest(log, VENUE, PRODUCTS, 1, tasks)
        sink.opened(_CONN)
        speaker = Speaker(sink, begin_us)
        exchange = Exchange([Market(listed(name), seed=1) for name in PRODUCTS], speaker)
        exchange.live_through(begin_us - _PAST_US, begin_us, _PAST_TRADES)
        for name in PRODUCTS:
            for channel in CHANNELS:
                for frame in exchange.greeting(channel, name, begin_us):
                    speaker.emit(channel, name, frame)
        began_s, beat_us = loop.time(), begin_us
        while not stop.is_set() and speaker.said < most:
            _trade(exchange, speaker)
            if speaker.now_us >= beat_us:
                beat_us += _SECOND_US
                for name in PRODUCTS:
                    exchange.beat(name, speaker.now_us)
            await sink.room()
            ahead_s = (speaker.now_us - begin_us) / _SECOND_US / compression
            await asyncio.sleep(max(0.0, began_s + ahead_s - loop.time()))
        await sink.flush()
    return speaker.said


def _trade(exchange: Exchange, speaker: Speaker) -> None:
    """Let the traders of all products act for a while."""
    enough = speaker.said + _BUNCH
    while speaker.said < enough:
        for name in PRODUCTS:
            exchange.step(name, speaker.now_us)


def main(words: Sequence[str] | None = None) -> None:
    """Run as a process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--begin-us", type=int, required=True)
    parser.add_argument("--compression", type=float, default=1.0)
    parser.add_argument("--most", type=int, default=10**7)
    given = parser.parse_args(words)
    speaking = speak(
        given.url, begin_us=given.begin_us, compression=given.compression, most=given.most
    )
    print(uvloop.run(speaking))  # noqa: T201  # how many frames: for whoever reads its log


if __name__ == "__main__":
    main()
