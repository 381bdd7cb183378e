"""`max_rate` and `rate_limit`: no more often than agreed, and no less than the newest state."""

import itertools
import json
from typing import Any

import pytest

from gateway.hub import Hub, Limits
from gateway.session import Session
from models.canonical import Feed
from streaming.broker.log import LogMessage
from tests.gateways import PRODUCT, SUBJECT, snapshot, status, tick
from tests.unit.gateway.pipes import Pipe, Turns


class Guest:
    """A client of a hub, its pipe, and when each message came."""

    def __init__(self, hub: Hub, loop: Turns, max_bytes: int = 10**6) -> None:
        self.pipe = Pipe(max_bytes)
        self.came: list[tuple[float, Any]] = []
        self._loop = loop
        self._session = Session(hub, hub.join(self.pipe.sink))

    def say(self, op: str = "subscribe", **request: object) -> None:
        self._session.receive(json.dumps({"op": op, **request}))

    def pace(self, rate: float, feed: Feed = "ticker", **more: object) -> None:
        self.say("subscribe", products=[PRODUCT], feeds=[feed], max_rate=rate, **more)

    def news(self) -> list[Any]:
        """Return what has come since, and note when."""
        news = self.pipe.news()
        self.came += [(self._loop.time(), message) for message in news]
        return news

    def seqs(self) -> list[tuple[str, int]]:
        """Return reason and number of the snapshots that have come since."""
        return [
            (message["data"]["reason"], message["data"]["seq"])
            for message in self.news()
            if message["op"] == "snapshot"
        ]


@pytest.fixture
def loop() -> Turns:
    """Give turns of a loop."""
    return Turns()


@pytest.fixture
def hub(loop: Turns) -> Hub:
    """Give a hub with one product."""
    return Hub([PRODUCT], loop, Limits(msgs_per_s=10, burst=5))


def apply(hub: Hub, *lines: bytes) -> None:
    """Give the hub a message of the log."""
    hub.apply(LogMessage(SUBJECT, hub.ring.upto + 1, b"\n".join(lines)))


@pytest.mark.parametrize("rate", [0.5, 3, 10])
def test_states_come_no_more_often_than_asked_and_the_newest_does_come(
    loop: Turns, hub: Hub, rate: float
) -> None:
    """20 s of 50 ticks a second, to clients that have come at different moments."""
    guests = [Guest(hub, loop) for _ in range(3)]
    for seq in range(1, 1001):
        if seq in (1, 8, 400):
            guests[(1, 8, 400).index(seq)].pace(rate)
        apply(hub, tick(seq))
        loop.end()
        loop.sleep(0.02)
        for guest in guests:
            guest.news()
    loop.sleep(3 / rate)
    for guest in guests:
        guest.news()
        times = [at for at, message in guest.came if message["op"] == "snapshot"]
        assert min(b - a for a, b in itertools.pairwise(times)) > 1 / rate - 0.021
        assert len(times) >= rate * 10 - 1
        assert {message["op"] for _, message in guest.came} == {"subscribed", "snapshot"}
        newest = guest.came[-1][1]["data"]
        assert (newest["seq"], newest["reason"]) == (1000, "max_rate")
        assert newest["state"]["last_trade"]["id"] == 1000
    loop.sleep(100)
    assert [guest.news() for guest in guests] == [[], [], []]


def test_change_after_quiet_comes_at_once(loop: Turns, hub: Hub) -> None:
    """The rate bounds; it does not delay what could have come."""
    guest = Guest(hub, loop)
    guest.pace(0.1)
    loop.sleep(60)
    assert guest.seqs() == [("subscribe", 0)]
    apply(hub, tick(1))
    loop.sleep(0)
    assert guest.seqs() == [("max_rate", 1)]


def test_clients_of_one_rate_and_depth_share_the_same_bytes(loop: Turns, hub: Hub) -> None:
    """The book is rendered once for all of them, at the depth that they asked for."""
    apply(hub, snapshot(1, '{"bids":[["9","1"],["8","1"]],"asks":[]}', feed="book"))
    guests = [Guest(hub, loop) for _ in range(3)]
    written: list[list[bytes]] = [[], [], []]
    for guest, writes, depth in zip(guests, written, (1, 1, 2), strict=True):
        guest.pace(1, "book", depth=depth)
        guest.pipe.sink.write = writes.append
    loop.sleep(5)
    apply(hub, tick(2, feed="book"))
    loop.sleep(1)
    (first,), (second,), (deeper,) = written
    assert first is second
    assert first.count(b'["9"') + first.count(b'["8"') == 1
    assert deeper.count(b'["9"') + deeper.count(b'["8"') == 2


def test_status_comes_with_the_state_once_and_also_when_all_is_well_again(
    loop: Turns, hub: Hub
) -> None:
    """A paced client knows of trouble, and of its end."""
    guest = Guest(hub, loop)
    guest.pace(1)
    loop.sleep(5)
    told = []
    for lines in ([status("gap")], [tick(1)], [status("live", since=8)], [tick(2)]):
        apply(hub, *lines)
        loop.sleep(5)
        told.append(guest.news()[-1]["data"]["state"])
    assert told[0] == "gap"
    assert told[2] == "live"
    assert isinstance(told[1], dict)
    assert isinstance(told[3], dict)


def test_slow_client_is_owed_the_newest_state_and_gets_it_when_it_reads(
    loop: Turns, hub: Hub
) -> None:
    """Nothing piles up for it meanwhile."""
    guest = Guest(hub, loop, max_bytes=300)
    guest.pace(10)
    guest.pipe.stuck = True
    for seq in range(1, 100):
        apply(hub, tick(seq))
        loop.sleep(1)
    assert guest.pipe.most_waiting < 1000
    guest.pipe.drain()
    loop.sleep(1)
    assert guest.seqs()[-1] == ("max_rate", 99)


def test_slow_client_that_wants_to_be_closed_is(loop: Turns, hub: Hub) -> None:
    """`on_slow` counts for paced feeds as well; a later client is served as before."""
    guest, other = Guest(hub, loop, max_bytes=300), Guest(hub, loop)
    guest.pace(10, on_slow="disconnect")
    other.pace(10)
    guest.pipe.stuck = True
    for seq in range(1, 10):
        apply(hub, tick(seq))
        loop.sleep(1)
    assert guest.pipe.closed_with == 4001
    assert "md_gateway_too_slow_total 1.0" in hub.metrics.render().decode()
    assert other.seqs()[-1] == ("max_rate", 9)


def test_newest_subscription_decides_about_the_rate(loop: Turns, hub: Hub) -> None:
    """By name it wins over `*`; without `max_rate` increments come again."""
    guest = Guest(hub, loop)
    guest.say(products=["*"], feeds=["ticker"])
    guest.pace(1)
    loop.sleep(5)
    apply(hub, tick(1))
    hub.apply(LogMessage("market.ticks.0.coinbase.ETH-USD", 2, tick(1, product="ETH-USD")))
    loop.end()
    loop.sleep(5)
    got = {(m["op"], m["data"]["product"]) for m in guest.news() if "data" in m}
    assert got == {
        ("snapshot", "BTC-USD"),
        ("snapshot", "ETH-USD"),
        ("incr", "ETH-USD"),
    }
    guest.say(products=["*"], feeds=["ticker"])
    guest.news()
    apply(hub, tick(2))
    loop.end()
    loop.sleep(5)
    assert [message["op"] for message in guest.news()] == ["incr"]
    guest.say(products=["*"], feeds=["ticker"], max_rate=1)
    guest.say("unsubscribe", products=["*"], feeds=["ticker"])
    guest.say("unsubscribe", products=[PRODUCT], feeds=["ticker"])
    guest.news()
    apply(hub, tick(3))
    loop.end()
    loop.sleep(5)
    assert guest.news() == []
    assert not any(product.paces for product in hub.products)


def test_product_that_appears_later_begins_for_those_who_pace_all(loop: Turns, hub: Hub) -> None:
    """`*` includes what is still to come, at the rate that was asked for."""
    guest = Guest(hub, loop)
    guest.say(products=["*"], feeds=["ticker"], max_rate=1)
    loop.sleep(5)
    hub.apply(LogMessage("market.ticks.0.coinbase.NEW-USD", 1, tick(7, 0, product="NEW-USD")))
    loop.sleep(2)
    assert guest.seqs() == [("subscribe", 0), ("subscribe", 0), ("max_rate", 7)]


def test_costly_states_are_followed_by_a_rest(
    loop: Turns, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can keep the gateway busy by asking for a deep book a thousand times a second."""
    guest = Guest(hub, loop)
    guest.pace(1000, "book")
    state = hub.products.one(PRODUCT).feeds[4]
    render = type(state).snapshot

    def slowly(*args: Any) -> bytes:
        loop.pass_time(0.1)
        return render(*args)

    monkeypatch.setattr(type(state), "snapshot", slowly)
    for seq in range(1, 1001):
        apply(hub, tick(seq, feed="book"))
        loop.sleep(0.01)
    assert 20 < len(guest.seqs()) < 30


def test_messages_beyond_the_rate_are_dropped_and_told_once(loop: Turns, hub: Hub) -> None:
    """One `rate_limit` for a dry spell; after `retry_ms` a message passes again."""
    guest = Guest(hub, loop)
    for number in range(20):
        guest.say("ping", id=number)
    *pongs, limit = guest.news()
    assert [pong["id"] for pong in pongs] == [0, 1, 2, 3, 4]
    assert limit["op"] == "rate_limit"
    assert 100 <= limit["retry_ms"] <= 101
    loop.sleep(limit["retry_ms"] / 1000)
    for number in (20, 21):
        guest.say("ping", id=number)
    assert [message["op"] for message in guest.news()] == ["pong", "rate_limit"]
    loop.sleep(10)
    for _ in range(6):
        guest.say("nonsense")
    assert [m.get("code") for m in guest.news()] == ["unknown_op"] * 5 + [None]
