"""Messages that cannot be acted on, over a real socket: an error each, and nobody is disturbed."""

import asyncio
import json
from contextlib import suppress
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from models.settings import Settings
from streaming.broker.jetstream import JetStreamLog
from tests.gateways import (
    PRODUCT,
    SUBJECT,
    numbers,
    receive,
    running_gateway,
    subscriber,
    tick,
)
from tests.malformed import BAD
from tests.servers import PATIENCE_S

AMBIGUOUS = "market.ticks.0.elsewhere.BTC-USD"

IN_PLACE: list[tuple[str | bytes, str]] = [
    (b"\x00\x01", "not_text"),
    (b'{"op":"ping"}', "not_text"),
    ('{"op":"subscribe","products":["BTC-USD","NOPE-USD"]}', "unknown_product"),
    ('{"op":"subscribe","products":["coinbase/BTC-USD"]}', "unknown_product"),
    (
        '{"op":"subscribe","products":["*"],"feeds":["book"],"from_seq":{"NOPE-USD":1}}',
        "unknown_product",
    ),
    (
        '{"op":"subscribe","products":["*"],"feeds":["book"],"from_seq":{"nowhere/BTC-USD":1}}',
        "unknown_product",
    ),
    (
        '{"op":"subscribe","products":["BTC-USD"],"feeds":["book"],"from_seq":{"BTC-USD":1}}',
        "ambiguous_product",
    ),
    ('{"op":"unsubscribe","products":["BTC-USD"]}', "covered_by_all"),
    ('{"op":"subscribe","products":["BTC-USD","ETH-USD"]}', "too_many_subscriptions"),
    ('{"op":"auth","key":"secret"}', "unauthorized"),
]
"""Messages that are wrong only for a client that has `*` on a gateway with two venues."""


async def ask(client: ClientConnection, message: str | bytes) -> Any:
    """Send a message and return its answer."""
    await client.send(message)
    return (await receive(client, 1))[0]


async def test_malformed_messages_get_their_errors_and_disturb_nobody(
    log: JetStreamLog, settings: Settings
) -> None:
    """The connection goes on, with the subscriptions that it had, and so do all others."""
    cases: list[tuple[str | bytes, str]] = [*BAD, *IN_PLACE]
    assert len(cases) >= 60
    await log.publish(AMBIGUOUS, tick(1).replace(b"coinbase", b"elsewhere"))
    ticker = {"products": ["*"], "feeds": ["ticker"]}
    async with (
        running_gateway(settings, ws_max_subscriptions=6) as gateway,
        subscriber(gateway, **ticker) as client,
        subscriber(gateway, **ticker) as other,
    ):
        for each in (client, other):
            await receive(each, 1 + len(settings.coinbase_products) + 1)
        for number, (message, code) in enumerate(cases):
            answer = await ask(client, message)
            assert (answer["op"], answer["code"]) == ("error", code), message[:100]
            assert answer["msg"].endswith(".")
            if number % 20 == 0:
                await log.publish(SUBJECT, tick(number + 1))
                for each in (client, other):
                    assert numbers(await receive(each, 1)) == [("incr", number + 1)]
        pong = await ask(client, '{"op":"ping","id":"still here"}')
        assert pong == {"op": "pong", "id": "still here"}
        await log.publish(SUBJECT, tick(1000))
        for each in (client, other):
            assert numbers(await receive(each, 1)) == [("incr", 1000)]
        assert await gateway.metric("md_gateway_clients") == 2


async def test_client_that_sends_too_fast_is_told_when_to_go_on_and_keeps_its_data(
    log: JetStreamLog, settings: Settings
) -> None:
    """Past its burst messages are dropped; its subscription and everybody else go on."""
    async with (
        running_gateway(settings, ws_max_msgs_per_sec=20, ws_burst=5) as gateway,
        subscriber(gateway, products=[PRODUCT], feeds=["ticker"]) as client,
        subscriber(gateway, products=[PRODUCT], feeds=["ticker"]) as other,
    ):
        await receive(client, 2)
        await receive(other, 2)
        for number in range(50):
            await client.send(json.dumps({"op": "ping", "id": number}))
        said: list[Any] = []
        while not said or said[-1]["op"] != "rate_limit":
            said += await receive(client, 1)
        assert [m["id"] for m in said[:-1]] == list(range(len(said) - 1))
        assert 0 < said[-1]["retry_ms"] <= 1000
        assert await ask(other, '{"op":"ping"}') == {"op": "pong", "id": None}
        await log.publish(SUBJECT, tick(1))
        for each in (client, other):
            while (message := (await receive(each, 1))[0])["op"] in ("pong", "rate_limit"):
                pass
            assert numbers([message]) == [("incr", 1)]
        await asyncio.sleep(said[-1]["retry_ms"] / 1000)
        await client.send('{"op":"ping","id":"again"}')
        while (answer := (await receive(client, 1))[0]).get("id") != "again":
            assert answer["op"] in ("pong", "rate_limit")


async def test_subscriptions_of_a_connection_are_bounded(
    log: JetStreamLog, settings: Settings
) -> None:
    """`*` counts as one per feed; what there is already counts once; ended ones make room."""
    async with (
        running_gateway(settings, ws_max_subscriptions=3) as gateway,
        subscriber(gateway) as client,
    ):
        assert log.connected

        async def subscribe(products: list[str], feeds: list[str]) -> Any:
            request = {"op": "subscribe", "products": products, "feeds": feeds}
            answer = await ask(client, json.dumps({**request, "want_snapshot": False}))
            return answer.get("code", answer["op"])

        assert await subscribe(["BTC-USD", "ETH-USD"], ["ticker"]) == "subscribed"
        assert await subscribe(["*"], ["book", "trades"]) == "too_many_subscriptions"
        assert await subscribe(["*"], ["book"]) == "subscribed"
        assert await subscribe(["BTC-USD", "BTC-USD"], ["ticker"]) == "subscribed"
        assert await subscribe(["BTC-USD"], ["trades"]) == "too_many_subscriptions"
        await ask(client, '{"op":"unsubscribe","products":["ETH-USD"],"feeds":["ticker"]}')
        assert await subscribe(["BTC-USD"], ["trades"]) == "subscribed"


async def test_slow_client_that_asked_for_it_is_closed_with_4001(
    log: JetStreamLog, settings: Settings
) -> None:
    """Rather than conflated; whoever asked for nothing is not closed."""
    async with (
        running_gateway(settings, ws_max_client_bytes=64 * 1024) as gateway,
        subscriber(gateway, products=[PRODUCT], feeds=["ticker"], on_slow="disconnect") as slow,
    ):
        await receive(slow, 2)
        slow.transport.pause_reading()
        for batch in range(200):
            await log.publish(SUBJECT, b"\n".join(tick(batch * 500 + n) for n in range(1, 501)))
            if await gateway.metric("md_gateway_clients") == 0:
                break
        slow.transport.resume_reading()
        async with asyncio.timeout(PATIENCE_S):
            with suppress(ConnectionClosed):
                async for _ in slow:
                    pass
        assert slow.close_code == 4001
        assert await gateway.metric("md_gateway_conflated_total") == 0
