"""The client's session against a model of the gateway: whatever breaks, nothing is missing."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.chain import ChainBrokenError
from client.errors import GatewayRefusedError
from client.session import OnBroken, Session
from client.subscription import Position, Subscription
from client.update import Update
from tests.gateways import snapshot, status, tick
from tests.unit.client.gateway_model import ModelConnection, ModelGateway

PRODUCTS = ["A-USD", "B-USD", "C-USD"]
KEY = ("coinbase", "BTC-USD", "ticker")
ACK = b'{"op":"subscribed","products":["BTC-USD"],"feeds":["ticker"],"epoch":"e1"}'


def session(
    products: list[str] | None = None,
    *,
    resume: Position | None = None,
    on_broken: OnBroken = "resync",
    max_rate: float | None = None,
) -> Session:
    """Return a session for tickers."""
    subscription = Subscription(products or ["BTC-USD"], ["ticker"], max_rate=max_rate)
    return Session(subscription, resume, on_broken, lambda _: None)


def begun(products: list[str] | None = None, **options: object) -> Session:
    """Return a session that has a connection and has said what it wants."""
    begun = session(products, **options)  # type: ignore[arg-type]
    begun.connected()
    begun.say()
    return begun


def said(conversation: Session) -> list[dict[str, object]]:
    """Return what is due."""
    return [json.loads(text) for text in conversation.say()]


def data(op: str, line: bytes, **more: object) -> bytes:
    """Return a message of the gateway."""
    return json.dumps({"op": op, "data": json.loads(line), **more}).encode()


def resumed(from_seq: int, *, recovered: bool, reason: str | None = None) -> bytes:
    """Return the answer to an entry of `from_seq`."""
    venue, product, feed = KEY
    fields = {"venue": venue, "product": product, "feed": feed, "from_seq": from_seq}
    return json.dumps(
        {"op": "resumed", **fields, "recovered": recovered, "reason": reason}
    ).encode()


def take(conversation: Session, *messages: bytes) -> list[Update]:
    """Hand over messages and return the updates."""
    return [update for message in messages if (update := conversation.receive(message))]


def seqs(updates: list[Update]) -> list[tuple[str, int]]:
    """Return (op, seq) of each."""
    return [(update.op, update.link.seq) for update in updates]


class World:
    """A gateway whose log grows, a client, and the wire between them."""

    def __init__(self, products: list[str]) -> None:
        self.gateway = ModelGateway()
        self.gateway.lines = [snapshot(1, product=product) for product in PRODUCTS]
        self.newest = dict.fromkeys(PRODUCTS, 1)
        self.client = session(products)
        self.got: list[Update] = []
        self.lost = 0
        self.cut(0, 1_000_000)

    def tick(self, product: str) -> None:
        """Let a number be left out each time: links need not be neighbours."""
        prev = self.newest[product]
        self.newest[product] += 2
        self.gateway.lines.append(tick(prev + 2, prev, product=product))

    def snapshot(self, product: str) -> None:
        """Begin a new chain in the log."""
        self.newest[product] += 5
        self.gateway.lines.append(snapshot(self.newest[product], product=product))

    def status(self, product: str) -> None:
        """Tell of a state, each time a new one."""
        since = len(self.gateway.lines)
        self.gateway.lines.append(status("gap", product=product, since=since))

    def cut(self, before: int, after: int) -> None:
        """Break the connection after so many messages; the next one brings so many at once."""
        if before:
            self.talk(before)
        self.connection = ModelConnection(self.gateway)
        self.client.connected()
        self.talk(after)

    def lose(self, product: str) -> None:
        """Lose a tick on the wire; a snapshot, which links to nothing, must not hide it."""
        self.tick(product)
        self.connection.flow()
        self.lost += self.connection.lose_newest()
        self.tick(product)

    def talk(self, messages: int = 1_000_000) -> None:
        """Deliver so many, with the client's answers between them."""
        self.connection.flow()
        for _ in range(messages):
            for text in self.client.say():
                self.connection.hear(text)
            if not self.connection.sent:
                return
            update = self.client.receive(self.connection.sent.pop(0))
            if update is not None:
                self.got.append(update)


steps = st.tuples(
    st.sampled_from(["tick"] * 6 + ["status", "snapshot", "cut", "lose", "talk"]),
    st.integers(0, 2),
)


@given(st.lists(steps, min_size=5, max_size=60), st.sampled_from([["*"], PRODUCTS]))
def test_session_over_any_breaks_hands_out_the_log_once_each_in_order(
    script: list[tuple[str, int]], products: list[str]
) -> None:
    """Cuts at any message and losses on the wire: per chain the consumer gets the whole log."""
    world = World(products)
    for step, number in script:
        match step:
            case "cut":
                world.cut(number, number * 2)
            case "talk":
                world.talk(number)
            case _:
                getattr(world, step)(PRODUCTS[number])
    # A loss shows at the next message, so there is one more of each.
    for product in PRODUCTS:
        world.tick(product)
    world.talk()
    assert all(update.recovered is None for update in world.got)
    assert world.client.verifier.broken <= world.lost
    for product in PRODUCTS:
        mine = [json.loads(up.line) for up in world.got if up.link.product == product]
        whole = [json.loads(line) for line in world.gateway.lines[len(PRODUCTS) :]]
        log = [line for line in whole if line["product"] == product]
        if world.lost:
            # A status has no link: behind a loss that is not seen yet it may come early, too.
            mine, log = ([x for x in seen if x["type"] != "status"] for seen in (mine, log))
        assert mine[1:] == log


def test_session_resumes_from_what_was_handed_out_last() -> None:
    """A new connection is told how far each chain came, and in which log."""
    client = begun()
    take(client, ACK, data("snapshot", snapshot(5)), data("incr", tick(6)))
    assert client.position == {"epoch": "e1", "from_seq": {"coinbase/BTC-USD": {"ticker": 6}}}
    client.connected()
    (request,) = said(client)
    assert request["from_seq"] == {"coinbase/BTC-USD": {"ticker": 6}}
    assert request["epoch"] == "e1"
    updates = take(client, ACK, resumed(6, recovered=True), data("incr", tick(7)))
    assert seqs(updates) == [("incr", 7)]
    assert (client.verifier.verified, client.verifier.broken) == (2, 0)


def test_session_goes_on_from_a_stored_position() -> None:
    """The next process begins where the last one ended; what it did not ask for is left out."""
    stored: Position = {
        "epoch": "e1",
        "from_seq": {"coinbase/BTC-USD": {"ticker": 6, "book": 9}, "coinbase/X-USD": {"ticker": 1}},
    }
    client = session(resume=stored)
    client.connected()
    (request,) = said(client)
    assert request["from_seq"] == {"coinbase/BTC-USD": {"ticker": 6}}
    updates = take(client, ACK, resumed(6, recovered=True), data("incr", tick(7)))
    assert seqs(updates) == [("incr", 7)]


def test_session_that_cannot_go_on_tells_its_consumer_why() -> None:
    """The snapshot that stands for what is missing says so, once."""
    client = begun(resume={"epoch": "e1", "from_seq": {"coinbase/BTC-USD": {"ticker": 6}}})
    updates = take(
        client,
        ACK,
        resumed(6, recovered=False, reason="too_old"),
        data("snapshot", snapshot(90), recovered=False),
        data("incr", tick(91)),
        data("snapshot", snapshot(95)),
    )
    assert [update.recovered for update in updates] == [False, None, None]
    assert updates[0].reason == "too_old"


def test_session_takes_a_snapshot_for_an_answer() -> None:
    """One that says that messages are missing is believed, though the answer did not come."""
    client = begun(resume={"epoch": "e1", "from_seq": {"coinbase/BTC-USD": {"ticker": 6}}})
    early = take(client, ACK, data("snapshot", snapshot(80)))
    late = take(client, data("snapshot", snapshot(90), recovered=False))
    assert early == []
    assert [(update.link.seq, update.recovered) for update in late] == [(90, False)]


def test_session_cut_before_the_snapshot_still_tells_that_messages_are_missing() -> None:
    """A second break hides nothing."""
    client = begun(resume={"epoch": "e1", "from_seq": {"coinbase/BTC-USD": {"ticker": 6}}})
    take(client, ACK, resumed(6, recovered=False, reason="too_old"))
    client.connected()
    (request,) = said(client)
    assert "from_seq" not in request
    (update,) = take(client, ACK, data("snapshot", snapshot(90)))
    assert (update.recovered, update.reason) == (False, "too_old")


def test_session_in_another_log_gives_up_every_position() -> None:
    """Numbers of a log that is gone prove nothing, whatever the gateway makes of them."""
    client = begun(resume={"epoch": "e0", "from_seq": {"coinbase/BTC-USD": {"ticker": 6}}})
    updates = take(client, ACK, data("incr", tick(7)), data("snapshot", snapshot(3)))
    assert [(update.link.seq, update.reason) for update in updates] == [(3, "epoch")]
    assert client.position["epoch"] == "e1"


def test_session_of_a_log_made_anew_under_way_begins_anew() -> None:
    """A changed epoch in a later answer is noticed too, and everything is asked for again."""
    client = begun(["A-USD", "B-USD"])
    take(client, ACK, data("snapshot", snapshot(1, product="A-USD")))
    take(client, data("snapshot", snapshot(1, product="B-USD")))
    take(client, data("incr", tick(9, 7, product="A-USD")))
    assert len(said(client)) == 1
    take(client, ACK.replace(b'"e1"', b'"e2"'))
    (request,) = said(client)
    assert request["products"] == ["A-USD", "B-USD"]
    assert "from_seq" not in request
    updates = take(client, data("incr", tick(2, product="B-USD")))
    assert updates == []
    (update,) = take(client, data("snapshot", snapshot(1, product="B-USD")))
    assert update.reason == "epoch"


def test_session_with_a_broken_chain_asks_for_what_is_missing() -> None:
    """The consumer gets the missing messages in their place; only the count tells."""
    client = begun()
    take(client, ACK, data("snapshot", snapshot(5)), data("incr", tick(6)))
    assert take(client, data("incr", tick(8))) == []
    (request,) = said(client)
    assert request["from_seq"] == {"coinbase/BTC-USD": {"ticker": 6}}
    stray = take(client, data("incr", tick(9)), ACK)
    assert stray == []
    updates = take(
        client, resumed(6, recovered=True), *(data("incr", tick(seq)) for seq in (7, 8, 9))
    )
    assert seqs(updates) == [("incr", 7), ("incr", 8), ("incr", 9)]
    assert client.verifier.broken == 1


def test_session_that_asks_again_hands_out_a_status_once() -> None:
    """What came between the last message that linked and the loss comes again with the rest."""
    client = begun()
    first = take(client, ACK, data("snapshot", snapshot(5)), data("status", status("gap")))
    again = take(
        client,
        data("incr", tick(7)),
        resumed(5, recovered=True),
        data("status", status("gap")),
        data("status", status("live")),
        data("incr", tick(6)),
        data("incr", tick(7)),
    )
    assert [update.op for update in first] == ["snapshot", "status"]
    assert [update.op for update in again] == ["status", "incr", "incr"]


def test_session_whose_chain_breaks_at_once_again_waits_and_in_the_end_begins_anew() -> None:
    """A gateway that has it wrong is not asked for the same for ever, nor in a storm."""
    client = begun()
    take(client, ACK, data("snapshot", snapshot(5)))
    pauses = []
    for _ in range(4):
        assert take(client, data("incr", tick(8, 7))) == []
        pauses.append(client.pause_s)
        (request,) = said(client)
        take(client, ACK, resumed(5, recovered=True))
    assert pauses[0] == 0
    assert all(one < two for one, two in pairwise(pauses))
    assert "from_seq" not in request
    (update,) = take(client, data("snapshot", snapshot(9)))
    assert (update.recovered, update.reason) == (False, "broken")


def test_session_told_to_raise_raises_and_can_go_on() -> None:
    """The error names the place; a new connection asks for what is missing."""
    client = begun(on_broken="raise")
    take(client, ACK, data("snapshot", snapshot(5)))
    with pytest.raises(ChainBrokenError) as broken:
        client.receive(data("incr", tick(8)))
    assert (broken.value.key, broken.value.expected) == (KEY, 5)
    client.connected()
    assert said(client)[0]["from_seq"] == {"coinbase/BTC-USD": {"ticker": 5}}


def test_session_repeats_what_a_rate_limit_has_dropped() -> None:
    """Everything since the last answer is said again, after the pause and in its order."""
    client = session([f"P{number}-USD" for number in range(2500)])
    client.connected()
    first = said(client)
    assert len(first) == 3
    take(client, ACK, b'{"op":"rate_limit","retry_ms":250}')
    assert client.pause_s == 0.25
    assert said(client) == first[1:]
    assert client.pause_s == 0


def test_session_that_lags_learns_that_messages_are_missing() -> None:
    """Conflation is a hole like any other."""
    client = begun()
    conflated = snapshot(50).replace(b'"resync"', b'"conflated"')
    updates = take(client, ACK, data("snapshot", snapshot(5)), data("snapshot", conflated))
    assert [(update.recovered, update.reason) for update in updates] == [
        (None, None),
        (False, "conflated"),
    ]


def test_session_with_max_rate_begins_anew_each_time() -> None:
    """Only the newest state counts, so there is nothing to resume."""
    client = begun(max_rate=2)
    take(client, ACK, data("snapshot", snapshot(5)))
    client.connected()
    (request,) = said(client)
    assert request["max_rate"] == 2
    assert "from_seq" not in request
    (update,) = take(client, ACK, data("snapshot", snapshot(9)))
    assert update.recovered is None


def test_session_refused_with_a_position_asks_without_it() -> None:
    """A product that is gone must not keep the others from coming back."""
    client = begun(resume={"epoch": "e1", "from_seq": {"coinbase/BTC-USD": {"ticker": 6}}})
    assert take(client, b'{"op":"error","code":"unknown_product","msg":"no."}') == []
    (request,) = said(client)
    assert "from_seq" not in request
    (update,) = take(client, ACK, data("snapshot", snapshot(9)))
    assert (update.recovered, update.reason) == (False, "unknown_product")


@pytest.mark.parametrize("code", ["unknown_namespace", "other_namespace", "too_many_replays"])
def test_session_refused_for_its_namespace_keeps_its_position(code: str) -> None:
    """Another position would not help, and this one is good once the replay can be had."""
    position: Position = {"epoch": "e1", "from_seq": {"coinbase/BTC-USD": {"ticker": 6}}}
    client = begun(resume=position)
    with pytest.raises(GatewayRefusedError) as refused:
        client.receive(b'{"op":"error","code":"%b","msg":"no."}' % code.encode())
    assert refused.value.code == code
    assert client.position == position


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b'{"op":"error","code":"unknown_product","msg":"no."}', "unknown_product"),
        (b"<html>", "not_understood"),
        (b'{"op":"incr","data":{"type":"tick"}}', "not_understood"),
    ],
)
def test_session_that_is_refused_or_misled_ends(message: bytes, code: str) -> None:
    """What no repetition cures is an error with the gateway's own code."""
    with pytest.raises(GatewayRefusedError) as refused:
        begun().receive(message)
    assert refused.value.code == code


def test_session_leaves_what_it_does_not_know() -> None:
    """Later gateways may say more."""
    client = begun()
    assert take(client, b'{"op":"pong","id":null}', b'{"op":"weather","rain":true}') == []
    assert not client.due
