"""Two lines feed one product: what only one of them loses, nobody notices."""

import random
from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from models.events import BookDelta, BookSnapshot, Down, Event, Heartbeat, Ticker, Trade
from streaming.core.normalizer import ProductNormalizer
from streaming.core.outputs import Outputs
from tests.chains import assert_linked, statuses, ticks
from tests.examples import examples

T0 = 1_700_000_000_000_000
MAX_LAG = 12


class Line:
    """One line's way from the venue to the log: it loses some, and delivers late."""

    def __init__(self, name: str, rng: random.Random) -> None:
        self.name, self.rng = name, rng
        self.connections = self.n = 0
        self.queue: deque[Event] = deque()
        self.connect()

    def connect(self) -> None:
        """Open a new connection; what was under way on the old one is gone."""
        self.connections += 1
        self.conn = f"{self.name}-{self.connections}"
        self.n = 0
        self.queue.clear()

    def stamp(self, event: Event, now: int) -> Event:
        """Give a record the number that ingest would, at the moment of its receipt."""
        self.n += 1
        event.ts_ingest, event.conn, event.n = now, self.conn, self.n
        return event


class Exchange:
    """A venue whose messages go to two lines; each message is lost on one of them at most."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now, self.seq, self.trade_id = T0, 1000, 50
        self.lines = [Line("a", self.rng), Line("b", self.rng)]
        self.log: list[Event] = []
        for line in self.lines:
            self.greet(line)

    def greet(self, line: Line) -> None:
        """Send what a subscription begins with."""
        levels = [("95", "1")], [("105", "1")]
        line.queue.append(BookSnapshot(0, "", 0, self.now, *levels))
        line.queue.append(self.trade(is_last=True))
        line.queue.append(self.ticker())

    def trade(self, *, is_last: bool = False) -> Trade:
        """Return the newest print."""
        fields = f'{{"last_trade":{{"px":1,"qty":2,"side":"buy","id":{self.trade_id}}}}}'
        return Trade(0, "", 0, self.seq, self.trade_id, self.now, fields, is_last)

    def ticker(self) -> Ticker:
        """Return the newest ticker."""
        return Ticker(0, "", 0, self.seq, self.trade_id, self.now, "{}")

    def send(self, make: object, *, may_lose: bool = True) -> None:
        """Put a message on its way on both lines, or on one of them only."""
        lost = self.rng.choice((0, 1)) if may_lose and self.rng.random() < 0.2 else None
        for number, line in enumerate(self.lines):
            if number != lost:
                line.queue.append(make())  # type: ignore[operator]

    def move(self) -> None:
        """Let something happen at the venue."""
        self.now += 10_000
        kind = self.rng.random()
        if kind < 0.4:
            self.seq += self.rng.randint(1, 5)
            self.trade_id += 1
            self.send(self.trade)
            self.send(self.ticker)
        elif kind < 0.8:
            price, time_us = str(self.rng.randint(90, 99)), self.now
            # Level 2 cannot show a loss: what one line loses in it stays lost on that line.
            self.send(lambda: BookDelta(0, "", 0, time_us, [("bid", price, "2")]), may_lose=False)
        elif kind < 0.95:
            seq, trade_id = self.seq, self.trade_id
            self.send(lambda: Heartbeat(0, "", 0, seq, trade_id))
        else:
            self.reconnect(self.rng.choice(self.lines))

    def reconnect(self, line: Line) -> None:
        """Cut one line, if the other one has nothing under way that this one took along."""
        other = self.lines[1 - self.lines.index(line)]
        self.deliver(other, len(other.queue))
        self.deliver(line, len(line.queue))
        if self.rng.random() < 0.5:
            self.log.append(line.stamp(Down(0, "", 0, "gone"), self.now))
        line.connect()
        self.greet(line)
        # Until its first record a line is not known to be up, and nobody waits for it.
        self.deliver(line, 1)

    def deliver(self, line: Line, count: int) -> None:
        """Bring messages of one line into the log."""
        for _ in range(min(count, len(line.queue))):
            self.log.append(line.stamp(line.queue.popleft(), self.now))

    def run(self, moves: int) -> list[Event]:
        """Return the raw log of so many moves."""
        for line in self.lines:
            self.deliver(line, 3)
        for _ in range(moves):
            self.move()
            for line in self.lines:
                backlog = len(line.queue) - MAX_LAG
                self.deliver(line, max(backlog, self.rng.randint(0, 3)))
        for _ in range(3):
            for line in self.lines:
                self.deliver(line, len(line.queue))
        return self.log


@examples(150)
@given(st.integers(0, 10**6))
def test_loss_on_one_line_alone_is_no_gap(seed: int) -> None:
    """No gap, no request; every print once, in order; the book goes on over reconnects."""
    exchange = Exchange(seed)
    core, out = ProductNormalizer("coinbase", "BTC-USD"), Outputs()
    for position, event in enumerate(exchange.run(120), 1):
        core.apply(event, position, out)
    assert [status for status in statuses(out.lines) if status.state != "live"] == []
    assert out.requests == []
    assert_linked(out.lines)
    ids = [tick.fields.last_trade.id for tick in ticks(out.lines, "trades")]  # type: ignore[union-attr]
    assert ids == list(range(51, 51 + len(ids)))
    assert exchange.trade_id - len(ids) - 50 <= 1


@examples(150)
@given(st.integers(0, 10**6))
def test_restart_between_two_lines_changes_nothing(seed: int) -> None:
    """What is known of each line, the second book included, survives a restart."""
    events = Exchange(seed).run(60)
    whole = Outputs()
    core = ProductNormalizer("coinbase", "BTC-USD")
    for position, event in enumerate(events, 1):
        core.apply(event, position, whole)
    core, parts = ProductNormalizer("coinbase", "BTC-USD"), Outputs()
    for position, event in enumerate(events, 1):
        core.apply(event, position, parts)
        if not core.holding:
            lines, cursors = core.checkpoint()
            core = ProductNormalizer("coinbase", "BTC-USD")
            core.restore([line.encode() for line in lines], cursors)
    assert parts.lines == whole.lines
