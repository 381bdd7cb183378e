"""Resuming by `from_seq` on a real log: everything that follows, or a plain refusal."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from gateway.hub import Hub
from models.settings import Settings
from streaming.broker.jetstream import JetStreamLog
from streaming.broker.log import LogMessage, LogRemadeError
from tests.gateways import (
    PRODUCT,
    SUBJECT,
    RunningGateway,
    numbers,
    publish_checkpoint,
    receive,
    running_gateway,
    snapshot,
    status,
    subscriber,
    tick,
    why,
)
from tests.servers import PATIENCE_S, eventually

TICKER = {"products": [PRODUCT], "feeds": ["ticker"]}
NO_RING: dict[str, Any] = {"gateway_ring_bytes": 0}


@pytest.fixture
def hubs(monkeypatch: pytest.MonkeyPatch) -> list[Hub]:
    """Give the hubs of the gateways that a test starts, to look inside."""
    made: list[Hub] = []

    class Seen(Hub):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            made.append(self)

    monkeypatch.setattr("gateway.server.Hub", Seen)
    return made


async def publish(log: JetStreamLog, seqs: Sequence[int], *, each: int = 1) -> None:
    """Publish ticks, so many to a message."""
    for start in range(0, len(seqs), 100 * each):
        stretch = seqs[start : start + 100 * each]
        await asyncio.gather(
            *[
                log.publish(SUBJECT, b"\n".join(map(tick, stretch[n : n + each])))
                for n in range(0, len(stretch), each)
            ]
        )


async def newest(gateway: RunningGateway, seq: int) -> None:
    """Wait until the gateway has come so far."""

    async def there() -> bool:
        products = (await gateway.get("/v1/products")).json()
        return bool(products[0]["feeds"][0]["seq"] == seq)

    await eventually(there)


async def resume(gateway: RunningGateway, seq: int, **more: object) -> Any:
    """Resume the ticker on a connection of its own; return the answer."""
    async with subscriber(gateway, **TICKER, from_seq={PRODUCT: seq}, **more) as client:
        return (await receive(client, 2))[1]


@pytest.mark.parametrize(("ring", "source"), [(10**6, "ring"), (0, "log")])
async def test_resume_gets_everything_after_its_number_and_goes_on_live(
    log: JetStreamLog, settings: Settings, ring: int, source: str
) -> None:
    """The answer, each message once in order, statuses among them, and then what comes."""
    async with running_gateway(settings, gateway_ring_bytes=ring) as gateway:
        await publish(log, range(1, 51))
        await log.publish(SUBJECT, tick(1, feed="book") + b"\n" + status("gap"))
        await publish(log, range(51, 101), each=7)
        await newest(gateway, 100)
        async with subscriber(gateway, **TICKER, from_seq={PRODUCT: 40}) as client:
            _, answer, *missed = await receive(client, 2 + 10 + 1 + 50)
            assert answer == {
                "op": "resumed",
                "venue": "coinbase",
                "product": PRODUCT,
                "feed": "ticker",
                "from_seq": 40,
                "recovered": True,
                "source": source,
                "reason": None,
            }
            expected = [("incr", seq) for seq in range(41, 101)]
            assert numbers(missed) == [*expected[:10], ("status", -1), *expected[10:]]
            await publish(log, range(101, 121))
            assert numbers(await receive(client, 20)) == [("incr", n) for n in range(101, 121)]


async def test_resume_several_feeds_and_venue_names(log: JetStreamLog, settings: Settings) -> None:
    """Each feed has its own number; one without begins with a snapshot."""
    lines = [tick(seq, feed=feed) for seq in range(1, 5) for feed in ("ticker", "book", "trades")]
    await log.publish(SUBJECT, b"\n".join(lines))
    seqs = {f"coinbase/{PRODUCT}": {"ticker": 2, "book": 4}}
    async with (
        running_gateway(settings) as gateway,
        subscriber(gateway, products=[PRODUCT], from_seq=seqs) as client,
    ):
        got = (await receive(client, 6))[1:]
        assert [(m["op"], m.get("feed") or m["data"]["feed"]) for m in got] == [
            ("resumed", "ticker"),
            ("incr", "ticker"),
            ("incr", "ticker"),
            ("resumed", "book"),
            ("snapshot", "trades"),
        ]
        assert (why(got[0]), why(got[3])) == ("ring", "ring")


async def test_resume_without_anything_missed_says_so_and_goes_on(
    log: JetStreamLog, settings: Settings
) -> None:
    """Also if the message itself is in memory no more, or there has never been one."""
    async with running_gateway(settings, **NO_RING, backfill_max_minutes=0) as gateway:
        assert why(await resume(gateway, 0)) == "ring"
        await publish(log, range(1, 4))
        await log.publish(SUBJECT, status("gap"))
        await newest(gateway, 3)
        async with subscriber(gateway, **TICKER, from_seq={PRODUCT: 3}) as client:
            _, answer, trouble = await receive(client, 3)
            assert (why(answer), trouble["data"]["state"]) == ("ring", "gap")
            await publish(log, [4])
            assert numbers(await receive(client, 1)) == [("incr", 4)]


async def test_resume_that_is_refused_says_why_and_gets_a_snapshot(
    log: JetStreamLog, settings: Settings
) -> None:
    """Another log, a number that no message has, one that is not kept, a chain with a hole."""
    await log.publish(SUBJECT, tick(10, 8) + b"\n" + tick(14, 10) + b"\n" + tick(15, 14))
    for overrides in ({}, NO_RING):
        async with running_gateway(settings, **overrides) as gateway:
            async with subscriber(gateway, **TICKER, from_seq={PRODUCT: 14}, epoch="0") as client:
                acknowledged, answer, begun = await receive(client, 3)
                assert why(answer) == "epoch"
                assert (begun["op"], begun["recovered"]) == ("snapshot", False)
                assert begun["data"]["seq"] == 15
            assert why(await resume(gateway, 14, epoch=acknowledged["epoch"])) == (
                "log" if overrides else "ring"
            )
            assert why(await resume(gateway, 12)) == "unknown_seq"
            assert why(await resume(gateway, 16)) == "unknown_seq"
            assert why(await resume(gateway, 7)) == "too_old"
            assert why(await resume(gateway, 8)) == "log"
    await log.publish(SUBJECT, tick(18, 17) + b"\n" + tick(19, 18))
    for overrides in ({}, NO_RING):
        async with running_gateway(settings, **overrides) as gateway:
            assert why(await resume(gateway, 14)) == "broken"
            assert why(await resume(gateway, 18)) == ("log" if overrides else "ring")


async def test_resume_from_what_the_log_has_discarded_is_too_old(
    log: JetStreamLog, settings: Settings
) -> None:
    """A hole before a new chain is no less a hole; where only the anchor is gone all is there."""
    async with running_gateway(settings, **NO_RING) as gateway:
        await publish(log, range(1, 11))
        await log.publish(SUBJECT, snapshot(20))
        await publish(log, range(21, 31))
        await newest(gateway, 30)
        assert why(await resume(gateway, 5)) == "log"
        await log._js.purge_stream(settings.streams.ticks, seq=8)
        # What was read a moment ago may still be known; nobody may be told less than all of it.
        async with running_gateway(settings, **NO_RING) as fresh:
            assert why(await resume(fresh, 6)) == "too_old"
            assert why(await resume(fresh, 7)) == "log"
            await log._js.purge_stream(settings.streams.ticks, seq=11)
            assert why(await resume(fresh, 15)) == "too_old"
        async with running_gateway(settings) as fresh:
            assert why(await resume(fresh, 10)) == "too_old"
            assert why(await resume(fresh, 20)) == "ring"


async def test_resume_beyond_the_minutes_that_are_allowed_is_too_old(
    log: JetStreamLog, settings: Settings
) -> None:
    """It is the first missed message that counts, wherever it is."""
    await publish(log, range(1, 4))
    for overrides in ({}, NO_RING):
        async with running_gateway(settings, backfill_max_minutes=0, **overrides) as gateway:
            assert why(await resume(gateway, 2)) == "too_old"
            assert why(await resume(gateway, 3)) == "ring"


async def test_resume_after_the_venue_has_counted_anew(
    log: JetStreamLog, settings: Settings
) -> None:
    """The old chain leads over to the new one; a number that both have is refused."""
    async with running_gateway(settings) as gateway:
        await publish(log, range(1, 21))
        await log.publish(SUBJECT, snapshot(3))
        await publish(log, range(4, 7))
        await newest(gateway, 6)
        async with subscriber(gateway, **TICKER, from_seq={PRODUCT: 18}) as client:
            _, answer, *missed = await receive(client, 8)
            assert why(answer) == "ring"
            assert numbers(missed) == [
                ("incr", 19), ("incr", 20), ("snapshot", 3), ("incr", 4), ("incr", 5), ("incr", 6),
            ]  # fmt: skip
        assert why(await resume(gateway, 5)) == "unknown_seq"
    async with running_gateway(settings) as gateway:
        assert why(await resume(gateway, 5)) == "unknown_seq"


async def test_resume_in_a_long_log_reads_the_sparse_feed_of_one_product(
    log: JetStreamLog, settings: Settings
) -> None:
    """Thousands of messages of others are passed over; the search finds any number."""
    async with running_gateway(settings, **NO_RING) as gateway:
        for start in range(0, 3000, 100):
            other = f"market.ticks.0.coinbase.{('ETH-USD', 'SOL-USD')[start // 100 % 2]}"
            await asyncio.gather(
                log.publish(SUBJECT, tick(start + 100, start, feed="trades")),
                *[
                    log.publish(other, tick(seq, product=other.rpartition(".")[2], feed="book"))
                    for seq in range(start, start + 100)
                ],
                *[log.publish(SUBJECT, tick(seq)) for seq in range(start + 1, start + 101)],
            )
        await newest(gateway, 3000)
        for seq in (0, 100, 1500, 2900, 3000):
            seqs = {PRODUCT: {"trades": seq}}
            async with subscriber(
                gateway, products=[PRODUCT], feeds=["trades"], from_seq=seqs
            ) as client:
                _, answer, *missed = await receive(client, 2 + (3000 - seq) // 100)
                assert why(answer) == ("log" if seq < 3000 else "ring")
                assert numbers(missed) == [("incr", n) for n in range(seq + 100, 3001, 100)]
        for seq in (1, 1499, 2999):
            assert why(await resume(gateway, seq)) == "log"


async def test_warm_up_fills_the_ring_with_what_checkpoints_hold(
    log: JetStreamLog, settings: Settings
) -> None:
    """After a restart everybody resumes at once, from before the newest checkpoint."""
    await publish(log, range(1, 101))
    await publish_checkpoint(log, 100, [snapshot(100)])
    async with running_gateway(settings) as gateway:
        assert why(await resume(gateway, 1)) == "ring"
        async with subscriber(gateway, **TICKER, from_seq={PRODUCT: 40}) as client:
            assert numbers((await receive(client, 62))[2:]) == [
                ("incr", seq) for seq in range(41, 101)
            ]
        assert await gateway.metric("md_gateway_broken_links_total") == 0
    async with running_gateway(settings, gateway_ring_bytes=10_000) as gateway:
        assert why(await resume(gateway, 1)) == "log"
        assert why(await resume(gateway, 95)) == "ring"
    async with running_gateway(settings, backfill_max_minutes=0) as gateway:
        assert why(await resume(gateway, 95)) == "too_old"


@pytest.mark.parametrize("ring", [50_000, 0])
async def test_resume_while_the_log_grows_misses_and_doubles_nothing(
    log: JetStreamLog, settings: Settings, ring: int
) -> None:
    """30 clients resume from anywhere while ticks flow; the step to live is seamless for each."""
    last, written = 4000, 0

    async def write() -> None:
        nonlocal written
        while written < last:
            await log.publish(SUBJECT, tick(written + 1) + b"\n" + tick(written + 2))
            written += 2

    async def watch(gateway: RunningGateway, number: int) -> str | None:
        await eventually(lambda: written > 1000 + 80 * number)
        start = 1 + (number * 977) % (1000 + 80 * number)
        async with subscriber(gateway, **TICKER, from_seq={PRODUCT: start}) as client:
            _, answer = await receive(client, 2)
            for seq in range(start + 1, last + 1):
                message = json.loads(await client.recv())
                assert (message["op"], message["data"]["seq"]) == ("incr", seq)
            return why(answer)

    async with (
        asyncio.timeout(PATIENCE_S),
        running_gateway(settings, gateway_ring_bytes=ring) as gateway,
        asyncio.TaskGroup() as tasks,
    ):
        tasks.create_task(write())
        views = [tasks.create_task(watch(gateway, number)) for number in range(30)]
    assert {view.result() for view in views} == ({"ring", "log"} if ring else {"log"})


@pytest.mark.parametrize(("ring", "source"), [(10**7, "ring"), (0, "log")])
async def test_500_clients_resume_at_once(
    log: JetStreamLog,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    ring: int,
    source: str,
) -> None:
    """Everybody gets everything, and the log is not read once for each."""
    fetches = 0
    fetch = JetStreamLog.fetch

    async def counted(self: JetStreamLog, *args: Any, **bounds: Any) -> list[LogMessage]:
        nonlocal fetches
        fetches += 1
        return await fetch(self, *args, **bounds)

    async def watch(gateway: RunningGateway) -> None:
        async with subscriber(gateway, **TICKER, from_seq={PRODUCT: 900}) as client:
            _, answer, *missed = await receive(client, 102)
            assert why(answer) == source
            assert numbers(missed) == [("incr", seq) for seq in range(901, 1001)]

    await publish(log, range(1, 1001), each=5)
    monkeypatch.setattr(JetStreamLog, "fetch", counted)
    async with (
        asyncio.timeout(PATIENCE_S),
        running_gateway(settings, gateway_ring_bytes=ring) as gateway,
        asyncio.TaskGroup() as tasks,
    ):
        for _ in range(500):
            tasks.create_task(watch(gateway))
    assert fetches < 60


async def test_slow_reader_during_a_backfill_is_waited_for_within_its_bound(
    log: JetStreamLog, settings: Settings, hubs: list[Hub]
) -> None:
    """20 MB of the past go out as it reads; its other feed and everybody else go on."""
    last = 60_000
    await publish(log, range(1, last + 1), each=100)
    async with (
        running_gateway(settings, **NO_RING, ws_max_client_bytes=64 * 1024) as gateway,
        subscriber(gateway, products=[PRODUCT], feeds=["trades"]) as slow,
    ):
        await receive(slow, 2)
        await slow.send(json.dumps({"op": "subscribe", **TICKER, "from_seq": {PRODUCT: 1}}))
        assert why((await receive(slow, 2))[1]) == "log"
        slow.transport.pause_reading()
        (hub,) = hubs
        (client,) = hub._audience._lagging
        await eventually(lambda: client.sink.paused)
        async with subscriber(gateway, **TICKER) as other:
            await receive(other, 2)
            for seq in range(1, 51):
                await log.publish(SUBJECT, tick(last + seq) + b"\n" + tick(seq, feed="trades"))
                assert numbers(await receive(other, 1)) == [("incr", last + seq)]
                assert client.sink._transport.get_write_buffer_size() < 2_000_000
        slow.transport.resume_reading()
        seen = {"ticker": 1, "trades": 0}
        while seen != {"ticker": last + 50, "trades": 50}:
            async with asyncio.timeout(PATIENCE_S):
                message = json.loads(await slow.recv())
            feed = message["data"]["feed"]
            assert (message["op"], message["data"]["prev_seq"]) == ("incr", seen[feed])
            seen[feed] = message["data"]["seq"]
        assert await gateway.metric("md_gateway_conflated_total") == 0
        assert not hub._audience._lagging


async def test_client_that_goes_during_a_backfill_leaves_nothing_behind(
    log: JetStreamLog, settings: Settings, hubs: list[Hub]
) -> None:
    """Its work ends with it."""
    await publish(log, range(1, 60_001), each=100)
    async with running_gateway(settings, **NO_RING, ws_max_client_bytes=64 * 1024) as gateway:
        (hub,) = hubs
        async with subscriber(gateway, **TICKER, from_seq={PRODUCT: 1}) as client:
            await receive(client, 3)
            client.transport.pause_reading()
            (waiting,) = hub._audience._lagging
            await eventually(lambda: waiting.sink.paused)
            assert hub.ladder._resuming == 1
            client.transport.abort()
        await eventually(lambda: hub.ladder._resuming == 0)
        assert not hub._audience._lagging
        assert waiting.backfilling is None
        assert await gateway.metric("md_gateway_clients") == 0


async def test_subscribe_anew_or_unsubscribe_ends_a_backfill(
    log: JetStreamLog, settings: Settings
) -> None:
    """What was on its way ends; the newest request is what counts."""
    last = 60_000
    await publish(log, range(1, last + 1), each=100)
    async with (
        running_gateway(settings, **NO_RING, ws_max_client_bytes=64 * 1024) as gateway,
        subscriber(gateway, **TICKER, from_seq={PRODUCT: 1}) as client,
    ):
        await receive(client, 10)
        await client.send(
            json.dumps({"op": "subscribe", **TICKER, "from_seq": {PRODUCT: last - 3}})
        )
        while (await receive(client, 1))[0]["op"] != "subscribed":
            pass
        answer, *missed = await receive(client, 4)
        assert (why(answer), numbers(missed)) == (
            "log",
            [("incr", last - 2), ("incr", last - 1), ("incr", last)],
        )
        await client.send(json.dumps({"op": "subscribe", **TICKER, "from_seq": {PRODUCT: 1}}))
        assert why((await receive(client, 2))[1]) == "log"
        await client.send(json.dumps({"op": "unsubscribe", **TICKER}))
        while (await receive(client, 1))[0]["op"] != "unsubscribed":
            pass
        await client.send('{"op":"ping"}')
        assert (await receive(client, 1))[0]["op"] == "pong"


async def test_resume_beyond_the_number_that_may_wait_is_busy(
    log: JetStreamLog, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who comes when too many wait gets a snapshot at once."""
    monkeypatch.setattr("gateway.ladder.MAX_RESUMING", 1)
    await publish(log, range(1, 60_001), each=100)
    async with running_gateway(settings, **NO_RING, ws_max_client_bytes=64 * 1024) as gateway:
        async with subscriber(gateway, **TICKER, from_seq={PRODUCT: 1}) as slow:
            await receive(slow, 3)
            slow.transport.pause_reading()
            assert why(await resume(gateway, 5)) == "busy"
            slow.transport.abort()

        async def room() -> bool:
            return why(await resume(gateway, 5)) == "log"

        await eventually(room)


async def test_page_for_rest_is_what_a_resume_would_give(
    log: JetStreamLog, settings: Settings, hubs: list[Hub]
) -> None:
    """Verbatim lines up to the limit, whether there are more, and the same reasons."""
    lines = [tick(seq) for seq in range(1, 31)]
    await log.publish(SUBJECT, b"\n".join(lines[:20]))
    await log.publish(SUBJECT, b"\n".join([tick(1, feed="book"), *lines[20:]]))
    for overrides, source in (({}, "ring"), (NO_RING, "log")):
        async with running_gateway(settings, **overrides):
            hub = hubs[-1]
            product = hub.products.one(PRODUCT)
            page = await hub.ladder.page(product, "ticker", 12, 5)
            assert page.lines == lines[12:17]
            assert (page.recovered, page.complete, page.source) == (True, False, source)
            page = await hub.ladder.page(product, "ticker", 12, 18)
            assert page.lines == lines[12:]
            assert page.complete
            page = await hub.ladder.page(product, "ticker", 30, 5)
            assert (page.lines, page.complete, page.source) == ([], True, "ring")
            page = await hub.ladder.page(product, "ticker", 31, 5)
            assert (page.lines, page.recovered, page.reason) == ([], False, "unknown_seq")
            held = json.loads(hub.snapshot(PRODUCT, "book", 10))
            assert held["state"] == {"bids": [["1.50", "1.0"]], "asks": []}


async def test_gateway_whose_log_is_made_anew_ends_to_start_again(
    log: JetStreamLog, settings: Settings
) -> None:
    """Nothing of the old log may be mixed with the new one; the error says so."""
    await publish(log, range(1, 4))
    with pytest.RaisesGroup(
        pytest.RaisesExc(LogRemadeError, match="MD_TICKS"), flatten_subgroups=True
    ):
        async with running_gateway(settings) as gateway:
            assert why(await resume(gateway, 2)) == "ring"
            await log._js.delete_stream(settings.streams.ticks)
            await log.ensure_streams(settings)
            await asyncio.wait([gateway.ended], timeout=PATIENCE_S)
            assert gateway.ended.done()
