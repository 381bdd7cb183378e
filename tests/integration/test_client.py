"""The client libraries against a real gateway, with connections that are cut and gateways that go.

What a client hands out is held against the canonical log: the same messages, once each, in order.
"""

import asyncio
import os
import random
import shutil
from functools import partial
from typing import Any

import pytest
from pydantic import SecretStr

from models.settings import Settings
from streaming.broker.jetstream import JetStreamLog
from tests.clients import (
    CHROMIUM,
    Heard,
    Proxy,
    Run,
    exact,
    in_browser,
    in_node,
    in_python,
    proxied,
)
from tests.gateways import PRODUCT, SUBJECT, running_gateway, snapshot, status, tick
from tests.servers import eventually

pytestmark = pytest.mark.long

PRODUCTS = ["BTC-USD", "ETH-USD"]
FEEDS = ["ticker", "trades"]
BOTH = pytest.mark.parametrize("run", [in_python, in_node])
needs_browser = pytest.mark.skipif(
    shutil.which(CHROMIUM) is None and "CI" not in os.environ,
    reason=f"there is no browser here: install {CHROMIUM}; CI does",
)
ROOMY: dict[str, Any] = {"ws_max_client_bytes": 256 * 1024**2}
"""Of a gateway whose clients are not to be conflated, however slow this machine is."""

TICKER: dict[str, Any] = {"products": [PRODUCT], "feeds": ["ticker"]}


class Market:
    """Writes a canonical log. Attributes: chains, its lines by product and feed."""

    def __init__(self, log: JetStreamLog) -> None:
        self._log = log
        self._choice = random.Random(5)
        self._newest = {(product, feed): 0 for product in PRODUCTS for feed in FEEDS}
        self.chains: dict[tuple[str, str], list[bytes]] = {chain: [] for chain in self._newest}

    async def run(self, seconds: float, per_second: int = 2000) -> None:
        """Write for a while, with a few statuses and chains that begin anew."""
        loop = asyncio.get_running_loop()
        began, written = loop.time(), 0
        while (now := loop.time()) < began + seconds:
            while written < (now - began) * per_second:
                count = self._choice.choice((1, 2, 5, 20))
                await self.write(self._choice.choice(PRODUCTS), count)
                written += count
            await asyncio.sleep(0.002)

    async def write(self, product: str, count: int = 1) -> None:
        """Write one message of the log."""
        payload = b"\n".join(self._line(product) for _ in range(count))
        await self._log.publish(f"market.ticks.0.coinbase.{product}", payload)

    def _line(self, product: str) -> bytes:
        feed = self._choice.choice(FEEDS)
        chain = (product, feed)
        newest, chance = self._newest[chain], self._choice.random()
        if chance < 0.01:
            state, since = self._choice.choice(("gap", "live")), self._choice.randrange(10**15)
            line = status(state, feed=feed, product=product, since=since)
        else:
            self._newest[chain] = newest + self._choice.choice((1, 1, 7))
            if chance < 0.012:
                line = snapshot(self._newest[chain], feed=feed, product=product)
            else:
                line = tick(self._newest[chain], newest, feed=feed, product=product)
        self.chains[chain].append(line)
        return line

    async def end(self, heard: Heard) -> None:
        """Write a last tick of each chain and wait until the client has it."""
        for (product, feed), newest in self._newest.items():
            line = tick(newest + 1, newest, feed=feed, product=product)
            self.chains[product, feed].append(line)
            await self._log.publish(f"market.ticks.0.coinbase.{product}", line)
        for (product, feed), newest in self._newest.items():
            await eventually(partial(heard.has, product, feed, newest + 1))

    def check(self, *parts: Heard) -> None:
        """Compare what clients got, one after the other, with the log."""
        again = [one for heard in parts for one in heard.updates if one["recovered"] is not None]
        assert again == [], "a chain began anew, and the update says why"
        for chain, written in self.chains.items():
            got = [line for heard in parts for line in heard.lines(*chain)]
            assert len(written) > 100
            assert got[0]["type"] == "snapshot"
            assert got[0]["seq"] == 0
            assert got[1:] == [exact(line) for line in written]


async def begun(heard: Heard, chains: int) -> None:
    """Wait until every chain has begun."""
    await eventually(lambda: len(heard.updates) >= chains)


@pytest.mark.parametrize("run", [in_python, in_node, pytest.param(in_browser, marks=needs_browser)])
async def test_client_whose_connection_is_cut_at_random_gets_the_log_exactly(
    log: JetStreamLog, settings: Settings, run: Run
) -> None:
    """2,000 messages a second, a cut every few tenths of a second: none missing, none twice."""
    market, choice = Market(log), random.Random(3)

    async def cut(proxy: Proxy) -> None:
        for _ in range(15):
            await asyncio.sleep(choice.uniform(0.05, 0.5))
            proxy.cut()

    async with (
        running_gateway(settings, **ROOMY) as gateway,
        proxied(gateway.port) as proxy,
        run(proxy.url, products=["*"], feeds=FEEDS) as heard,
    ):
        await begun(heard, len(market.chains))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(cut(proxy))
            tasks.create_task(market.run(5))
        await market.end(heard)
    market.check(heard)
    assert len([said for said in heard.said if said.startswith("connected")]) > 5


@BOTH
async def test_client_of_a_gateway_that_restarts_gets_the_log_exactly(
    log: JetStreamLog, settings: Settings, run: Run
) -> None:
    """Also what was written while there was no gateway at all."""
    market = Market(log)
    async with proxied(0) as proxy:
        async with running_gateway(settings, **ROOMY) as gateway:
            proxy.upstream = gateway.port
            started = run(proxy.url, products=PRODUCTS, feeds=FEEDS)
            heard = await started.__aenter__()
            await begun(heard, len(market.chains))
            await market.run(1)
        await market.run(0.5)
        async with running_gateway(settings, **ROOMY) as gateway:
            proxy.upstream = gateway.port
            await market.run(1)
            await market.end(heard)
            await started.__aexit__(None, None, None)
    market.check(heard)


@BOTH
async def test_client_of_a_gateway_that_drains_moves_before_it_ends(
    log: JetStreamLog, settings: Settings, run: Run
) -> None:
    """It is connected to the next gateway before it leaves the old one, and misses nothing."""
    market = Market(log)
    async with (
        running_gateway(settings, gateway_drain_s=1, **ROOMY) as old,
        running_gateway(settings, **ROOMY) as new,
        proxied(old.port) as proxy,
        run(proxy.url, products=PRODUCTS, feeds=FEEDS) as heard,
    ):
        await begun(heard, len(market.chains))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(market.run(3))
            await asyncio.sleep(0.5)
            proxy.upstream = new.port
            old.stop()
            await old.ended
        await market.end(heard)
        assert await new.metric("md_gateway_clients") == 1
    market.check(heard)
    assert [said.split()[0] for said in heard.said] == ["connected", "connected"]
    assert proxy.most == 2


@BOTH
async def test_client_goes_on_from_a_stored_position_in_another_process(
    log: JetStreamLog, settings: Settings, run: Run
) -> None:
    """What two consumers got, one after the other, is the log."""
    market = Market(log)
    options = {"products": PRODUCTS, "feeds": FEEDS}
    async with running_gateway(settings, **ROOMY) as gateway:
        async with run(gateway.url, stop_after=700, **options) as first:
            await begun(first, len(market.chains))
            await market.run(1)
            await eventually(lambda: first.position is not None)
        await market.run(0.5)
        async with run(gateway.url, resume=first.position, **options) as second:
            await market.run(0.5)
            await market.end(second)
    market.check(first, second)


@BOTH
async def test_client_with_a_position_that_is_gone_is_told_so(
    log: JetStreamLog, settings: Settings, run: Run
) -> None:
    """A snapshot says that messages before it are missing, and why; other chains go on."""
    await log.publish(SUBJECT, b"\n".join([tick(1), tick(2), tick(2, 0, feed="trades")]))
    async with running_gateway(settings, **ROOMY) as gateway:
        async with run(gateway.url, stop_after=2, products=[PRODUCT], feeds=FEEDS) as first:
            await eventually(lambda: first.position is not None)
        known = first.position["from_seq"]["coinbase/BTC-USD"]
        assert known == {"ticker": 2, "trades": 2}
        resume = first.position | {"from_seq": {"coinbase/BTC-USD": {"ticker": 77, "trades": 2}}}
        async with run(
            gateway.url, products=[PRODUCT], feeds=FEEDS, resume=resume
        ) as second:  # fmt: skip
            await begun(second, 1)
            await log.publish(SUBJECT, tick(3, 2) + b"\n" + tick(3, 2, feed="trades"))
            await eventually(lambda: len(second.updates) == 3)
        async with run(
            gateway.url, **TICKER, resume=first.position | {"epoch": "of another log"}
        ) as third:  # fmt: skip
            await begun(third, 1)
    assert second.updates[0]["reason"] == "unknown_seq"
    assert [(update["op"], update["recovered"]) for update in second.updates] == [
        ("snapshot", False),
        ("incr", None),
        ("incr", None),
    ]
    assert (third.updates[0]["reason"], third.updates[0]["data"]["seq"]) == ("epoch", 3)


@BOTH
async def test_client_hears_a_status_once_over_a_cut(
    log: JetStreamLog, settings: Settings, run: Run
) -> None:
    """Statuses have no number; those that came before the cut do not come again after it."""
    async with (
        running_gateway(settings, **ROOMY) as gateway,
        proxied(gateway.port) as proxy,
        run(proxy.url, **TICKER) as heard,
    ):
        await begun(heard, 1)
        await log.publish(SUBJECT, tick(1) + b"\n" + status("gap"))
        await begun(heard, 3)
        proxy.cut()
        await log.publish(SUBJECT, status("resyncing") + b"\n" + tick(2))
        await begun(heard, 5)
        assert [update["op"] for update in heard.updates] == [
            *("snapshot", "incr", "status", "status", "incr"),
        ]


@BOTH
async def test_client_with_a_key(settings: Settings, run: Run) -> None:
    """A valid key is let in; a wrong one is refused for good."""
    async with running_gateway(settings, auth_api_keys=(SecretStr("right"),)) as gateway:
        async with run(gateway.url, **TICKER, api_key="wrong") as refused:
            await eventually(lambda: refused.refused is not None)
        async with run(gateway.url, **TICKER, api_key="right") as heard:
            await begun(heard, 1)
    assert refused.refused in ("401", "4401")
    assert (refused.updates, heard.refused) == ([], None)


@BOTH
async def test_client_of_very_many_products_resumes_them_all(
    log: JetStreamLog, settings: Settings, run: Run
) -> None:
    """More positions than one message holds: none begins anew."""
    names = [f"PRODUCT{number}-USD" for number in range(1500)]

    async def write(seq: int) -> None:
        async with asyncio.TaskGroup() as tasks:
            for name in names:
                line = tick(10**12 + seq, 10**12 + seq - 1, product=name)
                tasks.create_task(log.publish(f"market.ticks.0.coinbase.{name}", line))

    await write(1)
    settings = settings.model_copy(update={"coinbase_products": (names[0],)})
    async with (
        running_gateway(settings, **ROOMY) as gateway,
        proxied(gateway.port) as proxy,
        run(proxy.url, products=["*"], feeds=["ticker"]) as heard,
    ):
        await begun(heard, len(names))
        await write(2)
        await begun(heard, 2 * len(names))
        proxy.cut()
        await write(3)
        await begun(heard, 3 * len(names))
    for name in names:
        seqs = [line["seq"] - 10**12 for line in heard.lines(name, "ticker")]
        assert seqs == [1, 2, 3]


@BOTH
async def test_client_with_max_rate_gets_the_newest_state(
    log: JetStreamLog, settings: Settings, run: Run
) -> None:
    """Snapshots only, and the last one is of the end."""
    async with (
        running_gateway(settings, **ROOMY) as gateway,
        run(gateway.url, **TICKER, max_rate=5) as heard,
    ):
        await begun(heard, 1)
        for seq in range(1, 301):
            await log.publish(SUBJECT, tick(seq))
        await eventually(lambda: heard.has(PRODUCT, "ticker", 300))
    assert {update["op"] for update in heard.updates} == {"snapshot"}
    assert len(heard.updates) < 100


@BOTH
async def test_client_of_a_quiet_feed_over_a_cut_hears_nothing(
    log: JetStreamLog, settings: Settings, run: Run
) -> None:
    """Where nothing has happened nothing is missing, even before the very first message."""
    async with (
        running_gateway(settings, **ROOMY) as gateway,
        proxied(gateway.port) as proxy,
        run(proxy.url, **TICKER) as heard,
    ):
        await begun(heard, 1)
        proxy.cut()
        await eventually(lambda: len(heard.said) == 3)
        await log.publish(SUBJECT, tick(1))
        await begun(heard, 2)
    assert [(update["op"], update["recovered"]) for update in heard.updates] == [
        ("snapshot", None),
        ("incr", None),
    ]
