"""The simulated exchange's WebSocket feed, over a real socket."""

import asyncio
import json
import time
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.unit.simulator.client import (
    Book,
    Feed,
    Message,
    listening,
    of_type,
    rest_client,
    still,
    trade_some,
)
from venues.simulator.auth import signature
from venues.simulator.channels import AUTH_REASON
from venues.simulator.config import Keys, Limits, SimConfig
from venues.simulator.server import PortTakenError, Simulator

VECTOR = {
    "key": "sim-key",
    "passphrase": "sim-passphrase",
    "timestamp": "1493343391.076892",
    "signature": "Gt5TiJQH8Z1/D5L/nu4kxTFOIbT49iONuH36/rKLsHM=",
}


async def test_subscribe_is_acknowledged_with_aliases_and_greeted() -> None:
    """Ack first, then snapshot, one last_match and one ticker per product."""
    async with Simulator(still()) as simulator, listening(simulator) as feed:
        await feed.subscribe(
            "level2_batch", "matches", {"name": "ticker_batch", "product_ids": ["ETH-USD"]}
        )
        ack, *greeting = await feed.rest()
        assert ack["type"] == "subscriptions"
        assert [(one["name"], sorted(one["product_ids"])) for one in ack["channels"]] == [
            ("level2_50", ["BTC-USD"]),
            ("matches", ["BTC-USD"]),
            ("ticker_1000", ["BTC-USD", "ETH-USD"]),
        ]
        assert {one["account_ids"] for one in ack["channels"]} == {None}
        assert [(one["type"], one["product_id"]) for one in greeting] == [
            ("snapshot", "BTC-USD"),
            ("last_match", "BTC-USD"),
            ("ticker", "BTC-USD"),
            ("ticker", "ETH-USD"),
        ]
        _, last, ticker, _ = greeting
        assert (last["trade_id"], last["sequence"]) == (ticker["trade_id"], ticker["sequence"])
        assert last["side"] != ticker["side"]


async def test_acknowledgement_is_cumulative_and_unsubscribe_removes() -> None:
    """Every answer lists everything; no products means the whole channel."""
    async with Simulator(still()) as simulator, listening(simulator, "heartbeat") as feed:
        await feed.subscribe("ticker", products=("BTC-USD", "ETH-USD"))
        ack = (await feed.until("subscriptions"))[-1]
        assert [one["name"] for one in ack["channels"]] == ["heartbeat", "ticker"]
        await feed.send(type="unsubscribe", product_ids=["ETH-USD"], channels=["ticker"])
        ack = (await feed.until("subscriptions"))[-1]
        assert [one["product_ids"] for one in ack["channels"]] == [["BTC-USD"], ["BTC-USD"]]
        await feed.send(type="unsubscribe", channels=["ticker"])
        ack = (await feed.until("subscriptions"))[-1]
        assert [one["name"] for one in ack["channels"]] == ["heartbeat"]
        trade_some(simulator, 2)
        assert of_type(await feed.rest(), "ticker") == []


async def test_subscribe_to_an_unknown_product_is_rejected_in_part() -> None:
    """The error, then an acknowledgement of what is valid."""
    async with Simulator(still()) as simulator, listening(simulator) as feed:
        await feed.subscribe("heartbeat", products=("NO-NO", "BTC-USD"))
        error, ack = await feed.next(), await feed.next()
        assert error == {
            "type": "error",
            "message": "Failed to subscribe",
            "reason": "NO-NO is not a valid product",
        }
        assert ack["channels"][0]["product_ids"] == ["BTC-USD"]


async def test_subscribe_without_a_signature_is_rejected_whole() -> None:
    """The error, then an empty acknowledgement."""
    async with Simulator(still()) as simulator, listening(simulator) as feed:
        await feed.subscribe("full", "level2")
        assert (await feed.next())["reason"] == AUTH_REASON
        assert await feed.next() == {"type": "subscriptions", "channels": []}


async def test_subscribe_with_the_test_vector_opens_full() -> None:
    """The documentation's signature is accepted, and full is contiguous."""
    config = still(keys=Keys(max_skew_s=None))
    async with Simulator(config) as simulator, listening(simulator) as feed:
        await feed.send(type="subscribe", product_ids=["BTC-USD"], channels=["full"], **VECTOR)
        assert (await feed.next())["channels"][0]["name"] == "full"
        trade_some(simulator, 20)
        seen = await feed.rest()
        first = seen[0]["sequence"]
        assert [one["sequence"] for one in seen] == list(range(first, first + len(seen)))


async def test_subscribe_with_an_old_or_wrong_signature_is_refused() -> None:
    """A bad signature is an error of its own, and gives nothing."""
    async with Simulator(still()) as simulator, listening(simulator) as feed:
        await feed.send(type="subscribe", product_ids=["BTC-USD"], channels=["full"], **VECTOR)
        error = await feed.next()
        assert (error["message"], error["reason"]) == (
            "Authentication Failed",
            "request timestamp expired",
        )
        fresh = f"{time.time():.6f}"
        good = {**VECTOR, "timestamp": fresh, "signature": signature(Keys().secret, fresh)}
        await feed.send(type="subscribe", product_ids=["BTC-USD"], channels=["level2"], **good)
        assert (await feed.until("subscriptions"))[-1]["channels"] == []
        snapshot = (await feed.until("subscriptions"))[-1]
        assert snapshot["channels"][0]["name"] == "level2"


async def test_message_that_is_no_subscription_is_an_error() -> None:
    """Broken JSON, other types and missing channels are answered, not fatal."""
    async with Simulator(still()) as simulator, listening(simulator) as feed:
        await feed.socket.send("{")
        assert (await feed.next())["message"] == "Malformed JSON"
        await feed.send(type="ping")
        assert (await feed.next())["type"] == "error"
        await feed.send(type="subscribe", product_ids=["BTC-USD"])
        assert (await feed.next())["reason"] == "No channels provided"


async def test_connection_without_a_subscription_is_closed() -> None:
    """The deadline ends it; a subscription lifts the deadline."""
    config = still(subscribe_deadline_s=0.2)
    async with (
        Simulator(config) as simulator,
        listening(simulator) as idle,
        listening(simulator, "ticker") as busy,
    ):
        with pytest.raises(ConnectionClosed):
            await idle.next()
        trade_some(simulator, 1)
        assert (await busy.next())["type"] == "ticker"


async def test_connecting_too_often_is_refused_with_429() -> None:
    """Twenty at once, then the handshake fails."""
    config = still(limits=Limits(connects_per_s=0.001, connect_burst=2))
    async with Simulator(config) as simulator, listening(simulator), listening(simulator):
        with pytest.raises(InvalidStatus) as caught:
            async with connect(simulator.ws_url, proxy=None):
                pass
        assert caught.value.response.status_code == 429


async def test_client_that_talks_too_much_is_closed() -> None:
    """A hundred messages a second are the limit."""
    config = still(limits=Limits(messages_per_s=3))
    async with Simulator(config) as simulator, listening(simulator) as feed:
        for _ in range(5):
            await feed.send(type="ping")
        with pytest.raises(ConnectionClosed):
            await feed.until("never")
        assert feed.socket.close_code == 1008


async def test_subscriptions_of_one_product_and_channel_are_limited() -> None:
    """The eleventh is refused; another product is not."""
    config = still(limits=Limits(None, 0, None, 0, None, subscriptions_per_key=1))
    async with (
        Simulator(config) as simulator,
        listening(simulator, "ticker"),
        listening(simulator) as second,
    ):
        await second.subscribe("ticker", products=("BTC-USD", "ETH-USD"))
        assert "limit" in (await second.next())["reason"]
        ack = await second.next()
        assert ack["channels"][0]["product_ids"] == ["ETH-USD"]


async def test_level2_batch_joined_late_replays_to_the_rest_book() -> None:
    """A snapshot taken in the middle of a batch and what follows lead to REST's book."""
    config = still(products=("BTC-USD",))
    async with Simulator(config) as simulator, listening(simulator, "level2_batch") as early:
        simulator.venue.step("BTC-USD", 200)
        async with listening(simulator) as late:
            await late.subscribe("level2_batch")
            book = Book((await late.until("snapshot"))[-1])
            await early.rest()
            for _ in range(5):
                simulator.venue.step("BTC-USD", 100)
                await asyncio.sleep(0.02)
            simulator.venue.pause()
            updates = await late.rest()
            assert len(of_type(updates, "l2update")) >= 2
            for update in of_type(updates, "l2update"):
                book.apply(update)
            assert book.equals(await _rest(simulator, "/products/BTC-USD/book?level=2"))


async def test_running_market_sends_every_public_channel() -> None:
    """Left alone it trades on every product, beats each second and keeps its rate."""
    config = SimConfig(port=0, rate=1000, limits=Limits.none(), levels=50)
    channels = ("ticker", "ticker_batch", "matches", "level2_batch", "heartbeat", "status")
    async with Simulator(config) as simulator, listening(simulator) as feed:
        start = _sequences(simulator)
        await feed.subscribe(*channels, "auctionfeed", products=("BTC-USD", "ETH-USD"))
        seen = await _for(feed, 1.6)
        for product in ("BTC-USD", "ETH-USD"):
            of_product = [one for one in seen if one.get("product_id") == product]
            for kind in ("ticker", "match", "l2update", "heartbeat"):
                assert of_type(of_product, kind)
            beats = [one["time"] for one in of_type(of_product, "heartbeat")]
            assert len(beats) == len(set(beats))
        beat = of_type(seen, "heartbeat")[0]
        assert beat["time"].endswith(".000000Z")
        used = _sequences(simulator) - start
        assert 0.3 * 1000 * 1.6 < used < 1.1 * 1000 * 1.8


async def test_status_channel_lists_products_and_currencies() -> None:
    """The message comes every five seconds; here it is asked for."""
    async with Simulator(still()) as simulator, listening(simulator) as feed:
        await feed.send(type="subscribe", channels=["status"])
        await feed.until("subscriptions")
        simulator.venue.say_status()
        message = (await feed.until("status"))[-1]
        assert {one["id"] for one in message["products"]} == {"BTC-USD", "ETH-USD"}
        assert {one["id"] for one in message["currencies"]} == {"BTC", "ETH", "USD"}


async def test_slow_reader_is_cut_off_and_others_go_on() -> None:
    """An outbox that overflows ends that connection only."""
    config = still(outbox_bytes=200_000, compression=False)
    async with Simulator(config) as simulator, listening(simulator, "ticker") as healthy:
        async with connect(
            simulator.ws_url, proxy=None, max_queue=1, compression=None, close_timeout=0.1
        ) as socket:
            slow = Feed(socket)
            await slow.subscribe("matches", "level2_batch")
            await slow.until("snapshot")
            for _ in range(200):
                trade_some(simulator, 200)
                await asyncio.sleep(0)
                if len(simulator.venue.hub.connections) == 1:
                    break
            assert len(simulator.venue.hub.connections) == 1
        assert of_type(await healthy.rest(), "ticker")


async def test_compression_is_used_when_the_client_asks() -> None:
    """permessage-deflate is offered, and can be switched off."""
    for compression in (True, False):
        config = still(compression=compression)
        async with Simulator(config) as simulator, listening(simulator, "ticker") as feed:
            assert bool(feed.socket.protocol.extensions) is compression


async def test_ground_truth_holds_what_nobody_heard(tmp_path: Path) -> None:
    """Every channel is written, faults included, with the very text that was sent."""
    path = tmp_path / "truth.ndjson"
    config = still(ground_truth=path)
    async with Simulator(config) as simulator, listening(simulator, "matches") as feed:
        await _inject(simulator, kind="drop", channel="matches", count=3)
        trade_some(simulator, 10)
        heard = of_type(await feed.rest(), "match")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["fault"]["kind"] for line in lines if "fault" in line] == ["drop"]
    by_channel: dict[str, list[Message]] = {}
    for line in lines:
        if "frame" in line:
            by_channel.setdefault(line["channel"], []).append(line["frame"])
    assert set(by_channel) >= {"full", "matches", "ticker", "level2", "level2_batch"}
    assert by_channel["matches"][3:] == heard
    assert by_channel["matches"] == of_type(by_channel["full"], "match")


async def test_port_in_use_is_an_error_that_names_it(tmp_path: Path) -> None:
    """And the ground truth of whoever has the port is left alone."""
    path = tmp_path / "truth.ndjson"
    async with Simulator(still()) as simulator:
        path.write_text("precious")
        second = Simulator(still(port=simulator.port, ground_truth=path))
        with pytest.raises(PortTakenError, match=str(simulator.port)):
            await second.start()
    assert path.read_text() == "precious"


def _sequences(simulator: Simulator) -> int:
    return sum(listed.engine.sequence for listed in simulator.venue.exchange.listed.values())


async def _for(feed: Feed, seconds: float) -> list[Message]:
    seen: list[Message] = []
    try:
        async with asyncio.timeout(seconds):
            while True:
                seen.append(await feed.next())
    except TimeoutError:
        return seen


async def _rest(simulator: Simulator, path: str) -> Message:
    async with rest_client(simulator) as http:
        answer: Message = (await http.get(path)).json()
        return answer


async def _inject(simulator: Simulator, **spec: object) -> None:
    async with rest_client(simulator) as http:
        (await http.post("/sim/faults", json=spec)).raise_for_status()
