"""Same raw log, same canonical log: however it is cut, and wherever a restart falls."""

import random
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from models.canonical import Snapshot, Status, Tick
from models.events import (
    BookDelta,
    BookMarker,
    BookSnapshot,
    Down,
    Event,
    GivenUp,
    Heartbeat,
    Invalid,
    OrderMessage,
    Ticker,
    TickerMarker,
    Trade,
    TradesMarker,
)
from streaming.core.hold import Hold
from streaming.core.normalizer import ProductNormalizer
from streaming.core.outputs import Outputs
from tests.chains import assert_linked, messages
from tests.examples import examples

PRODUCT = "BTC-USD"
HOLD = Hold(messages=5, time_us=3_000_000, stale_us=4_000_000)


@dataclass
class Venue:
    """A small venue with every kind of trouble, seeded."""

    random: random.Random
    full: bool
    seq: int = 1000
    trade_id: int = 50
    conn: str = "a-1"
    now: int = 1_700_000_000_000_000
    n: dict[str, int] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)

    def head(self) -> tuple[int, str, int]:
        """Give the next record its number; now and then one never reaches the log."""
        self.now += self.random.choice((10, 1000, 700_000))
        self.n[self.conn] = self.n.get(self.conn, 0) + (2 if self.random.random() < 0.02 else 1)
        return self.now, self.conn, self.n[self.conn]

    def emit(self, event: Event) -> None:
        """Store an event; now and then it is stored twice, as a repeated publish would."""
        self.events.append(event)
        if self.random.random() < 0.05:
            self.events.append(event)

    def trade(self) -> None:
        """Print on trades and ticker, either of which may be lost or late."""
        self.seq += 1 if self.full else self.random.randint(1, 5)
        self.trade_id += 1
        print_ = f'{{"last_trade":{{"px":1,"qty":2,"side":"buy","id":{self.trade_id}}}}}'
        if self.random.random() > 0.1:
            self.emit(Trade(*self.head(), self.seq, self.trade_id, self.now, print_))
        if self.random.random() > 0.1:
            self.emit(Ticker(*self.head(), self.seq, self.trade_id, self.now, print_))

    def late_trade(self) -> None:
        """Repeat one of the last prints, or bring it late."""
        trade_id = self.trade_id - self.random.randint(0, 4)
        print_ = f'{{"last_trade":{{"px":1,"qty":2,"side":"buy","id":{trade_id}}}}}'
        self.emit(Trade(*self.head(), self.seq, trade_id, self.now, print_))

    def order(self) -> None:
        """Send a message of the full channel; lose some."""
        if self.full:
            self.seq += 1
            if self.random.random() > 0.05:
                self.emit(OrderMessage(*self.head(), self.seq))

    def heartbeat(self) -> None:
        """Send the watermarks."""
        self.emit(Heartbeat(*self.head(), self.seq, self.random.choice((0, self.trade_id))))

    def depth(self) -> None:
        """Change the book, sometimes so that it is crossed."""
        crossing = self.random.random() < 0.02
        price = "200" if crossing else str(self.random.randint(90, 99))
        size = self.random.choice(("0", "0.00", "1.5"))
        changes = [("bid", price, size), ("ask", str(self.random.randint(101, 110)), size)]
        self.emit(BookDelta(*self.head(), self.now - 5, changes))  # type: ignore[arg-type]

    def reconnect(self) -> None:
        """Open a new connection, announced or not, that begins as the venue's do."""
        if self.random.random() < 0.5:
            self.emit(Down(*self.head(), "gone"))
        self.conn = f"{self.random.choice('ab')}-{self.now}"
        time_us = self.random.choice((None, self.now))
        self.emit(BookSnapshot(*self.head(), time_us, [("95", "1")], [("105", "1")]))
        if not self.full:
            last = f'{{"last_trade":{{"px":1,"qty":2,"side":"buy","id":{self.trade_id}}}}}'
            self.emit(Trade(*self.head(), self.seq, self.trade_id, self.now, last, is_last=True))
        self.emit(Ticker(*self.head(), self.seq, self.trade_id, self.now, "{}"))

    def recover(self) -> None:
        """Answer as a recovery would, sometimes with something too old."""
        name = f"resync/coinbase/BTC-USD/x/{self.random.choice(('manual-1', '1-2'))}"
        if self.random.random() < 0.1:
            newest = self.trade_id - self.random.randint(0, 3)
            name = f"resync/coinbase/BTC-USD/trades/{newest - 2}-{newest}"
            self.events.append(GivenUp(self.now + 1, "", 0, name))
            return
        head = (self.now + 1, "", 0, name, self.random.random() < 0.8)
        kind = self.random.choice((TradesMarker, BookMarker, TickerMarker))
        if kind is TradesMarker:
            newest = self.trade_id - self.random.choice((0, 0, 3))
            oldest = self.random.choice((40, 40, newest - 5))
            self.events.append(
                TradesMarker(
                    *head,
                    [self.fetched(i) for i in range(oldest, newest + 1)],
                    accept_loss=self.random.random() < 0.2,
                )
            )
        elif kind is BookMarker:
            time_us = self.now - self.random.choice((0, 0, 500_000))
            self.events.append(BookMarker(*head, time_us, [("95", "1")], [("105", "1")]))
        else:
            state = Ticker(self.now, "", 0, self.seq, self.trade_id, self.now, "{}")
            self.events.append(TickerMarker(*head, state))

    def fetched(self, trade_id: int) -> Trade:
        """Return a print as the venue's history has it."""
        print_ = f'{{"last_trade":{{"px":1,"qty":2,"side":"buy","id":{trade_id}}}}}'
        return Trade(self.now, "", 0, 0, trade_id, self.now, print_)

    def garbage(self) -> None:
        """Send something that cannot be understood."""
        self.emit(Invalid(*self.head(), "bad_number", "no", self.random.choice(("book", None))))


def raw_log(seed: int, channel: str, length: int = 150) -> list[Event]:
    """Return a seeded log of one product."""
    venue = Venue(random.Random(seed), channel == "full")
    venue.reconnect()
    moves = (
        [venue.trade] * 8
        + [venue.depth] * 8
        + [venue.order] * 4
        + [venue.heartbeat] * 3
        + [venue.recover] * 3
        + [venue.late_trade, venue.garbage, venue.reconnect]
    )
    while len(venue.events) < length:
        venue.random.choice(moves)()
    return venue.events


def fresh() -> ProductNormalizer:
    """Return a normalizer with nothing known."""
    return ProductNormalizer("coinbase", PRODUCT, hold=HOLD)


def run(core: ProductNormalizer, log: list[Event], first: int = 0) -> Outputs:
    """Apply a log's events from index `first` on, one per position; read it again if asked to."""
    out = Outputs()
    for index in range(first, len(log)):
        step(core, log, index, out)
    return out


def step(core: ProductNormalizer, log: list[Event], index: int, out: Outputs) -> None:
    """Apply one event as the shell does."""
    core.apply(log[index], index + 1, out)
    if out.reread is not None:
        core.refill(log[out.reread - 1 : index], out)
        core.refilled(out)


LOGS = st.tuples(st.integers(0, 10**6), st.sampled_from(["matches", "full"]))
"""Seed of a log, and the channel that its venue speaks."""


@examples(150)
@given(LOGS)
def test_canonical_log_is_linked_and_announces_every_loss(log: tuple[int, str]) -> None:
    """Every tick links, trades skip no id but behind a snapshot, and lines decode."""
    events = raw_log(*log)
    out = run(fresh(), events)
    assert_linked(out.lines)
    last_id: int | None = None
    for message in messages(out.lines):
        if message.feed != "trades" or isinstance(message, Status):
            continue
        state = message.state if isinstance(message, Snapshot) else message.fields
        assert state.last_trade is not None
        if isinstance(message, Tick):
            assert last_id is None or state.last_trade.id == last_id + 1
        last_id = state.last_trade.id
        if isinstance(message, Snapshot) and message.reason == "resync":
            last_id = None  # a loss that was accepted: what comes next may be behind a hole


@examples(1500)
@given(LOGS)
def test_restart_after_every_record_gives_the_same_canonical_log(log: tuple[int, str]) -> None:
    """A checkpoint wherever one is allowed, restored, goes on as if nothing had been."""
    events = raw_log(*log)
    whole = run(fresh(), events)
    core, lines, requests = fresh(), list[str](), []
    for index in range(len(events)):
        out = Outputs()
        step(core, events, index, out)
        lines += out.lines
        requests += out.requests
        if not core.holding:
            state, cursors = core.checkpoint()
            core = fresh()
            core.restore([line.encode() for line in state], cursors)
    assert lines == whole.lines
    assert requests == whole.requests


@examples(60)
@given(LOGS)
def test_records_stored_twice_change_nothing(log: tuple[int, str]) -> None:
    """A publish that was repeated without need leaves no trace in the canonical log."""
    events = raw_log(*log)
    once = [
        event
        for event, last in zip(events, [None, *events], strict=False)
        if event != last or not event.conn
    ]
    assert run(fresh(), events).lines == run(fresh(), once).lines


@examples(60)
@given(LOGS)
def test_gate_never_holds_more_than_its_bounds(log: tuple[int, str]) -> None:
    """Held prints are bounded by count, whatever the venue does."""
    events = raw_log(*log)
    core, out = fresh(), Outputs()
    for index in range(len(events)):
        step(core, events, index, out)
        assert len(core._book._held) <= HOLD.messages
        assert len(core._trades._held) <= HOLD.messages
        for gate in (core._trades._ids, core._trades._orders):
            assert gate is None or len(gate.ahead) <= 60


@examples(1500)
@given(LOGS)
def test_complete_answers_bring_every_feed_back(log: tuple[int, str]) -> None:
    """Whatever was lost: after an answer for each feed, nothing is in a gap."""
    events = raw_log(*log)
    core = fresh()
    run(core, events)
    end = max(event.ts_ingest for event in events) + 10
    known = [event.last_trade_id for event in events if isinstance(event, Heartbeat)]
    known += [e.trade_id or 0 for e in events if isinstance(e, Trade | Ticker)]
    known += [t.trade_id for e in events if isinstance(e, TradesMarker) for t in e.trades]
    newest = max(known)
    seq = max((e.seq for e in events if isinstance(e, Ticker | Trade | OrderMessage)), default=0)
    venue = Venue(random.Random(0), full=False, now=end)
    head = (end, "", 0, "resync/coinbase/BTC-USD/x/1-2", True)
    answers = [
        TradesMarker(*head, [venue.fetched(i) for i in range(40, newest + 1)]),
        BookMarker(*head, end, [("95", "1")], [("105", "1")]),
        TickerMarker(*head, Ticker(end, "", 0, seq + 1, newest, end, "{}")),
    ]
    run(core, [*events, *answers], len(events))
    assert "gap" not in core.states.values()
