"""Clients that subscribe, resume, lag, pace and vanish at random, held against the log."""

import itertools
import json
import time

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.hub import Hub, Limits
from gateway.session import Session
from models.canonical import FEEDS, Feed
from streaming.broker.log import LogMessage
from tests.examples import examples
from tests.gateways import snapshot, status, tick
from tests.unit.gateway.pipes import Pipe, Turns
from tests.views import CanonicalLog, Connection

PRODUCTS = ["BTC-USD", "ETH-USD"]
CLIENTS = 3
PIPE_BYTES = 2000

products = st.sampled_from(PRODUCTS)
feeds = st.lists(st.sampled_from(FEEDS), min_size=1, max_size=4)
who = st.integers(0, CLIENTS - 1)
names = st.just(["*"]) | st.lists(products, min_size=1, max_size=2, unique=True)
rates = st.none() | st.sampled_from([0.5, 4, 50])


class Guest:
    """One connection: its pipe, its session, and its view of the log."""

    def __init__(self, hub: Hub, log: CanonicalLog) -> None:
        self.pipe = Pipe(PIPE_BYTES)
        self.client = hub.join(self.pipe.sink)
        self.session = Session(hub, self.client)
        self.connection = Connection(log)

    def say(self, **request: object) -> None:
        """Send a message."""
        if self.pipe.closed_with is None:
            self.session.receive(json.dumps(request))

    def hear(self) -> None:
        """Hold what has arrived since against the log."""
        for message in self.pipe.news():
            self.connection.take(message)


class Gateway(RuleBasedStateMachine):
    """A hub over a log that always links, and clients that do anything."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = Turns()
        limits = Limits(ring_bytes=8000, client_bytes=10**6, msgs_per_s=10**6, burst=10**6)
        self.hub = Hub(PRODUCTS, self.loop, limits)
        self.log = CanonicalLog()
        self.guests = [Guest(self.hub, self.log) for _ in range(CLIENTS)]
        self.position = itertools.count(1)

    @rule(product=products, chosen=feeds, kind=st.sampled_from(["tick", "tick", "anew", "status"]))
    def publish(self, product: str, chosen: list[Feed], kind: str) -> None:
        """Write a message with a line for each feed."""
        lines = []
        for feed in chosen:
            seq = self.log.number[product, feed]
            if kind == "tick":
                lines.append(tick(seq + 3, seq, feed=feed, product=product))
            elif kind == "anew":
                lines.append(snapshot(seq + 3, feed=feed, product=product))
            else:
                state = ("gap", "live")[len(self.log.lines[product, feed]) % 2]
                lines.append(status(state, feed=feed, product=product, since=next(self.position)))
            self.log.append(lines[-1])
        message = LogMessage(
            f"market.ticks.0.coinbase.{product}",
            next(self.position),
            b"\n".join(lines),
            time_us=time.time_ns() // 1000,
        )
        self.hub.apply(message)

    @rule(number=who, named=names, chosen=feeds, rate=rates, want=st.booleans())
    def subscribe(
        self, number: int, named: list[str], chosen: list[Feed], rate: float | None, *, want: bool
    ) -> None:
        """Begin feeds, or begin them anew, perhaps at a bounded rate."""
        more = {} if rate is None else {"max_rate": rate}
        if want or rate is not None:
            self.guests[number].say(op="subscribe", products=named, feeds=chosen, **more)

    @rule(number=who, product=products, feed=st.sampled_from(FEEDS), back=st.integers(-1, 30))
    def resume(self, number: int, product: str, feed: Feed, back: int) -> None:
        """Go on after one of the newest numbers, or one that is not there."""
        numbers = [0, *self.log.numbers((product, feed))]
        seq = numbers[-1] + 1 if back < 0 else numbers[max(0, len(numbers) - 1 - back)]
        self.guests[number].say(
            op="subscribe", products=[product], feeds=[feed], from_seq={product: seq}
        )

    @rule(number=who, product=products)
    def resume_another_log(self, number: int, product: str) -> None:
        """Come with numbers of a log that is no more."""
        numbers = {feed: self.log.number[product, feed] for feed in FEEDS}
        self.guests[number].say(
            op="subscribe", products=[product], from_seq={product: numbers}, epoch="another"
        )

    @rule(number=who, named=names, chosen=feeds)
    def unsubscribe(self, number: int, named: list[str], chosen: list[Feed]) -> None:
        """End feeds."""
        self.guests[number].say(op="unsubscribe", products=named, feeds=chosen)

    @rule(number=who)
    def stick(self, number: int) -> None:
        """Read no more."""
        self.guests[number].pipe.stuck = True

    @rule(number=who)
    def drain(self, number: int) -> None:
        """Read everything."""
        self.guests[number].pipe.drain()

    @rule(number=who)
    def prefer_to_be_closed(self, number: int) -> None:
        """Ask to be closed rather than conflated."""
        self.guests[number].say(
            op="subscribe", products=["*"], feeds=["ticker"], on_slow="disconnect"
        )

    @rule(number=who)
    def vanish(self, number: int) -> None:
        """Lose the connection, and come again without subscriptions."""
        self.guests[number].hear()
        self.guests[number].pipe.sink.close()
        self.guests[number] = Guest(self.hub, self.log)

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.3, 3.0]))
    def pass_time(self, seconds: float) -> None:
        """End the turn, and let time go on."""
        self.loop.end()
        self.loop.sleep(seconds)

    @invariant()
    def views_are_what_the_log_has(self) -> None:
        """Whatever has arrived is right so far."""
        for guest in self.guests:
            guest.hear()

    @invariant()
    def lagging_clients_are_counted(self) -> None:
        """Compare the gauge with how many there are."""
        (gauge,) = self.hub.metrics.lagging.collect()
        assert gauge.samples[0].value == len(self.hub._audience._lagging)

    def teardown(self) -> None:
        """Let everybody catch up: then nothing is missing, and nothing is left behind."""
        for number, guest in enumerate(self.guests):
            if guest.pipe.closed_with is not None:
                assert guest.pipe.closed_with == 4001
                assert guest.client.closes_when_slow
                self.vanish(number)
        self.pass_time(0.0)
        for _ in range(3):
            for guest in self.guests:
                guest.pipe.drain()
            self.pass_time(3.0)
        for guest in self.guests:
            guest.hear()
            if guest.pipe.closed_with is None:
                assert not guest.client.pending
                guest.connection.assert_complete(PRODUCTS)
            guest.pipe.sink.close()
        for product in self.hub.products:
            assert not product.audience
            assert not product.paces
        assert not self.hub._audience._lagging
        assert not self.hub._audience._groups
        assert not self.hub._audience._pacer._paces
        text = self.hub.metrics.render().decode()
        assert "md_gateway_clients 0.0" in text
        assert "md_gateway_lagging_clients 0.0" in text


Gateway.TestCase.settings = examples(150, stateful_step_count=60)
TestViews = Gateway.TestCase
