"""The snapshot worker on a real log and real stores: rows follow the log, whatever goes down."""

import asyncio
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from models.settings import Settings
from storage.latest import DEPTH, LatestRow, LatestStore, is_whole
from storage.latest_nats import NatsLatestStore
from storage.latest_store import latest_store
from streaming.broker.jetstream import JetStreamLog
from tests.gateways import PRODUCT, SUBJECT, publish_checkpoint, snapshot, status, tick
from tests.servers import PATIENCE_S, NatsServer, Process, eventually, free_port, port_open
from tests.servers_s3 import MotoServer, store_settings
from workers.snapshotter import Snapshotter

PERIOD_S = 0.01


@asynccontextmanager
async def snapshotting(
    log: JetStreamLog, settings: Settings, store: LatestStore
) -> AsyncIterator[Snapshotter]:
    """Run a snapshotter in this process; it ends as a killed one does, without a last word."""
    snapshotter = Snapshotter(log, settings.streams, store, PERIOD_S)
    tasks = [asyncio.create_task(snapshotter.read()), asyncio.create_task(snapshotter.write())]
    try:
        yield snapshotter
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for task in tasks:
            assert task.cancelled()


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[LatestStore]:
    """Give the log's own server as a store."""
    async with latest_store(settings, create=True) as store:
        yield store


async def row_at(store: LatestStore, position: int, product: str = PRODUCT) -> LatestRow:
    """Wait for the row that reflects everything up to a position."""
    found: list[LatestRow] = []

    async def there() -> bool:
        row = await store.get("coinbase", product)
        if row is not None and row.position == position:
            found.append(row)
        return bool(found)

    await eventually(there)
    return found[0]


def lines_of(row: LatestRow) -> list[Any]:
    """Return a row's lines, decoded."""
    return [json.loads(line) for line in row.lines]


def deep_book(seq: int, levels: int) -> bytes:
    """Return the snapshot of a book with so many levels a side; bids from 1 up."""
    bids = [[str(price), "1"] for price in range(1, levels + 1)]
    asks = [[str(price), "1"] for price in range(10**6, 10**6 + levels)]
    return snapshot(seq, json.dumps({"bids": bids, "asks": asks}), feed="book")


async def test_row_follows_the_log(
    log: JetStreamLog, settings: Settings, store: LatestStore
) -> None:
    """All feeds and their statuses; the position is the newest message's, and so is the epoch."""
    await log.publish(SUBJECT, tick(7, 0) + b"\n" + deep_book(3, 2) + b"\n" + status("gap"))
    async with snapshotting(log, settings, store):
        first = await row_at(store, 1)
        assert first.epoch == (await log.extent(settings.streams.ticks)).created_us
        ticker, trouble, book = lines_of(first)
        assert (ticker["feed"], ticker["seq"]) == ("ticker", 7)
        assert ticker["state"]["last_trade"]["id"] == 7
        assert trouble["state"] == "gap"
        assert book["state"]["bids"] == [["2", "1"], ["1", "1"]]
        await log.publish(SUBJECT, tick(4, feed="book") + b"\n" + status("live"))
        _, trouble, book = lines_of(await row_at(store, 2))
        assert trouble["state"] == "live"
        assert (book["seq"], book["state"]["bids"][0]) == (4, ["4.50", "1.0"])


async def test_row_is_written_at_most_once_in_a_period(
    log: JetStreamLog, settings: Settings, store: LatestStore
) -> None:
    """A thousand messages are a few rows, and the last one is there."""
    async with snapshotting(log, settings, store) as snapshotter:
        for seq in range(1, 1001):
            await log.publish(SUBJECT, tick(seq))
        await row_at(store, 1000)
        assert 1 <= snapshotter._rows.values[()] < 500
        assert snapshotter._lags() == {(): 0.0}


async def test_book_with_a_missing_change_is_left_out_until_its_next_snapshot(
    log: JetStreamLog, settings: Settings, store: LatestStore
) -> None:
    """A wrong book is worse than none; the other feeds go on."""
    async with snapshotting(log, settings, store):
        await log.publish(SUBJECT, deep_book(3, 2) + b"\n" + tick(9, feed="book"))
        assert (await row_at(store, 1)).lines == ()
        await log.publish(SUBJECT, tick(10, feed="book") + b"\n" + tick(1))
        assert [line["feed"] for line in lines_of(await row_at(store, 2))] == ["ticker"]
        await log.publish(SUBJECT, deep_book(12, 2) + b"\n" + tick(13, feed="book"))
        _, book = lines_of(await row_at(store, 3))
        assert (book["feed"], book["seq"]) == ("book", 13)


async def test_message_that_is_not_canonical_is_left_out(
    log: JetStreamLog, settings: Settings, store: LatestStore
) -> None:
    """What came before it and what comes after it counts."""
    async with snapshotting(log, settings, store):
        await log.publish(SUBJECT, tick(1))
        await log.publish(SUBJECT, b"nonsense")
        (ticker,) = lines_of(await row_at(store, 2))
        assert ticker["seq"] == 1


async def test_restart_goes_on_from_the_rows(
    log: JetStreamLog, settings: Settings, store: LatestStore
) -> None:
    """What the log has dropped meanwhile is still in the row."""
    await log.publish(SUBJECT, deep_book(3, 5))
    async with snapshotting(log, settings, store):
        await row_at(store, 1)
    await log.publish(SUBJECT, tick(4, feed="book"))
    await log._js.purge_stream(settings.streams.ticks, seq=2)
    async with snapshotting(log, settings, store) as snapshotter:
        (book,) = lines_of(await row_at(store, 2))
        assert (book["seq"], len(book["state"]["bids"])) == (4, 6)
        assert snapshotter._rows.values[()] == 1


async def test_restart_with_a_deep_book_takes_its_checkpoint(
    log: JetStreamLog, settings: Settings, store: LatestStore
) -> None:
    """A row has the best levels only: those below must come up when the best are gone."""
    levels = 2 * DEPTH
    await log.publish(SUBJECT, deep_book(3, levels))
    async with snapshotting(log, settings, store):
        row = await row_at(store, 1)
        assert not is_whole(row)
        assert len(lines_of(row)[0]["state"]["bids"]) == DEPTH
    await publish_checkpoint(log, 1, [deep_book(3, levels)])
    gone = ",".join(f'["bid","{price}","0"]' for price in range(levels, DEPTH, -1))
    line = tick(4, feed="book").replace(b'["bid","4.50","1.0"]', gone.encode())
    await log.publish(SUBJECT, line)
    await log._js.purge_stream(settings.streams.ticks, seq=2)
    async with snapshotting(log, settings, store):
        (book,) = lines_of(await row_at(store, 2))
        assert book["state"]["bids"][0] == [str(DEPTH), "1"]
        assert len(book["state"]["bids"]) == DEPTH


async def test_row_of_another_log_is_replaced(
    log: JetStreamLog, settings: Settings, store: LatestStore
) -> None:
    """The stream was made anew: its low positions are newer than the high ones of before."""
    await store.put([LatestRow("coinbase", PRODUCT, 1, 10**9, 1, (tick(5).decode(),))])
    await log.publish(SUBJECT, tick(1))
    async with snapshotting(log, settings, store):
        assert lines_of(await row_at(store, 1))[0]["seq"] == 1


async def test_store_that_is_away_costs_no_memory_and_gets_the_newest_state(
    log: JetStreamLog, settings: Settings, tmp_path: Path
) -> None:
    """What changed meanwhile is one row per product when it is back."""
    with NatsServer(tmp_path / "store") as server:
        await port_open(server.port)
        elsewhere = settings.model_copy(update={"nats_urls": (server.url,)})
        async with (
            latest_store(elsewhere, create=True) as store,
            snapshotting(log, settings, store) as snapshotter,
        ):
            await log.publish(SUBJECT, tick(1))
            await row_at(store, 1)
            written = snapshotter._rows.values[()]
            server.kill()
            for seq in range(2, 502):
                await log.publish(SUBJECT, tick(seq))
            await eventually(lambda: snapshotter._lags()[()] > 0.5)
            assert len({*snapshotter._due, *snapshotter._writing}) == 1
            server.start()
            await port_open(server.port)
            await row_at(store, 501)
            assert snapshotter._rows.values[()] <= written + 3


async def test_rows_go_to_dynamodb(log: JetStreamLog, settings: Settings, tmp_path: Path) -> None:
    """LATEST_STORE names the store; its table is made where there is none."""
    with MotoServer(tmp_path) as server:
        await port_open(server.port)
        there = store_settings(server.port, latest_store="dynamodb")
        for seq in (1, 2):
            await log.publish(SUBJECT, tick(seq))
            async with (
                latest_store(there, create=True) as store,
                snapshotting(log, settings, store),
            ):
                assert lines_of(await row_at(store, seq))[0]["seq"] == seq


async def test_worker_killed_again_and_again_ends_with_the_newest_state(
    log: JetStreamLog, settings: Settings, nats_server: NatsServer, tmp_path: Path
) -> None:
    """Ticks keep coming while the process is killed; nothing is lost or wrong in the end."""
    port = free_port()
    env = {"NATS_URLS": nats_server.url, "METRICS_PORT": str(port), "SNAPSHOT_PERIOD_MS": "5"}
    worker = Process([sys.executable, "-m", "workers.snapshot"], tmp_path / "log", env)
    stop = asyncio.Event()
    seq = 3

    async def write() -> None:
        nonlocal seq
        await log.publish(SUBJECT, deep_book(3, 5))
        while not stop.is_set():
            seq += 1
            await log.publish(SUBJECT, tick(seq, feed="book") + b"\n" + tick(seq - 3))

    async with latest_store(settings, create=True) as store, asyncio.TaskGroup() as tasks:
        tasks.create_task(write())
        with worker:
            for _ in range(3):
                before = await store.get("coinbase", PRODUCT)
                reached = 0 if before is None else before.position

                async def moved(reached: int = reached) -> bool:
                    row = await store.get("coinbase", PRODUCT)
                    return row is not None and row.position > reached

                await eventually(moved)
                worker.kill()
                worker.start()
            stop.set()
            await asyncio.sleep(0)
            await eventually(lambda: metric(port, "md_snapshot_rows_total") >= 0)
            row = await row_at(store, await log.end(settings.streams.ticks))
            ticker, book = lines_of(row)
            assert (ticker["seq"], book["seq"]) == (seq - 3, seq)
            best = [float(price) for price, _ in book["state"]["bids"] if float(price) > 5]
            assert best == [n + 0.5 for n in range(seq, max(seq - DEPTH, 4), -1)]
            assert worker.stop() == 0


async def test_worker_stores_what_is_due_before_it_ends(
    log: JetStreamLog, settings: Settings, nats_server: NatsServer, tmp_path: Path
) -> None:
    """With a long period the last change is written by the order to stop."""
    port = free_port()
    env = {"NATS_URLS": nats_server.url, "METRICS_PORT": str(port), "SNAPSHOT_PERIOD_MS": "60000"}
    command = [sys.executable, "-m", "workers.snapshot"]
    async with latest_store(settings, create=True) as store:
        with Process(command, tmp_path / "log", env) as worker:
            await log.publish(SUBJECT, tick(1))
            await row_at(store, 1)
            await log.publish(SUBJECT, tick(2))
            await eventually(lambda: metric(port, "md_snapshot_lag_seconds") > 0)
            assert worker.stop() == 0
        assert (await row_at(store, 2)).position == 2


def metric(port: int, name: str) -> float:
    """Return one metric of the worker."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
    return -1.0


async def test_worker_without_its_store_ends_with_a_sentence(nats_server: NatsServer) -> None:
    """Its supervisor starts it again; a person reads what is wrong."""
    env = {
        "NATS_URLS": nats_server.url,
        "LATEST_STORE": "dynamodb",
        "DDB_ENDPOINT": f"http://127.0.0.1:{free_port()}",
        "S3_ACCESS_KEY": "key",
        "S3_SECRET_KEY": "secret",
    }
    result = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "workers.snapshot"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**os.environ, **env},
        check=False,
    )
    assert result.returncode == 1
    assert "ledgerflux_latest: no answer" in result.stderr
    assert "Traceback" not in result.stderr


async def test_restart_beside_an_unreadable_row_and_checkpoint_reads_the_log(
    log: JetStreamLog, settings: Settings
) -> None:
    """Neither is believed; the log has everything."""
    async with NatsLatestStore.connect(settings) as store:
        await store.create_bucket(64 * 1024**2)
        await log.publish(SUBJECT, tick(1))
        epoch = (await log.extent(settings.streams.ticks)).created_us
        await store.put([LatestRow("coinbase", PRODUCT, epoch, 0, 0, ("nonsense",))])
        await log.publish(f"market.state.0.coinbase.{PRODUCT}", b"nonsense")
        async with snapshotting(log, settings, store):
            assert lines_of(await row_at(store, 1))[0]["seq"] == 1
