"""A past in the lake: simulated hours, told in seconds, with losses and recoveries.

Real ingest, real normalizers, real archive; only the venue's socket and the recovery's workflow are
missing: prints are left out on purpose, and markers answer as REST would. What is stored is a
folder, so many tests can begin from one past.
"""

import asyncio
import shutil
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from operator import ge
from pathlib import Path
from random import Random
from typing import get_args

import msgspec

from models.archiving import Stream
from models.records import ResyncMarker, marker_line
from models.replaying import FOR_EVER_US
from models.resync import ResyncRequest
from models.settings import Settings
from models.subjects import Streams, product_of, raw_subject, shard_of
from storage.history import Past, lanes, read
from storage.lake import Lake
from storage.layout import Hour
from streaming.broker.jetstream import JetStreamLog
from streaming.broker.pages import Pages
from streaming.ingest import Ingest
from tests.archiving import PRODUCTS, VENUE, Site, site
from tests.market import rest_answer
from tests.servers import Process, eventually
from venues.coinbase.mapper import VENUE as NAME
from venues.simulator.catalogue import product as listed
from venues.simulator.exchange import Exchange
from venues.simulator.market import Market
from workers.normalizer import make_normalizer
from workers.replay import replay_worker
from workers.venue import VENUES

BEGIN = Hour(496_010)
"""The hour in which it begins; two hours of simulated time follow one another."""

SHARDS = 2
FRAMES = 12_000
"""Of the past that tests share (`told` in conftest)."""

CHANNELS = ("level2", "matches", "ticker", "heartbeat")

_HOUR_US = 3_600_000_000
_SECOND_US = 1_000_000
_BUNCH = 30
_PARTS = 8
_ARCHIVED = (2, 7)
_STREAMS = Streams()


class Speaker:
    """What the exchange says goes to ingest, except what is lost. Attributes: now_us; lose."""

    def __init__(self, sink: Ingest, begin_us: int, step_us: int) -> None:
        self._sink, self._step_us = sink, step_us
        self.now_us, self.said, self.conn = begin_us, 0, "a-1"
        self.lose: tuple[str, str, int] | None = None

    def wants(self, channel: str, product: str) -> bool:
        """Tell whether a channel is listened to."""
        del product
        return channel in CHANNELS

    def emit(self, channel: str, product: str, frame: str) -> None:
        """Hand a frame to ingest, as received now, unless it is one to be lost."""
        self.said += 1
        self.now_us += self._step_us
        if self.lose is not None and self.lose[:2] == (product, channel) and self.lose[2]:
            self.lose = (product, channel, self.lose[2] - 1)
            return
        self._sink.frame(self.now_us, self.conn, frame.encode())


class Story:
    """Tells the past: bunches of trading, now and then a loss, and recoveries."""

    def __init__(self, log: JetStreamLog, sink: Ingest, frames: int, hours: float) -> None:
        begin_us = BEGIN.start_us
        self._log, self._sink, self._frames = log, sink, frames
        self.speaker = Speaker(sink, begin_us, round(hours * _HOUR_US / frames))
        markets = [Market(listed(name), seed=7, levels=40) for name in PRODUCTS]
        self._exchange = Exchange(markets, self.speaker)
        self._exchange.live_through(begin_us - _HOUR_US, begin_us, 100)
        self._random = Random(3)
        self._beat_us = begin_us
        self._answered: set[str] = set()

    def connect(self, number: int) -> None:
        """Begin a connection as the venue's do; the one before it ends."""
        speaker = self.speaker
        if number > 1:
            self._sink.closed(speaker.now_us, speaker.conn, "the test wants it")
        speaker.conn = f"a-{number}"
        self._sink.opened(speaker.conn)
        for name in PRODUCTS:
            for channel in CHANNELS:
                for frame in self._exchange.greeting(channel, name, speaker.now_us):
                    speaker.emit(channel, name, frame)

    async def trade(self, frames: int) -> None:
        """Have about so many frames said; every so often something is lost."""
        enough = self.speaker.said + frames
        while self.speaker.said < enough:
            if self._random.random() < 0.05:
                name = self._random.choice(PRODUCTS)
                channel = self._random.choice(("matches", "matches", "ticker"))
                self.speaker.lose = (name, channel, self._random.randint(1, 4))
            bunch = self.speaker.said + _BUNCH
            while self.speaker.said < bunch:
                for name in PRODUCTS:
                    self._exchange.step(name, self.speaker.now_us)
                if self.speaker.now_us >= self._beat_us:
                    self._beat_us = self.speaker.now_us + _SECOND_US
                    for name in PRODUCTS:
                        self._exchange.beat(name, self.speaker.now_us)
            await self._sink.room()
            await self._sink.flush()

    async def recover(self) -> int:
        """Answer every request that has not been answered yet, as a recovery would."""
        await self._sink.flush()
        end = await self._log.end(_STREAMS.resync)
        pages = Pages(self._log, _STREAMS.resync, "market.resync.>", after=0)
        requests = [
            msgspec.json.decode(one.payload, type=ResyncRequest) for one in await pages.upto(end)
        ]
        waiting = [one for one in requests if one.resync_id not in self._answered]
        for request in waiting:
            self._answered.add(request.resync_id)
            self.speaker.now_us += 1000
            marker = ResyncMarker(
                request.resync_id,
                request.feed,
                rest_answer(self._exchange, request, self.speaker.now_us),
            )
            await self._log.publish(
                raw_subject(shard_of(VENUE, request.product, SHARDS), VENUE, request.product),
                marker_line(self.speaker.now_us, marker),
            )
        return len(waiting)


@dataclass(frozen=True)
class Told:
    """A past that is in the lake. `recovered`: how many requests were answered."""

    root: Path
    frames: int
    recovered: int


async def tell(root: Path, *, frames: int, hours: float = 2.0, flush_bytes: int = 400_000) -> Told:
    """Make a past: have it said, normalized and archived; its store is in `root`/s3."""
    async with site(root, shard_count=SHARDS) as where:
        log, settings = where.log, where.settings
        async with asyncio.TaskGroup() as tasks:
            applied = dict.fromkeys(range(SHARDS), 0)
            normalizers = []
            for shard in applied:
                one = make_normalizer(log, settings, _STREAMS, VENUES[NAME], shard, tasks)
                one.on_applied = partial(applied.__setitem__, shard)
                normalizers.append(one)
            sink = Ingest(log, VENUE, PRODUCTS, SHARDS, tasks)
            reading = [tasks.create_task(one.run()) for one in normalizers]

            async def normalized() -> bool:
                await sink.flush()
                newest = [await _newest(log, "raw", shard) for shard in applied]
                return all(map(ge, applied.values(), newest))

            story = Story(log, sink, frames, hours)
            recovered = 0
            for number in range(_PARTS):
                if number % 3 == 0:
                    story.connect(number // 3 + 1)
                await story.trade(frames // _PARTS)
                await eventually(normalized)
                recovered += await story.recover()
                await eventually(normalized)
                for one in normalizers:
                    await one.stop()
                if number in _ARCHIVED:
                    await _archive(where, flush_bytes)
            for task in reading:
                task.cancel()
        return Told(root / "s3", story.speaker.said, recovered)


async def _archive(where: Site, flush_bytes: int) -> None:
    """Archive everything there is, in every lane."""
    runs = []
    for stream, shard in product(get_args(Stream), range(SHARDS)):
        newest = await _newest(where.log, stream, shard)
        run = await where.start(
            f"archive/{stream}/{shard}/{newest}",
            stream=stream,
            shard=shard,
            flush_s=0.1,
            flush_bytes=flush_bytes,
        )
        runs.append((run, newest))
    for run, newest in runs:
        await where.archived(run, newest)
        await run.terminate()


async def _newest(log: JetStreamLog, kind: Stream, shard: int) -> int:
    """Return the position of a lane's newest message."""
    stream = _STREAMS.raw if kind == "raw" else _STREAMS.ticks
    subjects = await log.subjects(stream, f"market.{kind}.{shard}.>")
    newest = [await log.last(stream, subject) for subject in subjects]
    return max((one.seq for one in newest if one is not None), default=0)


@asynccontextmanager
async def replaying(root: Path, told: Told, *, workers: bool = True) -> AsyncIterator[Site]:
    """Run servers on a copy of a past; with `workers` the replay's worker is in this process."""
    shutil.copytree(told.root, root / "s3")
    async with AsyncExitStack() as stack:
        where = await stack.enter_async_context(site(root, workers=False, bucket=False))
        if workers:
            worker = replay_worker(where.client, where.log, where.settings, where.lake, cached=0)
            await stack.enter_async_context(worker)
        yield where


class ReplayProcess(Process):
    """The worker as a process of its own, which a test can kill."""

    def __init__(self, root: Path, settings: Settings) -> None:
        secret = settings.s3_secret_key
        assert secret is not None
        told = {
            "NATS_URLS": ",".join(settings.nats_urls),
            "TEMPORAL_ADDRESS": settings.temporal_address,
            "S3_ENDPOINT": str(settings.s3_endpoint),
            "S3_BUCKET": settings.s3_bucket,
            "S3_REGION": str(settings.s3_region),
            "S3_ACCESS_KEY": str(settings.s3_access_key),
            "S3_SECRET_KEY": secret.get_secret_value(),
        }
        command = [sys.executable, "-m", "workers.replay"]
        super().__init__(command, root / "replay.log", told, measured=False)


Canonical = Mapping[str, list[bytes]]
"""Lines by product."""


async def in_lake(lake: Lake, stream: Stream, after: Mapping[str, int] | None = None) -> Canonical:
    """Return the archived lines, behind a position of each product if one is given."""
    past = Past(stream, VENUE, 0, FOR_EVER_US)
    found: dict[str, list[bytes]] = defaultdict(list)
    async with aclosing(read(lake, await lanes(lake, past), after=after)) as batches:
        async for batch in batches:
            for one in batch:
                found[one.product] += one.payload.split(b"\n")
    return dict(found)


async def in_namespace(log: JetStreamLog, namespace: str, kind: Stream = "ticks") -> Canonical:
    """Return what a replay has said."""
    streams = Streams.of_replay(namespace)
    stream = streams.raw if kind == "raw" else streams.ticks
    end = await log.end(stream)
    found: dict[str, list[bytes]] = defaultdict(list)
    for one in await Pages(log, stream, streams.every(kind), after=0).upto(end):
        found[product_of(one.subject)[1]] += one.payload.split(b"\n")
    return dict(found)
