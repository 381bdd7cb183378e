"""From the market to a subscriber who was away for longer than the log: every part is real.

Market → ingest → MD_RAW → normalizer → MD_TICKS → ArchiveWorkflow → lake → gateway, live again.
"""

import json
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection

from models.canonical import FEEDS, Feed
from tests.archiving import STREAMS, Site, site
from tests.gateways import RunningGateway, receive, running_gateway, subscriber, why
from tests.market import MarketProcess, NormalizerProcess
from tests.servers import eventually

PRODUCT = "BTC-USD"
ENOUGH = 60
"""Messages of each feed that only the lake has in the end, at least."""


@asynccontextmanager
async def trading(root: Path) -> AsyncIterator[Site]:
    """Run an archive whose log is fed by a market that never stops."""
    async with site(root) as running:
        market = MarketProcess(root, running.nats.url, ago_s=0, compression=0.5, most=10**6)
        with NormalizerProcess(root, running.settings), market:
            yield running


async def chains(running: Site) -> dict[str, list[Any]]:
    """Return the product's lines in the log, by feed."""
    found: dict[str, list[Any]] = defaultdict(list)
    for message in await running.in_log():
        if message.product == PRODUCT:
            for line in message.payload.split(b"\n"):
                told = json.loads(line, parse_float=str)
                found[told["feed"]].append(told)
    return found


async def live(client: ClientConnection, before: list[Any], upto: int) -> list[Any]:
    """Read on until a number has come, and then a little more of what is live."""
    told = list(before)
    while told[-1]["data"].get("seq", 0) < upto:
        told += await receive(client, 1)
    return told + await receive(client, 10)


@pytest.mark.timeout(120)
async def test_subscriber_who_was_away_for_longer_than_the_log_goes_on(tmp_path: Path) -> None:
    """Each feed: nothing is missing between the number it gives and what is live."""
    async with trading(tmp_path) as running:
        handle = await running.start()

        async def enough() -> bool:
            found = await chains(running)
            return all(len(found[feed]) > ENOUGH for feed in FEEDS)

        await eventually(enough)
        known = await chains(running)
        archived = (await running.archived(handle)).position or 0
        await running.log._js.purge_stream(STREAMS.ticks, seq=archived - 2)
        assert (await running.log.extent(STREAMS.ticks)).first >= archived - 2
        async with running_gateway(running.settings) as gateway:
            for feed in FEEDS:
                await goes_on(running, gateway, feed, known[feed])


async def goes_on(running: Site, gateway: RunningGateway, feed: Feed, known: list[Any]) -> None:
    """Resume one feed from its tenth message on; check every link up to what is live."""
    seq = known[9]["seq"]
    wanted = {"products": [PRODUCT], "feeds": [feed], "from_seq": {PRODUCT: seq}}
    async with subscriber(gateway, **wanted) as client:
        _, answer, first = await receive(client, 3)
        assert (why(answer), answer["recovered"]) == ("lake", True)
        newest = (await chains(running))[feed][-1]["seq"]
        told = await live(client, [first], newest)
    lines = [one["data"] for one in told]
    assert [one["seq"] for one in lines[: len(known) - 10]] == [one["seq"] for one in known[10:]]
    assert {one["op"] for one in told} == {"incr"}
    assert [one["prev_seq"] for one in lines] == [seq, *(one["seq"] for one in lines[:-1])]
