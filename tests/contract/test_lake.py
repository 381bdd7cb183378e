"""The lake on real object stores: localbucket of the embedded stack, and moto's S3."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import duckdb
import pytest

from models.settings import Settings
from storage.errors import (
    ConflictError,
    DamagedError,
    DeniedError,
    MissingStoreError,
    NoSpaceError,
    ObjectMissingError,
    StorageError,
    UnavailableError,
    WrongRegionError,
)
from storage.lake import Lake
from storage.layout import Hour, Lane, Piece, cut
from storage.manifest import Hole, compactable, gaps
from storage.objects import ObjectStore
from storage.parcel import Parcel, decode, merge
from storage.rows import Message
from tests.servers import PATIENCE_S, Process, free_port, port_open
from tests.servers_s3 import (
    BUCKET,
    LocalBucket,
    MotoServer,
    proxy,
    refusing,
    store_settings,
)

pytestmark = pytest.mark.long

LANE = Lane("ticks", "coinbase", 0, 1_790_000_000_000_000)
HOUR = Hour.of(1_790_000_000_000_000)
KINDS: tuple[Literal["localbucket", "moto"], ...] = ("localbucket", "moto")


class Backend:
    """A running object store with an empty bucket. Attributes: port; root, of localbucket."""

    def __init__(self, server: Process, port: int, root: Path | None) -> None:
        self.server, self.port, self.root = server, port, root

    @property
    def settings(self) -> Settings:
        """Settings that lead to it."""
        return store_settings(self.port)

    @asynccontextmanager
    async def store(self, settings: Settings | None = None) -> AsyncIterator[ObjectStore]:
        """Connect as another process would."""
        async with ObjectStore.connect(settings or self.settings) as store:
            yield store


@asynccontextmanager
async def running(kind: str, tmp_path: Path) -> AsyncIterator[Backend]:
    """Run a store and create the bucket."""
    server = LocalBucket(tmp_path / "s3") if kind == "localbucket" else MotoServer(tmp_path)
    root = tmp_path / "s3" / BUCKET if kind == "localbucket" else None
    with server:
        await port_open(server.port)
        backend = Backend(server, server.port, root)
        async with backend.store() as store:
            await store.create_bucket()
            await store.create_bucket()
        yield backend


@pytest.fixture(params=KINDS)
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    """Give each store in turn."""
    async with running(request.param, tmp_path) as backend:
        yield backend


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[Backend]:
    """Give the embedded store alone."""
    async with running("localbucket", tmp_path) as backend:
        yield backend


def tick(seq: int, prev: int, product: str = "BTC-USD", *, time_us: int | None = None) -> bytes:
    """Return a canonical trade."""
    moment = HOUR.start_us + seq if time_us is None else time_us
    return (
        f'{{"v":1,"type":"tick","venue":"coinbase","product":"{product}","feed":"trades",'
        f'"seq":{seq},"prev_seq":{prev},"ts_event":{moment},"ts_ingest":{moment},"fields":'
        f'{{"last_trade":{{"px":65123.40,"qty":0.5{seq % 10},"side":"buy","id":{seq}}}}}}}'
    ).encode()


def messages(first: int, last: int, product: str = "BTC-USD") -> list[Message]:
    """Return a message of two linked ticks at each position."""
    return [
        Message(at, product, tick(2 * at, 2 * at - 1) + b"\n" + tick(2 * at + 1, 2 * at))
        for at in range(first, last + 1)
    ]


def piece(first: int, last: int, *, hour: Hour = HOUR) -> Piece:
    """Return a piece with a message at each position."""
    return Piece(hour, first, last, messages(first, last))


async def test_piece_is_stored_listed_and_read_back(backend: Backend) -> None:
    """What was put is what is read, and the manifest knows it without opening it."""
    async with backend.store() as store:
        lake = Lake(store)
        entry = await lake.put(LANE, piece(1, 9))
        assert (await lake.manifest(LANE, HOUR)).entries == (entry,)
        assert await lake.messages(LANE, HOUR, entry) == messages(1, 9)
    span = entry.spans["BTC-USD"]["trades"]
    assert (entry.messages, entry.rows, span.rows, span.breaks) == (9, 18, 18, 0)
    assert (span.first_seq, span.last_seq, span.links_to) == (2, 19, 1)
    assert (entry.since_us, entry.until_us) == (HOUR.start_us + 2, HOUR.start_us + 19)


async def test_repeat_of_a_put_changes_nothing(backend: Backend) -> None:
    """An archiver that died before it could note its success puts the same range again."""
    async with backend.store() as store:
        lake = Lake(store)
        first = await lake.put(LANE, piece(1, 9))
        assert await lake.put(LANE, piece(1, 9)) == first
        assert (await lake.manifest(LANE, HOUR)).entries == (first,)


async def test_object_that_was_never_listed_is_listed_by_the_repeat(backend: Backend) -> None:
    """A crash between object and manifest leaves nothing behind that the repeat does not heal."""
    async with backend.store() as store:
        lake = Lake(store)
        entry = await lake.put(LANE, piece(1, 9))
        async for info in store.keys(f"{LANE.folder(HOUR)}manifest-"):
            await store.delete(info.key)
        assert (await lake.manifest(LANE, HOUR)).entries == ()
        assert await lake.put(LANE, piece(1, 9)) == entry
        assert (await lake.manifest(LANE, HOUR)).entries == (entry,)


async def test_range_with_other_content_is_refused(backend: Backend) -> None:
    """Nothing is overwritten: neither a listed object, nor one that is not, nor a part of one."""
    other = Piece(HOUR, 1, 9, messages(1, 8))
    async with backend.store() as store:
        lake = Lake(store)
        await lake.put(LANE, piece(1, 9))
        with pytest.raises(ConflictError, match="other content"):
            await lake.put(LANE, other)
        with pytest.raises(ConflictError, match="part of this range"):
            await lake.put(LANE, piece(9, 12))
        async for info in store.keys(f"{LANE.folder(HOUR)}manifest-"):
            await store.delete(info.key)
        with pytest.raises(ConflictError, match="should hold 8"):
            await lake.put(LANE, other)


async def test_writers_at_once_lose_no_entry(backend: Backend) -> None:
    """The manifest is swapped version by version; whoever was second does it again."""
    async with backend.store() as one, backend.store() as two:
        lakes = [Lake(one), Lake(two)]
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
            for number in range(8):
                part = piece(10 * number + 1, 10 * number + 10)
                tasks.create_task(lakes[number % 2].put(LANE, part))
        manifest = await lakes[0].manifest(LANE, HOUR)
        assert [one.first for one in manifest.entries] == [10 * n + 1 for n in range(8)]
        assert gaps([manifest]) == []
        assert len([info async for info in one.keys(f"{LANE.folder(HOUR)}manifest-")]) <= 4


async def test_compacted_objects_are_swapped_and_swept(backend: Backend) -> None:
    """Readers see either the small objects or the large one; the small ones go when swept."""
    async with backend.store() as store:
        lake = Lake(store)
        parts = [await lake.put(LANE, piece(first, first + 9)) for first in (1, 11, 21)]
        before = await lake.manifest(LANE, HOUR)
        (group,) = compactable(before, 1000, 10**9)
        assert group == parts
        parcels = [Parcel(await lake.fetch(LANE, HOUR, part), part) for part in parts]
        whole = merge(LANE, parcels)
        for _ in range(2):
            await lake.replace(LANE, HOUR, parts, whole)
            (entry,) = (await lake.manifest(LANE, HOUR)).entries
        assert (entry.first, entry.last, entry.rows) == (1, 30, 60)
        assert await lake.messages(LANE, HOUR, entry) == messages(1, 30)
        assert await lake.messages(LANE, HOUR, parts[1]) == messages(11, 20)
        assert len(await lake.sweep(LANE, HOUR)) == 3
        assert await lake.sweep(LANE, HOUR) == []
        with pytest.raises(ObjectMissingError):
            await lake.messages(LANE, HOUR, parts[1])
        assert await lake.put(LANE, piece(11, 20)) == parts[1]  # a very late repeat
        assert (await lake.manifest(LANE, HOUR)).entries == (entry,)
        with pytest.raises(ConflictError, match="not listed"):
            await lake.replace(LANE, HOUR, [parts[0]], merge(LANE, parcels[:1]))


async def test_range_that_is_missing_shows_until_it_is_a_known_hole(backend: Backend) -> None:
    """What neither an object nor a hole accounts for is a gap; what is stored can be no hole."""
    async with backend.store() as store:
        lake = Lake(store)
        await lake.put(LANE, piece(1, 10))
        await lake.put(LANE, piece(16, 20))
        assert gaps([await lake.manifest(LANE, HOUR)]) == [(11, 15)]
        hole = Hole(11, 15, HOUR.start_us, "expired before it was archived")
        await lake.note_hole(LANE, HOUR, hole)
        await lake.note_hole(LANE, HOUR, hole)
        assert (await lake.manifest(LANE, HOUR)).holes == (hole,)
        assert gaps([await lake.manifest(LANE, HOUR)]) == []
        with pytest.raises(ConflictError, match="no hole"):
            await lake.note_hole(LANE, HOUR, Hole(5, 11, 0, "x"))


async def test_hours_of_a_venue_are_listed(backend: Backend) -> None:
    """Every hour and lane that holds something is found, within bounds."""
    other = Lane("ticks", "coinbase", 3, LANE.epoch)
    next_day = Hour(HOUR.number + 24)
    async with backend.store() as store:
        lake = Lake(store)
        assert await lake.hours("ticks", "coinbase") == []
        await lake.put(LANE, piece(1, 2))
        await lake.put(other, piece(1, 2))
        await lake.put(LANE, piece(3, 4, hour=next_day))
        assert await lake.hours("ticks", "coinbase") == [
            (HOUR, LANE),
            (HOUR, other),
            (next_day, LANE),
        ]
        assert await lake.hours("ticks", "coinbase", since=next_day) == [(next_day, LANE)]
        assert await lake.hours("raw", "coinbase") == []


def test_range_is_cut_at_the_hour_without_a_hole() -> None:
    """Pieces follow one another; a straggler does not go back to the hour before."""
    border = HOUR.start_us + 3_600_000_000
    times = [border - 2, border - 1, border, border - 1, border + 1]
    log = [
        Message(10 * at, "BTC-USD", tick(at, at - 1, time_us=time_us))
        for at, time_us in enumerate(times, 1)
    ]
    early, late = cut(5, 99, log)
    assert (early.hour, early.first, early.last, early.messages) == (HOUR, 5, 29, log[:2])
    assert (late.first, late.last, late.messages) == (30, 99, log[2:])
    assert late.hour == Hour(HOUR.number + 1)
    assert str(HOUR) == "date=2026-09-21/hour=14"
    assert cut(5, 99, []) == []


async def test_damaged_object_is_noticed(local: Backend) -> None:
    """A flipped byte, a cut end, or somebody else's object: told, not read."""
    assert local.root is not None
    async with local.store() as store:
        lake = Lake(store)
        entry = await lake.put(LANE, piece(1, 9))
        file = local.root / LANE.key(HOUR, 1, 9)
        good = file.read_bytes()
        for bad in (
            good[:100] + bytes([good[100] ^ 0x55]) + good[101:],
            good[:-20],
            b"",
            b"PAR1 no object PAR1",
        ):
            file.write_bytes(bad)
            with pytest.raises(DamagedError):
                await lake.messages(LANE, HOUR, entry)
        file.write_bytes(good)
        assert await lake.messages(LANE, HOUR, entry) == messages(1, 9)
        before = await lake.manifest(LANE, HOUR)
        (local.root / LANE.manifest_key(HOUR, 99)).write_bytes(b"{}x")
        assert await lake.manifest(LANE, HOUR) == before  # a torn version was never finished
        later = await lake.put(LANE, piece(10, 12))
        after = await lake.manifest(LANE, HOUR)
        assert (after.version, after.entries) == (100, (entry, later))
        for one in local.root.rglob("manifest-*.json"):
            one.write_bytes(b"{}x")
        with pytest.raises(DamagedError, match="no manifest"):
            await lake.manifest(LANE, HOUR)


async def test_first_manifest_that_was_never_finished_counts_as_none(local: Backend) -> None:
    """A connection that is cut while an hour is begun does not end its archiving."""
    assert local.root is not None
    torn = local.root / LANE.manifest_key(HOUR, 1)
    torn.parent.mkdir(parents=True)
    torn.write_bytes(b'{"version":1,"entr')
    async with local.store() as store:
        lake = Lake(store)
        assert (await lake.manifest(LANE, HOUR)).entries == ()
        entry = await lake.put(LANE, piece(1, 9))
        assert (await lake.manifest(LANE, HOUR)).entries == (entry,)


async def test_duckdb_reads_the_lake_and_proves_the_chain(local: Backend) -> None:
    """Plain SQL sees every row once, typed, with the partitions as columns, and whole chains."""
    assert local.root is not None
    async with local.store() as store:
        lake = Lake(store)
        for first in (1, 11, 21):
            await lake.put(LANE, piece(first, first + 9))
    source = f"read_parquet('{local.root}/bronze/ticks/**/*.parquet', hive_partitioning = true)"
    # The only thing that is put into these statements is our own folder.
    rows = (
        "SELECT count(*), count(DISTINCT (position, line)), sum(trade_qty), any_value(venue), "  # noqa: S608
        f"any_value(date)::VARCHAR, any_value(hour), any_value(shard) FROM {source}"
    )
    breaks = (
        "SELECT count(*) FROM (SELECT prev_seq, lag(seq) OVER (PARTITION BY product, feed "  # noqa: S608
        f"ORDER BY position, line) AS before FROM {source}) WHERE prev_seq <> before"
    )
    with duckdb.connect() as db:
        row = db.execute(rows).fetchone()
        broken = db.execute(breaks).fetchone()
    assert row is not None
    assert row[:2] == (60, 60)
    assert str(row[2]) == "32.70000000"
    assert row[3:] == ("coinbase", "2026-09-21", 14, 0)
    assert broken == (0,)


async def test_cut_and_refused_connections_are_survived(local: Backend) -> None:
    """What the network loses is tried again; what it keeps losing is told, and not for ever."""
    async with proxy(local.port) as before, local.store(store_settings(before.port)) as store:
        lake = Lake(store)
        before.refused = 2
        entry = await lake.put(LANE, piece(1, 9))
        assert await lake.messages(LANE, HOUR, entry) == messages(1, 9)
    async with proxy(local.port) as cutting:
        cutting.cut_after = 500
        async with local.store(store_settings(cutting.port)) as store, asyncio.timeout(PATIENCE_S):
            with pytest.raises(UnavailableError) as failed:
                await Lake(store).messages(LANE, HOUR, entry)
            assert not failed.value.is_final


async def test_store_that_is_away_is_told(local: Backend) -> None:
    """Nobody listens: an error that may pass, within bounded time."""
    async with local.store(store_settings(free_port())) as store, asyncio.timeout(PATIENCE_S):
        with pytest.raises(UnavailableError, match=r"s3://lake/x: no answer") as failed:
            await store.get("x")
        assert not failed.value.is_final


async def test_missing_bucket_and_object_are_told_apart(backend: Backend) -> None:
    """Both are final; one is a setting, the other a name."""
    async with backend.store(store_settings(backend.port, s3_bucket="nowhere")) as store:
        with pytest.raises(MissingStoreError, match="create it"):
            await store.put_new("x", b"")
        with pytest.raises(MissingStoreError):
            [info async for info in store.keys("bronze/")]
    async with backend.store() as store:
        with pytest.raises(ObjectMissingError) as missing:
            await store.get("x")
        assert missing.value.is_final
        await store.delete("x")


async def test_keys_that_are_not_permitted_are_told(tmp_path: Path) -> None:
    """A store that checks keys refuses unknown ones: final, and it says so."""
    with MotoServer(tmp_path, INITIAL_NO_AUTH_ACTION_COUNT="0") as server:
        await port_open(server.port)
        async with ObjectStore.connect(store_settings(server.port)) as store:
            with pytest.raises(DeniedError, match="check the keys") as denied:
                await store.get("x")
            assert denied.value.is_final


@pytest.mark.parametrize(
    ("status", "code", "kind", "is_final"),
    [
        (301, "PermanentRedirect", WrongRegionError, True),
        (400, "AuthorizationHeaderMalformed", WrongRegionError, True),
        (403, "AccessDenied", DeniedError, True),
        (507, "XMinioStorageFull", NoSpaceError, False),
        (503, "SlowDown", UnavailableError, False),
        (500, "InternalError", UnavailableError, False),
    ],
)
async def test_errors_of_a_store_are_translated(
    status: int, code: str, kind: type[StorageError], *, is_final: bool
) -> None:
    """Each answer becomes the error that says what to do, and whether to try again."""
    async with (
        refusing(status, code) as port,
        ObjectStore.connect(store_settings(port)) as store,
        asyncio.timeout(PATIENCE_S),
    ):
        with pytest.raises(kind) as failed:
            await store.put_new("bronze/x", b"data")
    assert failed.value.is_final is is_final
    assert code in str(failed.value)


async def test_object_stored_once_is_not_stored_again(backend: Backend) -> None:
    """`put_new` tells whether it stored, and leaves what is there."""
    async with backend.store() as store:
        assert await store.put_new("a/b", b"one") is True
        assert await store.put_new("a/b", b"two") is False
        assert await store.get("a/b") == b"one"
        assert [info.key async for info in store.keys("a/")] == ["a/b"]
        assert await store.folders("") == ["a/"]


def test_bytes_that_are_no_object_are_refused() -> None:
    """Decoding tells what is wrong instead of failing somewhere within."""
    with pytest.raises(ValueError, match="no object of the lake"):
        decode("ticks", b"nothing")
