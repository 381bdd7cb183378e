"""The archive around real servers: NATS, Temporal, localbucket with a faulty network before it."""

import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
from temporalio.client import Client, WorkflowHandle

from activities.archive import ArchiveActivities, stream_name
from models.archiving import (
    ARCHIVE,
    ARCHIVE_QUEUE,
    COMPACT,
    LAKE_AUDIT,
    LAKE_QUEUE,
    ArchiveInput,
    ArchiveProgress,
    ArchiveReport,
    AuditInput,
    AuditReport,
    CompactInput,
    CompactReport,
    LaneName,
    Stream,
)
from models.settings import Settings, load_settings
from models.subjects import Streams, shard_of
from storage.lake import Lake
from storage.layout import Hour, Lane
from storage.manifest import Manifest
from storage.objects import ObjectStore
from storage.rows import Message, messages_of
from streaming.broker.jetstream import JetStreamLog
from streaming.broker.pages import Pages
from tests.recovery import TemporalServer
from tests.s3_faults import FaultyStore, faulty_store
from tests.servers import PATIENCE_S, NatsServer, Process, eventually, free_port, port_open
from tests.servers_s3 import BUCKET, LocalBucket
from workers.archive import archive_worker, lake_worker
from workflows.connect import connect_patiently

STREAMS = Streams()
VENUE = "coinbase"
PRODUCTS = ("BTC-USD", "ETH-USD", "SOL-USD")


@dataclass
class Producer:
    """Writes linked canonical trades. Attributes: seqs, the last one of each product; lines."""

    log: JetStreamLog
    shards: int = 1
    seqs: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    lines: int = 0

    async def ticks(self, product: str, count: int = 1, *, time_us: int | None = None) -> int:
        """Publish one message with so many ticks; return its position."""
        now_us = time.time_ns() // 1000 if time_us is None else time_us
        lines = []
        for _ in range(count):
            before = self.seqs[product]
            self.seqs[product] = seq = before + 7
            lines.append(trade(product, seq, before, now_us))
        self.lines += count
        shard = shard_of(VENUE, product, self.shards)
        return await self.log.publish(f"market.ticks.{shard}.{VENUE}.{product}", b"\n".join(lines))


def trade(product: str, seq: int, before: int, time_us: int) -> bytes:
    """Return a canonical trade."""
    return (
        f'{{"v":1,"type":"tick","venue":"{VENUE}","product":"{product}","feed":"trades",'
        f'"seq":{seq},"prev_seq":{before},"ts_event":{time_us},"ts_ingest":{time_us},"fields":'
        f'{{"last_trade":{{"px":65123.40,"qty":0.5{seq % 10},"side":"buy","id":{seq}}}}}}}'
    ).encode()


@dataclass
class Site:
    """Everything that an archive test needs. `root`: where the store's files are."""

    settings: Settings
    nats: NatsServer
    temporal: TemporalServer
    store: FaultyStore
    bucket: LocalBucket
    root: Path
    log: JetStreamLog
    client: Client
    lake: Lake
    objects: ObjectStore
    producer: Producer
    activities: ArchiveActivities

    async def start(
        self, name: str = "archive/by-hand", *, stream: Stream = "ticks", **more: Any
    ) -> WorkflowHandle[Any, ArchiveReport]:
        """Start an archive run, past its schedule."""
        wanted = {"flush_s": 0.3, "flush_bytes": 200_000, **more}
        return await self.client.start_workflow(
            ARCHIVE,
            ArchiveInput(stream=stream, venue=VENUE, **wanted),
            id=name,
            task_queue=ARCHIVE_QUEUE,
            result_type=ArchiveReport,
        )

    async def compact(self, **more: Any) -> CompactReport:
        """Run a compaction to its end."""
        report: CompactReport = await self.client.execute_workflow(
            COMPACT,
            CompactInput(stream="ticks", venue=VENUE, **more),
            id=f"compact/by-hand-{time.time_ns()}",
            task_queue=LAKE_QUEUE,
            result_type=CompactReport,
        )
        return report

    async def audit(self, **more: Any) -> AuditReport:
        """Run an audit to its end."""
        report: AuditReport = await self.client.execute_workflow(
            LAKE_AUDIT,
            AuditInput(**{"stream": "ticks", "venue": VENUE, **more}),
            id=f"audit/by-hand-{time.time_ns()}",
            task_queue=LAKE_QUEUE,
            result_type=AuditReport,
        )
        return report

    async def lane(self, shard: int = 0, *, stream: Stream = "ticks") -> Lane:
        """Return a lane of the stream as it is now."""
        extent = await self.log.extent(stream_name(STREAMS, LaneName(stream, VENUE, shard)))
        return Lane(stream, VENUE, shard, extent.created_us)

    async def manifests(self, lane: Lane | None = None) -> list[tuple[Hour, Manifest]]:
        """Return all manifests of a lane."""
        lane = lane or await self.lane()
        hours = await self.lake.hours(lane.stream, VENUE)
        return [(hour, await self.lake.manifest(lane, hour)) for hour, one in hours if one == lane]

    async def in_lake(self) -> list[Message]:
        """Read the lane's messages as the manifests list them."""
        lane, found = await self.lane(), list[Message]()
        for hour, manifest in await self.manifests(lane):
            for entry in manifest.entries:
                found += await self.lake.messages(lane, hour, entry)
        return found

    async def in_log(self, shard: int = 0) -> list[Message]:
        """Read the lane's messages from the log."""
        subjects = f"market.ticks.{shard}.{VENUE}.*"
        end = await self.log.end(STREAMS.ticks)
        return messages_of(await Pages(self.log, STREAMS.ticks, subjects, after=0).upto(end))

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Ask DuckDB; `{ticks}` is every Parquet file of the ticks."""
        files = f"'{self.root}/{BUCKET}/bronze/ticks/**/*.parquet'"
        with duckdb.connect() as db:
            return db.sql(
                sql.format(ticks=f"read_parquet({files}, hive_partitioning = true)")
            ).fetchall()

    async def archived(
        self,
        handle: WorkflowHandle[Any, ArchiveReport],
        position: int | None = None,
        *,
        within_s: float = PATIENCE_S,
    ) -> ArchiveProgress:
        """Wait until a run has come to a position, or to the present end of the log."""
        wanted = await self.log.end(STREAMS.ticks) if position is None else position
        told: list[ArchiveProgress] = []

        async def there() -> bool:
            told.append(await handle.query("progress", result_type=ArchiveProgress))
            return (told[-1].position or 0) >= wanted

        await eventually(there, within_s=within_s)
        return told[-1]


class ArchiveProcess(Process):
    """The worker as a process of its own, which a test can kill."""

    def __init__(self, root: Path, settings: Settings, **env: str) -> None:
        self.metrics_port = free_port()
        secret = settings.s3_secret_key
        assert secret is not None
        told = {
            "NATS_URLS": ",".join(settings.nats_urls),
            "TEMPORAL_ADDRESS": settings.temporal_address,
            "JS_MAX_BYTES": str(settings.js_max_bytes),
            "S3_ENDPOINT": str(settings.s3_endpoint),
            "S3_BUCKET": settings.s3_bucket,
            "S3_REGION": str(settings.s3_region),
            "S3_ACCESS_KEY": str(settings.s3_access_key),
            "S3_SECRET_KEY": secret.get_secret_value(),
            "METRICS_PORT": str(self.metrics_port),
            **env,
        }
        super().__init__(
            [sys.executable, "-m", "workers.archive"], root / "archive.log", told, measured=False
        )


@asynccontextmanager
async def site(
    root: Path,
    *,
    workers: bool = True,
    bucket: bool = True,
    full: bool = False,
    seed: int = 1,
    cached: int = 100,
    **overrides: Any,
) -> AsyncIterator[Site]:
    """Run NATS, Temporal, the store behind its proxy, and the archive's workers in this process.

    `overrides` are settings; without `workers` the test runs its own, without `bucket` there is
    none; the disk of a `full` store has no room for an object. `cached`: workflows that the workers
    keep; with none each of their steps is replayed, which costs time.
    """
    async with AsyncExitStack() as stack:
        nats = stack.enter_context(NatsServer(root / "nats"))
        temporal = stack.enter_context(TemporalServer(root / "temporal"))
        local = stack.enter_context(LocalBucket(root / "s3", full=full))
        await port_open(nats.port)
        await port_open(local.port)
        proxy = await stack.enter_async_context(faulty_store(local.port, seed))
        settings = load_settings(
            nats_urls=(nats.url,),
            temporal_address=temporal.address,
            s3_endpoint=f"http://127.0.0.1:{proxy.port}",
            s3_bucket=BUCKET,
            s3_access_key="test",
            s3_secret_key="test",  # noqa: S106  # localbucket checks none
            s3_region="us-east-1",
            **{"js_max_bytes": 1024**3, **overrides},
        )
        log = await stack.enter_async_context(await JetStreamLog.connect([nats.url], name="test"))
        await log.ensure_streams(settings)
        objects = await stack.enter_async_context(ObjectStore.connect(settings))
        lake = Lake(objects)
        if bucket:
            await objects.create_bucket()
        client = await connect_patiently(settings)
        activities = ArchiveActivities(log, STREAMS, lake)
        if workers:
            for worker in (
                archive_worker(client, activities, cached=cached),
                lake_worker(client, log, settings, lake, cached=cached),
            ):
                await stack.enter_async_context(worker)
        producer = Producer(log, settings.shard_count)
        yield Site(
            settings,
            nats,
            temporal,
            proxy,
            local,
            root / "s3",
            log,
            client,
            lake,
            objects,
            producer,
            activities,
        )


async def publish(site: Site, messages: int, products: Sequence[str] = PRODUCTS) -> None:
    """Publish so many messages of two ticks, product after product."""
    for number in range(messages):
        await site.producer.ticks(products[number % len(products)], 2)
