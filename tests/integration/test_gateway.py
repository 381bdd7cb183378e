"""The gateway on a real log with real WebSocket clients."""

import asyncio
import json
import random

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from client.subscriber import Subscriber
from models.settings import Settings
from streaming.broker.jetstream import JetStreamLog
from streaming.broker.parts import PART_HEADER
from tests.gateways import (
    PRODUCT,
    SUBJECT,
    RunningGateway,
    numbers,
    receive,
    running_gateway,
    snapshot,
    status,
    subscriber,
    tick,
)
from tests.servers import PATIENCE_S, NatsServer, eventually, port_open

TICKER = {"products": [PRODUCT], "feeds": ["ticker"]}


async def test_subscribe_gets_snapshot_then_every_change(
    log: JetStreamLog, settings: Settings
) -> None:
    """The acknowledgement, the state so far, then each tick, verbatim in value."""
    await log.publish(SUBJECT, tick(1) + b"\n" + tick(2))
    async with running_gateway(settings) as gateway, subscriber(gateway, **TICKER) as client:
        acknowledged, first = await receive(client, 2)
        epoch = acknowledged.pop("epoch")
        assert acknowledged == {"op": "subscribed", **TICKER}
        extent = await log.extent(settings.streams.ticks)
        assert int(epoch, 16) == extent.created_us * 1000
        assert first["op"] == "snapshot"
        assert first["data"]["seq"] == 2
        assert first["data"]["state"]["last_trade"]["px"] == 2.5
        await log.publish(SUBJECT, tick(3))
        await log.publish(SUBJECT, tick(4) + b"\n" + tick(5))
        assert numbers(await receive(client, 3)) == [("incr", 3), ("incr", 4), ("incr", 5)]
        assert await gateway.metric("md_gateway_clients") == 1
        assert await gateway.metric("md_gateway_deliveries_total") == 3


async def test_feed_without_data_begins_with_an_empty_snapshot(
    log: JetStreamLog, settings: Settings
) -> None:
    """Every chain begins with a snapshot, that of nothing too, and the first tick links to it."""
    async with (
        running_gateway(settings) as gateway,
        subscriber(gateway, products=[PRODUCT]) as client,
    ):
        begun = await receive(client, 4)
        assert [(m["data"]["feed"], m["data"]["seq"]) for m in begun[1:]] == [
            ("ticker", 0),
            ("trades", 0),
            ("book", 0),
        ]
        assert begun[3]["data"]["state"] == {"bids": [], "asks": []}
        await log.publish(SUBJECT, tick(9, 0))
        (first,) = await receive(client, 1)
        assert first["data"]["prev_seq"] == 0


async def test_lines_of_several_feeds_keep_their_order(
    log: JetStreamLog, settings: Settings
) -> None:
    """Within a product nothing is reordered, and a client gets only the feeds it wants."""
    lines = [tick(1), tick(1, feed="book"), status("gap"), tick(2), tick(2, feed="book")]
    fresh = snapshot(9, '{"bids":[],"asks":[]}', feed="book")
    async with (
        running_gateway(settings) as gateway,
        subscriber(gateway, products=[PRODUCT]) as all_feeds,
        subscriber(gateway, products=[PRODUCT], feeds=["book"]) as book_only,
    ):
        await receive(all_feeds, 4)
        await receive(book_only, 2)
        await log.publish(SUBJECT, b"\n".join([*lines, fresh]))
        assert [json.dumps(m["data"]) for m in await receive(all_feeds, 6)] == [
            json.dumps(json.loads(line)) for line in [*lines, fresh]
        ]
        got = numbers(await receive(book_only, 3))
        assert got == [("incr", 1), ("incr", 2), ("snapshot", 9)]


async def test_subscribe_to_a_feed_in_trouble_tells_its_status(
    log: JetStreamLog, settings: Settings
) -> None:
    """A newcomer learns that the feed is not live."""
    await log.publish(SUBJECT, tick(1) + b"\n" + status("gap"))
    async with running_gateway(settings) as gateway, subscriber(gateway, **TICKER) as client:
        assert [m["op"] for m in await receive(client, 3)] == ["subscribed", "snapshot", "status"]


async def test_everything_includes_a_product_that_appears_later(
    log: JetStreamLog, settings: Settings
) -> None:
    """`*` means all that is known and all that will be; a new one begins with a snapshot."""
    async with (
        running_gateway(settings) as gateway,
        subscriber(gateway, products=["*"], feeds=["ticker"]) as client,
    ):
        await receive(client, 1 + len(settings.coinbase_products))
        await log.publish("market.ticks.0.coinbase.NEW-USD", tick(7, 0, product="NEW-USD"))
        begun, first = await receive(client, 2)
        assert (begun["op"], begun["data"]["product"], begun["data"]["seq"]) == (
            "snapshot",
            "NEW-USD",
            0,
        )
        assert numbers([first]) == [("incr", 7)]
        known = (await gateway.get("/v1/products")).json()
        assert {"feed": "ticker", "seq": 7, "status": "live"} in known[-1]["feeds"]


async def test_unsubscribe_ends_the_feed_and_nothing_follows(
    log: JetStreamLog, settings: Settings
) -> None:
    """After `unsubscribed` no message of the feed comes; others go on."""
    async with (
        running_gateway(settings) as gateway,
        subscriber(gateway, products=[PRODUCT], feeds=["ticker", "trades"]) as client,
    ):
        await receive(client, 3)
        await client.send(json.dumps({"op": "unsubscribe", **TICKER}))
        (acknowledged,) = await receive(client, 1)
        del acknowledged["epoch"]
        assert acknowledged == {"op": "unsubscribed", **TICKER}
        await log.publish(SUBJECT, tick(1) + b"\n" + tick(1, feed="trades"))
        (only,) = await receive(client, 1)
        assert only["data"]["feed"] == "trades"


async def test_message_beyond_the_hard_limit_closes_with_1009(
    settings: Settings,
) -> None:
    """Nobody can make the gateway buffer megabytes."""
    async with running_gateway(settings) as gateway, subscriber(gateway) as client:
        await client.send("x" * (1024 * 1024 + 1))
        with pytest.raises(ConnectionClosed):
            await client.recv()
        assert client.close_code == 1009


async def test_subscribers_at_random_moments_see_snapshot_and_exactly_the_rest(
    log: JetStreamLog, settings: Settings
) -> None:
    """40 clients come while 5,000 ticks flow in: none misses one, none gets one twice."""
    last, choice = 5000, random.Random(7)
    newest_written = 0

    async def write() -> None:
        nonlocal newest_written
        while newest_written < last:
            count = min(choice.choice((1, 1, 3, 20)), last - newest_written)
            lines = [tick(newest_written + n + 1) for n in range(count)]
            await log.publish(SUBJECT, b"\n".join(lines))
            newest_written += count

    async def watch(gateway: RunningGateway, wait_for: int) -> tuple[int, list[int]]:
        await eventually(lambda: newest_written >= wait_for)
        async with subscriber(gateway, **TICKER) as client:
            assert json.loads(await client.recv())["op"] == "subscribed"
            begun = json.loads(await client.recv())
            assert begun["op"] == "snapshot"
            seqs: list[int] = []
            newest = begun["data"]["seq"]
            while newest < last:
                message = json.loads(await client.recv())
                assert (message["op"], message["data"]["prev_seq"]) == ("incr", newest)
                newest = message["data"]["seq"]
                seqs.append(newest)
            return begun["data"]["seq"], seqs

    async with (
        running_gateway(settings) as gateway,
        asyncio.timeout(PATIENCE_S),
        asyncio.TaskGroup() as tasks,
    ):
        views = [tasks.create_task(watch(gateway, choice.randrange(last))) for _ in range(40)]
        tasks.create_task(write())
    starts = {view.result()[0] for view in views}
    assert len(starts) > 5
    for view in views:
        start, seqs = view.result()
        assert seqs == list(range(start + 1, last + 1))


async def test_deep_book_reaches_a_subscriber_whole(log: JetStreamLog, settings: Settings) -> None:
    """50,000 levels a side, larger than the bound of a client, arrive and go on live."""
    count = 50_000
    bids = ",".join(f'["{50_000 - n}.25","1.5"]' for n in range(count))
    asks = ",".join(f'["{60_000 + n}.25","2.5"]' for n in range(count))
    await log.publish(SUBJECT, snapshot(5, f'{{"bids":[{bids}],"asks":[{asks}]}}', feed="book"))
    async with (
        running_gateway(settings, ws_max_client_bytes=64 * 1024) as gateway,
        subscriber(gateway, products=[PRODUCT], feeds=["book"], depth="full") as client,
    ):
        _, begun = await receive(client, 2)
        assert len(begun["data"]["state"]["bids"]) == count
        assert begun["data"]["state"]["asks"][-1] == ["109999.25", "2.5"]
        await log.publish(SUBJECT, tick(6, feed="book"))
        assert numbers(await receive(client, 1)) == [("incr", 6)]
        async with subscriber(gateway, products=[PRODUCT], feeds=["book"], depth=2) as shallow:
            _, begun = await receive(shallow, 2)
            assert begun["data"]["seq"] == 6
            assert begun["data"]["state"]["bids"] == [["50000.25", "1.5"], ["49999.25", "1.5"]]
        assert await gateway.metric("md_gateway_conflated_total") == 0


async def test_slow_client_is_conflated_and_others_get_everything(
    log: JetStreamLog, settings: Settings
) -> None:
    """Past its bound a client loses increments, then gets a snapshot and goes on live."""
    batches, size = 120, 500
    last = batches * size
    async with (
        running_gateway(settings, ws_max_client_bytes=64 * 1024) as gateway,
        subscriber(gateway, **TICKER) as slow,
        asyncio.timeout(PATIENCE_S),
    ):

        async def read_all() -> int:
            seen = 0
            async for update in Subscriber(gateway.url, [PRODUCT], ["ticker"]):
                seen += update.op == "incr"
                if update.link.seq == last:
                    return seen
            raise AssertionError

        reading = asyncio.create_task(read_all())
        await eventually(lambda: gateway_clients(gateway, 2))
        for batch in range(batches):
            first = batch * size + 1
            await log.publish(SUBJECT, b"\n".join(tick(first + n) for n in range(size)))
        assert await reading == last
        assert await gateway.metric("md_gateway_conflated_total") >= 1
        newest, reasons = 0, []
        await slow.recv()
        while newest < last:
            message = json.loads(await slow.recv())
            if message["op"] == "snapshot":
                reasons.append(message["data"]["reason"])
            else:
                assert message["data"]["prev_seq"] == newest
            newest = message["data"]["seq"]
        assert reasons[0] == "subscribe"
        assert set(reasons[1:]) == {"conflated"}
        await log.publish(SUBJECT, tick(last + 1))
        assert numbers(await receive(slow, 1)) == [("incr", last + 1)]


async def gateway_clients(gateway: RunningGateway, count: int) -> bool:
    """Tell whether so many clients are connected."""
    return await gateway.metric("md_gateway_clients") == count


async def test_reader_goes_on_over_a_log_restart(
    log: JetStreamLog, settings: Settings, nats_server: NatsServer
) -> None:
    """The gateway stays up without the log, says so, and misses nothing."""
    async with running_gateway(settings) as gateway, subscriber(gateway, **TICKER) as client:
        await receive(client, 2)
        await log.publish(SUBJECT, tick(1))
        nats_server.kill()

        async def not_ready() -> bool:
            answer = await gateway.get("/readyz")
            return answer.status_code == 503 and "log" in answer.json()["reason"]

        await eventually(not_ready)
        assert (await gateway.get("/healthz")).status_code == 200
        nats_server.start()
        await port_open(nats_server.port)
        await log.publish(SUBJECT, tick(2))
        assert numbers(await receive(client, 2)) == [("incr", 1), ("incr", 2)]
        await eventually(gateway.ready)


async def test_shutdown_closes_clients_with_1012(settings: Settings) -> None:
    """Clients are told that the service restarts."""
    async with running_gateway(settings) as gateway, subscriber(gateway, **TICKER) as client:
        await receive(client, 2)
        gateway.stop()
        await client.wait_closed()
        assert client.close_code == 1012


async def test_connect_before_the_state_is_complete_is_refused(settings: Settings) -> None:
    """A gateway without its log answers 503 with a reason, and serves no half state."""
    away = settings.model_copy(update={"nats_urls": ("nats://127.0.0.1:1",)})
    async with running_gateway(away, warm=False) as gateway:
        answer = await gateway.get("/readyz")
        assert answer.status_code == 503
        assert "warming up" in answer.json()["reason"]
        with pytest.raises(InvalidStatus) as refused:
            async with subscriber(gateway):
                pass
        assert refused.value.response.status_code == 503


async def test_what_nobody_of_ours_has_published_is_passed_over(
    log: JetStreamLog, settings: Settings
) -> None:
    """A stray subject and a label of parts that is none: live subscribers do not notice."""
    await log.publish(SUBJECT, tick(1))
    async with running_gateway(settings) as gateway, subscriber(gateway, **TICKER) as client:
        await receive(client, 2)
        await log.publish("market.ticks.nonsense", tick(2))
        await log.publish("market.ticks.0.coinbase.BTC-USD.more", tick(2))
        await log.publish(SUBJECT, tick(2), headers={PART_HEADER: "nonsense"})
        await log.publish(SUBJECT, tick(3, 1))
        assert numbers(await receive(client, 1)) == [("incr", 3)]
