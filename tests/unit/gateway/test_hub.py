"""The fan-out as a machine: any order of events leaves every client with an unbroken view."""

import itertools

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from client.chain import ChainVerifier, Link
from gateway.group import Client, matched
from gateway.hub import Hub
from gateway.product import FEED_BITS
from gateway.protocol import Subscribe
from gateway.session import Session
from models.canonical import FEEDS, Feed
from streaming.broker.log import LogMessage
from streaming.core.latest import LatestState
from tests.examples import examples
from tests.gateways import PRODUCT, SUBJECT, snapshot, status, tick
from tests.unit.gateway.pipes import Pipe, Turns

PRODUCTS = ("BTC-USD", "ETH-USD", "SOL-USD")
CLIENTS = 2


class House:
    """A hub, its clients, and a log that always links."""

    def __init__(self, max_bytes: int) -> None:
        self.loop = Turns()
        self.hub = Hub(PRODUCTS[:2], self.loop)
        self.pipes = [Pipe(max_bytes) for _ in range(CLIENTS)]
        self.clients: list[Client] = [self.hub.join(pipe.sink) for pipe in self.pipes]
        self.newest: dict[tuple[str, Feed], int] = {}
        self.states: dict[tuple[str, Feed], LatestState] = {}
        self._position = itertools.count(1)

    def publish(self, product: str, feeds: list[Feed], *, anew: bool = False) -> None:
        """Publish one message with a tick of each feed, or with a new chain of each."""
        lines = []
        for feed in feeds:
            seq = self.newest.get((product, feed), 0)
            self.newest[product, feed] = seq + 3
            line = tick(seq + 3, seq, feed=feed, product=product)
            if anew:
                line = snapshot(seq + 3, feed=feed, product=product)
            lines.append(line)
            self.states.setdefault((product, feed), LatestState("coinbase", product, feed)).apply(
                line
            )
        subject = f"market.ticks.0.coinbase.{product}"
        self.hub.apply(LogMessage(subject, next(self._position), b"\n".join(lines)))

    def settle(self) -> None:
        """Let everybody catch up."""
        self.loop.end()
        for pipe in self.pipes:
            pipe.drain()


def subscription(feed: Feed) -> Subscribe:
    """Return a request for one feed of the product, with the whole book."""
    return Subscribe(products=(PRODUCT,), feeds=(feed,), depth="full")


names = st.just(["*"]) | st.lists(st.sampled_from(PRODUCTS), min_size=1, max_size=3)
feeds = st.lists(st.sampled_from(FEEDS), min_size=1, max_size=6)
who = st.integers(0, CLIENTS - 1)
events = st.one_of(
    st.tuples(st.just("publish"), st.sampled_from(PRODUCTS), feeds),
    st.tuples(st.just("publish"), st.sampled_from(PRODUCTS), feeds),
    st.tuples(st.just("new chains"), st.sampled_from(PRODUCTS), feeds),
    st.tuples(st.just("subscribe"), who, names, feeds, st.sampled_from(["full", 1, 2])),
    st.tuples(st.just("unsubscribe"), who, names, feeds),
    st.tuples(st.just("stuck"), who),
    st.tuples(st.just("stuck"), who),
    st.tuples(st.just("drain"), who),
    st.tuples(st.just("turn")),
)


@examples(200)
@given(st.lists(events, min_size=8, max_size=80), st.sampled_from([100, 300, 10**6]))
def test_views_after_any_events_are_unbroken_and_current(
    happened: list[tuple[object, ...]], max_bytes: int
) -> None:
    """Every view begins with a snapshot, links throughout and ends at the newest message."""
    house = House(max_bytes)
    sessions = [Session(house.hub, client) for client in house.clients]
    for event in happened:
        match event:
            case ("publish", str(product), list(chosen)):
                house.publish(product, chosen)
            case ("new chains", str(product), list(chosen)):
                house.publish(product, chosen, anew=True)
            case ("subscribe" | "unsubscribe" as op, int(number), list(named), list(chosen), *more):
                request: dict[str, object] = {"op": op, "products": named, "feeds": chosen}
                if more:
                    request["depth"] = more[0]
                sessions[number].receive(msgspec.json.encode(request).decode())
            case ("stuck", int(number)):
                house.pipes[number].stuck = True
            case ("drain", int(number)):
                house.pipes[number].drain()
            case _:
                house.loop.end()
    house.settle()
    for pipe, client in zip(house.pipes, house.clients, strict=True):
        assert not client.pending
        _check_view(house, pipe, client)


def _check_view(house: House, pipe: Pipe, client: Client) -> None:
    """Verify each link, and that what the client has subscribed to is complete."""
    verifier = ChainVerifier()
    seen: dict[tuple[str, Feed], LatestState] = {}
    asked: set[tuple[str, str]] = set()
    begun: set[tuple[str, str]] = set()
    for message in pipe.messages():
        named = set(itertools.product(message.get("products", ()), message.get("feeds", ())))
        if message["op"] == "subscribed":
            asked |= named
            begun -= named | {key for key in begun if ("*", key[1]) in named}
        elif message["op"] == "unsubscribed":
            asked -= named
        if message["op"] not in ("snapshot", "incr"):
            continue
        product, feed = message["data"]["product"], message["data"]["feed"]
        assert asked & {(product, feed), ("*", feed)}
        assert message["op"] == "snapshot" or (product, feed) in begun
        begun.add((product, feed))
        line = msgspec.json.encode(message["data"])
        link = msgspec.json.decode(line, type=Link)
        if link.type == "snapshot":
            seen[link.product, link.feed] = LatestState("coinbase", link.product, link.feed)
        verifier.check(link)
        seen[link.product, link.feed].apply(line)
    for served, feed in itertools.product(house.hub.products, FEEDS):
        if matched(client.selection, served.name) & FEED_BITS[feed]:
            key = (served.name, feed)
            assert seen[key].seq == house.newest.get(key, 0)
            if feed == "book" and seen[key].seq and client.depth_of(served.name) is None:
                assert seen[key].book.bids() == house.states[key].book.bids()


def test_clients_of_one_subscription_share_the_same_bytes() -> None:
    """What is due in a turn is joined once and written once to each."""
    loop = Turns()
    hub = Hub([PRODUCT], loop)
    written: list[list[bytes]] = [[], []]
    for pipe, writes in zip((Pipe(10**6), Pipe(10**6)), written, strict=True):
        client = hub.join(pipe.sink)
        hub.subscribe(client, subscription("ticker"))
        pipe.sink.write = writes.append
    for seq in (1, 2, 3):
        hub.apply(LogMessage(SUBJECT, seq, tick(seq)))
    assert len(loop.soon) == 1
    loop.end()
    assert len(written[0]) == len(written[1]) == 1
    assert written[0][0] is written[1][0]
    assert written[0][0].count(b'"op":"incr"') == 3


def test_stuck_client_costs_bounded_memory() -> None:
    """However much is published, what waits for a client stays near its bound."""
    loop = Turns()
    hub = Hub([PRODUCT], loop)
    pipe = Pipe(4096)
    hub.subscribe(hub.join(pipe.sink), subscription("ticker"))
    pipe.stuck = True
    for seq in range(1, 1001):
        hub.apply(LogMessage(SUBJECT, seq, tick(seq)))
        hub.flush()
    assert pipe.most_waiting < 4096 + 1024
    pipe.drain()
    last = pipe.messages()[-1]
    assert (last["op"], last["data"]["seq"], last["data"]["reason"]) == (
        "snapshot",
        1000,
        "conflated",
    )


def test_snapshot_beyond_the_bound_does_not_conflate_its_receiver() -> None:
    """What a snapshot weighs is not held against the client, who goes on live."""
    loop = Turns()
    hub = Hub([PRODUCT], loop)
    levels = ",".join(f'["{n}.5","1"]' for n in range(2000, 2400))
    hub.apply(LogMessage(SUBJECT, 1, snapshot(1, f'{{"bids":[{levels}],"asks":[]}}', feed="book")))
    pipe = Pipe(1024)
    pipe.stuck = True
    hub.subscribe(hub.join(pipe.sink), subscription("book"))
    hub.apply(LogMessage(SUBJECT, 2, tick(2, feed="book")))
    hub.flush()
    pipe.drain()
    assert [(m["op"], m["data"]["seq"]) for m in pipe.messages()] == [("snapshot", 1), ("incr", 2)]


def test_book_newcomers_share_a_snapshot_and_get_what_came_after_it() -> None:
    """A rendered book serves later clients together with the changes since."""
    hub = Hub([PRODUCT], Turns())
    levels = ",".join(f'["{n}.5","1"]' for n in range(2000, 2400))
    hub.apply(LogMessage(SUBJECT, 1, snapshot(1, f'{{"bids":[{levels}],"asks":[]}}', feed="book")))
    views = []
    for seq in range(2, 40):
        pipe = Pipe(10**6)
        hub.subscribe(hub.join(pipe.sink), subscription("book"))
        views.append((seq - 1, pipe))
        hub.apply(LogMessage(SUBJECT, seq, tick(seq, feed="book")))
        hub.flush()
    for subscribed_at, pipe in views:
        messages = pipe.messages()
        first = messages[0]["data"]["seq"]
        assert first <= subscribed_at
        assert [m["data"]["seq"] for m in messages] == list(range(first, 40))
    assert len({pipe.messages()[0]["data"]["seq"] for _, pipe in views}) < 10


def test_message_that_is_not_canonical_is_counted_and_left_out() -> None:
    """One bad message does not stop the others."""
    hub = Hub([PRODUCT], Turns())
    hub.apply(LogMessage(SUBJECT, 1, b"not json"))
    hub.apply(LogMessage(SUBJECT, 2, tick(1)))
    text = hub.metrics.render().decode()
    assert 'md_invalid_messages_total{reason="not_canonical",venue="coinbase"} 1.0' in text
    assert "md_gateway_messages_total 1.0" in text


def test_link_that_does_not_fit_is_counted() -> None:
    """The gateway verifies what it reads; a snapshot begins anew."""
    hub = Hub([PRODUCT], Turns())
    lines = [tick(5, 0), tick(7, 6), status("gap"), snapshot(20, "{}"), tick(21, 20)]
    hub.apply(LogMessage(SUBJECT, 1, b"\n".join(lines) + b"\n"))
    assert "md_gateway_broken_links_total 1.0" in hub.metrics.render().decode()


def test_client_that_left_gets_nothing_and_costs_nothing() -> None:
    """Leaving twice is fine, and empties the audience."""
    hub = Hub([PRODUCT], Turns())
    pipe = Pipe(10**6)
    client = hub.join(pipe.sink)
    hub.subscribe(client, Subscribe(products=("*",)))
    hub.apply(LogMessage(SUBJECT, 1, tick(1)))
    pipe.sink.close()
    hub.leave(client)
    hub.flush()
    assert [m["op"] for m in pipe.messages()] == ["snapshot"] * 3
    assert all(not product.audience for product in hub.products)
    assert "md_gateway_clients 0.0" in hub.metrics.render().decode()
