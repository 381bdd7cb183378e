"""The contract of the latest-state stores, on a real nats-server and on moto's DynamoDB."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import pytest

from models.settings import Settings, load_settings
from storage.errors import MissingStoreError, UnavailableError
from storage.latest import MAX_ROW_BYTES, LatestRow, LatestStore, RowTooLargeError
from storage.latest_dynamodb import DynamoLatestStore
from storage.latest_nats import NatsLatestStore
from tests.servers import PATIENCE_S, NatsServer, Process, free_port, port_open
from tests.servers_s3 import MotoServer, proxy, store_settings

Kind = Literal["nats", "dynamodb"]
KINDS: tuple[Kind, ...] = ("nats", "dynamodb")


class Backend:
    """A server and the settings that lead to it."""

    def __init__(self, kind: Kind, server: Process, settings: Settings) -> None:
        self.kind, self.server, self.settings = kind, server, settings

    @asynccontextmanager
    async def store(self, *, create: bool = True) -> AsyncIterator[LatestStore]:
        """Connect as another process would."""
        if self.kind == "nats":
            async with NatsLatestStore.connect(self.settings) as rows:
                if create:
                    await rows.create_bucket(64 * 1024**2)
                yield rows
        else:
            async with DynamoLatestStore.connect(self.settings) as items:
                if create:
                    await items.create_table()
                yield items


@pytest.fixture(params=KINDS)
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    """Give each backend in turn, running and empty."""
    if request.param == "nats":
        with NatsServer(tmp_path / "nats") as nats:
            await port_open(nats.port)
            yield Backend("nats", nats, load_settings(nats_urls=(nats.url,)))
    else:
        with MotoServer(tmp_path) as moto:
            await port_open(moto.port)
            yield Backend("dynamodb", moto, store_settings(moto.port))


def row(
    product: str = "BTC-USD", *, epoch: int = 1, position: int = 1, text: str = "a"
) -> LatestRow:
    """Return a row."""
    return LatestRow("coinbase", product, epoch, position, position * 10, (f'{{"{text}":1}}', "{}"))


async def test_row_that_was_put_is_read_back(backend: Backend) -> None:
    """What goes in comes out, to another process as well; an unknown product has no row."""
    async with backend.store() as store:
        assert await store.get("coinbase", "BTC-USD") is None
        assert await store.put([row(), row("A_1-X")]) == 2
        assert await store.get("coinbase", "BTC-USD") == row()
    async with backend.store() as store:
        assert await store.get("coinbase", "A_1-X") == row("A_1-X")


async def test_older_position_never_overwrites_a_newer_one(backend: Backend) -> None:
    """Nor does an equal one: a repeat writes nothing, and is no error."""
    async with backend.store() as store, backend.store() as late:
        assert await late.put([row(position=5, text="five")]) == 1
        assert await store.put([row(position=7, text="seven")]) == 1
        assert await late.put([row(position=6, text="six")]) == 0
        assert await late.put([row(position=7, text="other")]) == 0
        assert await store.get("coinbase", "BTC-USD") == row(position=7, text="seven")
        assert await late.put([row(position=8)]) == 1
        assert await store.put([row(position=7), row("ETH-USD")]) == 1


async def test_new_epoch_begins_to_count_anew(backend: Backend) -> None:
    """A stream that was made anew has low positions, and they are newer."""
    async with backend.store() as store:
        await store.put([row(epoch=1, position=1000)])
        assert await store.put([row(epoch=2, position=1, text="new")]) == 1
        assert await store.put([row(epoch=1, position=2000)]) == 0
        assert await store.get("coinbase", "BTC-USD") == row(epoch=2, position=1, text="new")


async def test_writers_at_once_leave_the_newest_row(backend: Backend) -> None:
    """Whatever order two writers' rows arrive in, the newest stays."""
    names = [f"P{number}-USD" for number in range(8)]
    async with backend.store() as first, backend.store() as second:

        async def write(store: LatestStore, positions: range) -> None:
            for position in positions:
                await store.put([row(name, position=position) for name in names])

        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
            tasks.create_task(write(first, range(1, 20, 2)))
            tasks.create_task(write(second, range(2, 21, 2)))
        assert {one.position for one in [one async for one in first.all()]} == {20}


async def test_all_gives_every_row_once(backend: Backend) -> None:
    """The gateway warms up from all rows: more of them than one page or one request holds."""
    deep = "x" * 12_000
    rows = [row(f"P{number}-USD", position=number + 1, text=deep) for number in range(150)]
    async with backend.store() as store:
        assert [one async for one in store.all()] == []
        assert await store.put(rows) == 150
        found = sorted([one async for one in store.all()], key=lambda one: one.position)
        assert found == rows


async def test_deep_book_is_compressed_and_comes_back(backend: Backend) -> None:
    """Rows that would not fit as text do fit, up to a bound that is told before writing."""
    levels = ",".join(f'["{price}.25","0.{price}"]' for price in range(20_000))
    line = f'{{"bids":[{levels}]}}'
    deep = LatestRow("coinbase", "BTC-USD", 1, 1, 1, (line,))
    assert len(line) > MAX_ROW_BYTES
    noise = "".join(chr(33 + (number * number * 7919) % 90) for number in range(2000))
    huge = ("".join(f"{hash((noise, number))}" for number in range(60_000)),)
    async with backend.store() as store:
        assert await store.put([deep]) == 1
        assert await store.get("coinbase", "BTC-USD") == deep
        with pytest.raises(RowTooLargeError, match="keep fewer levels"):
            await store.put([row("ETH-USD"), LatestRow("coinbase", "X", 1, 1, 1, huge)])
        assert await store.get("coinbase", "ETH-USD") is None


async def test_store_that_does_not_exist_is_told(backend: Backend) -> None:
    """A missing table or bucket is final, and says what to do."""
    async with backend.store(create=False) as store:
        with pytest.raises(MissingStoreError) as missing:
            await store.put([row()])
        assert missing.value.is_final
        with pytest.raises(MissingStoreError):
            await store.get("coinbase", "BTC-USD")
        with pytest.raises(MissingStoreError):
            [one async for one in store.all()]


async def test_create_twice_is_no_error(backend: Backend) -> None:
    """A worker that starts again finds its store and the rows in it."""
    async with backend.store() as store:
        await store.put([row()])
    async with backend.store() as store:
        assert await store.get("coinbase", "BTC-USD") == row()


async def test_nats_server_restart_within_a_put_is_waited_for(tmp_path: Path) -> None:
    """Rows that are being written while the server is away are stored when it is back."""
    with NatsServer(tmp_path / "nats") as server:
        await port_open(server.port)
        backend = Backend("nats", server, load_settings(nats_urls=(server.url,)))
        async with backend.store() as store:
            await store.put([row(position=1)])
            server.kill()
            putting = asyncio.ensure_future(store.put([row(position=2)]))
            server.start()
            await port_open(server.port)
            async with asyncio.timeout(PATIENCE_S):
                assert await putting in {0, 1}  # 0: stored, and its answer was lost
            assert await store.get("coinbase", "BTC-USD") == row(position=2)


async def test_nats_that_is_not_there_is_told() -> None:
    """No server: an error that names the setting, in time."""
    settings = load_settings(nats_urls=(f"nats://127.0.0.1:{free_port()}",))
    with pytest.raises(UnavailableError, match="NATS_URLS"):
        async with NatsLatestStore.connect(settings, wait_s=0.5):
            pass


async def test_dynamodb_repeats_what_a_broken_connection_lost(tmp_path: Path) -> None:
    """Refused connections are tried again, a bounded number of times."""
    with MotoServer(tmp_path) as moto:
        await port_open(moto.port)
        async with proxy(moto.port) as before:
            backend = Backend("dynamodb", moto, store_settings(before.port))
            async with backend.store() as store:
                before.refused = 3
                assert await store.put([row(f"P{number}") for number in range(6)]) == 6
        async with backend.store(create=False) as store:
            async with asyncio.timeout(PATIENCE_S):
                with pytest.raises(UnavailableError):
                    await store.put([row(position=2)])
