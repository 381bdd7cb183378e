"""One product's normalizer, fed event by event, and its output in a few words."""

from typing import Any

from models.canonical import Snapshot, Status, Tick
from models.events import (
    BookDelta,
    BookMarker,
    BookSnapshot,
    Down,
    Event,
    Heartbeat,
    OrderMessage,
    Ticker,
    Trade,
    TradesMarker,
)
from streaming.core.normalizer import ProductNormalizer
from streaming.core.outputs import Outputs
from tests.chains import messages

T0 = 1_700_000_000_000_000


class Feed:
    """Feeds one normalizer and tells what came out, in short; keeps a log to read again."""

    def __init__(self, **options: Any) -> None:
        self.log: list[Event] = []
        self.core = ProductNormalizer("coinbase", "BTC-USD", **options)
        self.out = Outputs()
        self.conn = "a-1"
        self.n = 0
        self.now = T0

    def head(self) -> tuple[int, str, int]:
        self.n += 1
        self.now += 1000
        return self.now, self.conn, self.n

    def reconnect(self, conn: str = "a-2", after_us: int = 0) -> None:
        self.conn, self.n = conn, 0
        self.now += after_us

    def send(self, event: Event) -> list[str]:
        """Apply one event and describe what it gave."""
        self.out.lines.clear()
        self.log.append(event)
        position = len(self.log)
        self.core.apply(event, position, self.out)
        if self.out.reread is not None:
            self.core.refill(self.log[self.out.reread - 1 : position - 1], self.out)
            self.core.refilled(self.out)
        return [describe(message) for message in messages(self.out.lines)]

    def trade(self, trade_id: int, *, last: bool = False, seq: int | None = None) -> list[str]:
        fields = f'{{"last_trade":{{"px":1,"qty":1,"side":"buy","id":{trade_id}}}}}'
        at = self.head()
        return self.send(Trade(*at, seq or trade_id * 10, trade_id, at[0], fields, last))

    def ticker(self, seq: int, trade_id: int) -> list[str]:
        at = self.head()
        return self.send(Ticker(*at, seq, trade_id, at[0], "{}"))

    def marker(self, kind: type, *body: Any, name: str = "", last: bool = True) -> list[str]:
        """Send a recovery's answer to the open gap, or to the one that is named."""
        gaps = [request.resync_id for request in self.out.requests]
        return self.send(kind(self.head()[0], "", 0, name or gaps[-1], last, *body))

    def fill(
        self, *trade_ids: int, name: str = "", last: bool = True, accept_loss: bool = False
    ) -> list[str]:
        self.n -= 1
        fields = '{{"last_trade":{{"px":1,"qty":1,"side":"buy","id":{}}}}}'.format
        trades = [Trade(self.now, "", 0, 0, id_, self.now, fields(id_)) for id_ in trade_ids]
        return self.marker(TradesMarker, trades, accept_loss, name=name, last=last)

    def book(self, time_us: int, *, name: str = "") -> list[str]:
        self.n -= 1
        return self.marker(BookMarker, time_us, [("99", "1")], [("101", "1")], name=name)

    def gap(self) -> str:
        """Return the bounds of the newest gap."""
        return f"{self.out.requests[-1].after}-{self.out.requests[-1].before}"

    def order(self, seq: int) -> list[str]:
        return self.send(OrderMessage(*self.head(), seq))

    def heartbeat(self, last_trade_id: int, seq: int = 0) -> list[str]:
        return self.send(Heartbeat(*self.head(), seq, last_trade_id))

    def snapshot(self) -> list[str]:
        at = self.head()
        return self.send(BookSnapshot(*at, at[0], [("99", "1")], [("101", "1")]))

    def delta(self, side: Any = "bid", price: str = "98") -> list[str]:
        at = self.head()
        return self.send(BookDelta(*at, at[0], [(side, price, "1")]))


def describe(message: Snapshot | Status | Tick) -> str:
    """Say in a few words what a message is."""
    if isinstance(message, Status):
        gap = f" {message.gap.after}-{message.gap.before}" if message.gap else ""
        return f"{message.feed} {message.state}{gap}"
    if isinstance(message, Snapshot):
        return f"{message.feed} snapshot {message.reason}"
    return f"{message.feed} tick"


class Lines(Feed):
    """Two lines, `a` and `b`, that bring the same book; line `a` is followed at first."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = {"a": 0, "b": 0}
        for line in "ab":
            self.on(line).snapshot()
        for line in "ab":
            self.change(line, 0, "98")

    def on(self, line: str) -> "Lines":
        self.numbers[self.conn[0]] = self.n
        self.conn, self.n = f"{line}-1", self.numbers[line]
        return self

    def change(self, line: str, at: int, price: str) -> list[str]:
        """Bring a change of a time, a second and `at` µs after the first."""
        head = self.on(line).head()
        return self.send(BookDelta(*head, T0 + 1_000_000 + at, [("bid", price, "1")]))

    def end(self, line: str) -> list[str]:
        return self.send(Down(*self.on(line).head(), "gone"))

    def prices(self) -> list[str]:
        """Return what the chain says of the book's bids."""
        return [price for price, _ in self.core._book.book.bids()]
