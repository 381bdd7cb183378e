"""Warm-up: checkpoint and log together give the state, with no message missed or doubled."""

import asyncio
import json

from models.settings import Settings
from models.subjects import state_subject
from streaming.broker.jetstream import JetStreamLog
from tests.gateways import (
    PRODUCT,
    SUBJECT,
    numbers,
    publish_checkpoint,
    receive,
    running_gateway,
    snapshot,
    status,
    subscriber,
    tick,
)

BOOK = {"products": [PRODUCT], "feeds": ["book"], "depth": "full"}


async def test_warm_up_from_the_log_alone_replays_it(log: JetStreamLog, settings: Settings) -> None:
    """Without a checkpoint the log is read from its beginning."""
    for seq in range(1, 51):
        await log.publish(SUBJECT, tick(seq, feed="book"))
    async with running_gateway(settings) as gateway, subscriber(gateway, **BOOK) as client:
        _, begun = await receive(client, 2)
        assert begun["data"]["seq"] == 50
        assert len(begun["data"]["state"]["bids"]) == 50


async def test_warm_up_from_a_checkpoint_reads_only_what_came_after(
    log: JetStreamLog, settings: Settings
) -> None:
    """The checkpoint's state, then the log's rest; nothing of the past is applied again."""
    for seq in range(1, 11):
        await log.publish(SUBJECT, tick(seq, feed="book"))
    # A level that no tick brought tells that the checkpoint was used.
    held = snapshot(8, '{"bids":[["7777","1"]],"asks":[]}', feed="book")
    await publish_checkpoint(log, 8, [held, status("gap", feed="book")])
    # A product without a checkpoint makes the gateway read everything, and skip what it holds.
    await log.publish("market.ticks.0.coinbase.ETH-USD", tick(1, product="ETH-USD"))
    async with running_gateway(settings) as gateway, subscriber(gateway, **BOOK) as client:
        _, begun, trouble = await receive(client, 3)
        bids = [price for price, _ in begun["data"]["state"]["bids"]]
        assert bids == ["7777", "10.50", "9.50"]
        assert trouble["data"]["state"] == "gap"
        assert await gateway.metric("md_gateway_broken_links_total") == 0
        await log.publish(SUBJECT, tick(11, feed="book"))
        assert numbers(await receive(client, 1)) == [("incr", 11)]


async def test_warm_up_with_several_checkpoints_of_a_product_takes_the_newest(
    log: JetStreamLog, settings: Settings
) -> None:
    """After the number of shards has changed, an old checkpoint of another shard may remain."""
    for seq in range(1, 6):
        await log.publish(SUBJECT, tick(seq, feed="book"))
    old = snapshot(2, '{"bids":[["2222","1"]],"asks":[]}', feed="book")
    new = snapshot(4, '{"bids":[["4444","1"]],"asks":[]}', feed="book")
    await publish_checkpoint(log, 2, [old], shard=3)
    await publish_checkpoint(log, 4, [new], shard=1)
    async with running_gateway(settings) as gateway, subscriber(gateway, **BOOK) as client:
        _, begun = await receive(client, 2)
        assert [price for price, _ in begun["data"]["state"]["bids"]] == ["4444", "5.50"]


async def test_warm_up_with_an_unreadable_checkpoint_reads_the_log(
    log: JetStreamLog, settings: Settings
) -> None:
    """A checkpoint that is none costs time, not correctness."""
    await log.publish(SUBJECT, tick(1))
    await log.publish(state_subject(0, "coinbase", PRODUCT), b"nonsense")
    async with (
        running_gateway(settings) as gateway,
        subscriber(gateway, products=[PRODUCT], feeds=["ticker"]) as client,
    ):
        assert numbers((await receive(client, 2))[1:]) == [("snapshot", 1)]


async def test_warm_up_with_an_end_that_never_comes_is_over_when_the_log_is_quiet(
    log: JetStreamLog, settings: Settings
) -> None:
    """The newest message may be half of a record whose writer died."""
    await log.publish(SUBJECT, tick(1))
    await log.publish(SUBJECT, b"half", headers={"LF-Part": "dead-1/1/2"})
    async with running_gateway(settings) as gateway:
        products = (await gateway.get("/v1/products")).json()
        assert products[0]["feeds"][0] == {"feed": "ticker", "seq": 1, "status": "live"}


async def test_warm_up_while_the_log_grows_misses_and_doubles_nothing(
    log: JetStreamLog, settings: Settings
) -> None:
    """The reader that warms up is the one that goes on."""
    stop = asyncio.Event()
    written = 0

    async def write() -> None:
        nonlocal written
        while not stop.is_set():
            await log.publish(SUBJECT, tick(written + 1))
            written += 1

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(write())
        for _ in range(2):
            async with (
                running_gateway(settings) as gateway,
                subscriber(gateway, products=[PRODUCT], feeds=["ticker"]) as client,
            ):
                await client.recv()
                newest = json.loads(await client.recv())["data"]["seq"]
                for _ in range(100):
                    message = json.loads(await client.recv())
                    assert message["data"]["prev_seq"] == newest
                    newest = message["data"]["seq"]
                assert await gateway.metric("md_gateway_broken_links_total") == 0
        stop.set()
