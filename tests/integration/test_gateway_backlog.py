"""The log as a rung: what is found, what is shared, and what a hub that lags makes of it."""

import asyncio

import pytest

from gateway.backlog import Backlog
from gateway.hub import Hub, Limits
from gateway.product import FEED_BITS, Batch, Product
from gateway.protocol import Subscribe
from models.settings import Settings
from streaming.broker.jetstream import JetStreamLog
from streaming.core.resume import UnrecoverableError
from tests.gateways import PRODUCT, SUBJECT, snapshot, tick
from tests.servers import PATIENCE_S, eventually
from tests.unit.gateway.pipes import Pipe

TICKER = FEED_BITS["ticker"]


async def messages(log: JetStreamLog, hub: Hub, *, after: int, upto: int) -> None:
    """Give a hub the log's messages of a range."""
    found = await log.fetch(
        "MD_TICKS", "market.ticks.>", after=after, limit=upto - after, max_bytes=1 << 20
    )
    for message in found:
        hub.apply(message)
    hub.flush()


@pytest.mark.parametrize("ring", [0, 10**6])
async def test_resume_on_a_hub_behind_its_log_gives_nothing_twice(
    log: JetStreamLog, settings: Settings, ring: int
) -> None:
    """What the log has and the hub has not read yet comes live, once."""
    for seq in range(1, 11):
        await log.publish(SUBJECT, tick(seq))
    hub = Hub([PRODUCT], asyncio.get_running_loop(), Limits(ring_bytes=ring))
    hub.ring.start(3)
    pipe = Pipe(10**6)
    pipe.sink.room.set()
    client = hub.join(pipe.sink)
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
        hub.ladder.open(tasks, [Backlog(log, settings.streams)])
        await messages(log, hub, after=3, upto=6)
        hub.subscribe(
            client, Subscribe(products=(PRODUCT,), feeds=("ticker",), from_seq={PRODUCT: 2})
        )
        await eventually(lambda: client.backfilling is None)
        heard = pipe.news()
        assert heard[0]["source"] == "log"
        assert [m["data"]["seq"] for m in heard[1:]] == [3, 4, 5, 6]
        await messages(log, hub, after=6, upto=10)
        assert [m["data"]["seq"] for m in pipe.news()] == [7, 8, 9, 10]


async def test_resume_from_a_number_that_a_lagging_hub_has_not_read_waits_for_it(
    log: JetStreamLog, settings: Settings
) -> None:
    """Clients come from gateways that are a little faster; that is no unknown number."""
    for seq in range(1, 11):
        await log.publish(SUBJECT, tick(seq))
    hub = Hub([PRODUCT], asyncio.get_running_loop())
    pipe = Pipe(10**6)
    pipe.sink.room.set()
    client = hub.join(pipe.sink)
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
        hub.ladder.open(tasks, [Backlog(log, settings.streams)])
        await messages(log, hub, after=0, upto=6)
        hub.subscribe(
            client, Subscribe(products=(PRODUCT,), feeds=("ticker",), from_seq={PRODUCT: 8})
        )
        await messages(log, hub, after=6, upto=7)
        await asyncio.sleep(0)
        assert pipe.news() == []
        await messages(log, hub, after=7, upto=9)
        await eventually(lambda: client.backfilling is None)
        answer, only = pipe.news()
        assert (answer["source"], only["data"]["seq"]) == ("ring", 9)
        await messages(log, hub, after=9, upto=10)
        assert [m["data"]["seq"] for m in pipe.news()] == [10]


async def test_page_behind_what_was_discarded_is_refused(
    log: JetStreamLog, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot after the hole would link to anything, so only the log's own extent tells."""
    monkeypatch.setattr("gateway.backlog.PAGE_MESSAGES", 2)
    for seq in range(1, 11):
        await log.publish(SUBJECT, tick(seq))
    await log.publish(SUBJECT, snapshot(20))
    product, rung = Product("coinbase", PRODUCT), Backlog(log, settings.streams)
    after, linked = await rung.locate(product, TICKER, 3, 11)
    assert (after, linked) == (0, False)
    first = await rung.page(product, TICKER, after)
    assert [batch.position for batch in first] == [1, 2]
    await log._js.purge_stream(settings.streams.ticks, seq=11)
    assert await rung.page(product, TICKER, 1) == first[1:]
    with pytest.raises(UnrecoverableError) as refused:
        await rung.page(product, TICKER, 2)
    assert refused.value.reason == "too_old"


async def test_search_finds_every_number_whatever_lies_between(
    log: JetStreamLog, settings: Settings
) -> None:
    """By bisection: little is left between the position found and the message."""
    subjects = [SUBJECT, "market.ticks.0.coinbase.ETH-USD"]
    await asyncio.gather(
        *[
            log.publish(subjects[n % 7 > 0], tick(n, max(0, n - 7), product=product))
            for n in range(7, 6000)
            for product in [subjects[n % 7 > 0].rpartition(".")[2]]
        ]
    )
    product = Product("coinbase", PRODUCT)
    for seq in (7, 14, 700, 3003, 5992, 5999 // 7 * 7):
        rung = Backlog(log, settings.streams)
        after, linked = await rung.locate(product, TICKER, seq, 5993)
        assert not linked
        assert 0 <= seq - 6 - after - 1 <= 71
        heads = [head for batch in await rung.page(product, TICKER, after) for head in batch.heads]
        assert seq in [head.seq for head in heads]
    assert await Backlog(log, settings.streams).locate(product, TICKER, 0, 5993) == (0, True)


async def test_number_that_no_message_has_costs_no_reading_to_the_end(
    log: JetStreamLog, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a greater number comes first, the answer is known."""
    monkeypatch.setattr("gateway.backlog.PAGE_MESSAGES", 100)
    pages = 0

    class Counted(Backlog):
        async def page(self, product: Product, bit: int, after: int) -> list[Batch]:
            nonlocal pages
            pages += 1
            return await super().page(product, bit, after)

    await asyncio.gather(*[log.publish(SUBJECT, tick(2 * n, 2 * n - 2)) for n in range(1, 2001)])
    hub = Hub([PRODUCT], asyncio.get_running_loop(), Limits(ring_bytes=0))
    await messages(log, hub, after=0, upto=2000)
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
        hub.ladder.open(tasks, [Counted(log, settings.streams)])
        page = await hub.ladder.page(hub.products.one(PRODUCT), "ticker", 501, 10)
        assert (page.recovered, page.reason) == (False, "unknown_seq")
        assert pages == 1
        page = await hub.ladder.page(hub.products.one(PRODUCT), "ticker", 500, 5000)
        assert len(page.lines) == 1750
        assert pages > 15


async def test_message_that_is_not_canonical_is_left_out_of_the_past_too(
    log: JetStreamLog, settings: Settings
) -> None:
    """As it is for those who are live; the links tell whether that matters."""
    for payload in (tick(1), b"nonsense", tick(2)):
        await log.publish(SUBJECT, payload)
    rung = Backlog(log, settings.streams)
    pages = await rung.page(Product("coinbase", PRODUCT), TICKER, 0)
    assert [batch.position for batch in pages] == [1, 3]
