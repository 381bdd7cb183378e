"""What the normalizer says in each situation that the venue or the network can bring about."""

from typing import Any

import pytest

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
    Lost,
    OrderMessage,
    Ticker,
    TickerMarker,
    Trade,
    TradesMarker,
)
from streaming.core.hold import Hold
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


def test_trades_in_order_are_ticks_after_the_last_match() -> None:
    """The venue's newest print starts the chain, the next ids are ticks."""
    feed = Feed()
    assert feed.trade(10, last=True) == ["trades snapshot subscribe"]
    assert feed.trade(11) == ["trades tick"]
    assert feed.trade(12) == ["trades tick"]


def test_trade_id_jump_opens_one_gap_and_holds_what_follows() -> None:
    """A jump is a loss; the feed's later prints wait, and one request goes out."""
    feed = Feed()
    feed.trade(10, last=True)
    assert feed.trade(13) == ["trades gap 10-13"]
    assert feed.trade(14) == []
    (request,) = feed.out.requests
    assert request.resync_id == "resync/coinbase/BTC-USD/trades/10-13"


def test_late_prints_close_the_gap_in_order() -> None:
    """What was missing arrives late: everything goes out in order and the feed is live."""
    feed = Feed()
    feed.trade(10, last=True)
    feed.trade(13)
    assert feed.trade(12) == []
    assert feed.trade(11) == ["trades tick", "trades tick", "trades tick", "trades live 10-13"]
    assert feed.trade(13) == []


def test_second_hole_behind_the_first_is_a_gap_of_its_own() -> None:
    """When the first hole is filled, the next one is announced and asked for."""
    feed = Feed()
    feed.trade(10, last=True)
    feed.trade(12)
    feed.trade(15)
    assert feed.trade(11) == [
        "trades tick",
        "trades tick",
        "trades live 10-12",
        "trades gap 12-15",
    ]
    assert [request.after for request in feed.out.requests] == [10, 12]


def test_trade_gap_over_a_reconnect_is_seen_by_the_last_match() -> None:
    """Prints lost while nobody was connected are a gap, even before the next print."""
    feed = Feed()
    feed.trade(10, last=True)
    feed.reconnect()
    assert feed.trade(14, last=True) == ["trades gap 10-14"]


def test_reconnect_without_a_trade_in_between_is_no_gap() -> None:
    """The same newest print again proves that nothing was missed."""
    feed = Feed()
    feed.trade(10, last=True)
    feed.reconnect()
    assert feed.trade(10, last=True) == []
    assert feed.trade(11) == ["trades tick"]


def test_next_print_as_last_match_is_delivered() -> None:
    """The one print that fell into a reconnect comes as the last match: it is not lost."""
    feed = Feed()
    feed.trade(10, last=True)
    feed.reconnect()
    assert feed.trade(11, last=True) == ["trades tick"]


def test_watermark_counts_only_one_heartbeat_later() -> None:
    """A heartbeat may overtake its trade; still missing at the next one, it is a loss."""
    feed = Feed()
    feed.trade(10, last=True)
    assert feed.heartbeat(11) == []
    assert feed.trade(11) == ["trades tick"]
    assert feed.heartbeat(12) == []
    assert feed.heartbeat(12) == ["trades gap 11-13"]
    assert feed.trade(12) == ["trades tick", "trades live 11-13"]


def test_heartbeat_of_zero_is_unknown() -> None:
    """Old data has 0 as the last trade id: it proves nothing."""
    feed = Feed()
    feed.trade(10, last=True)
    assert feed.heartbeat(0) == []
    assert feed.heartbeat(0) == []


def test_ticker_sequence_jump_is_normal() -> None:
    """Sequences and trade ids of the ticker skip without a loss."""
    feed = Feed()
    feed.ticker(100, 10)
    assert feed.ticker(250, 14) == ["ticker tick"]
    assert feed.ticker(240, 13) == []


def test_ticker_behind_the_watermark_heals_with_the_next_one() -> None:
    """A lost ticker is announced; the next one is a whole state and starts a new chain."""
    feed = Feed()
    feed.ticker(100, 10)
    feed.heartbeat(12)
    assert feed.heartbeat(12) == ["ticker gap 100-None"]
    assert [request.reason for request in feed.out.requests] == ["watermark"]
    assert feed.ticker(130, 13) == ["ticker snapshot resync", "ticker live 100-None"]
    assert feed.ticker(140, 14) == ["ticker tick"]


def test_ticker_watermark_is_not_used_for_the_batched_channel() -> None:
    """The batched ticker lags behind heartbeats by design."""
    feed = Feed(ticker_watermark=False)
    feed.ticker(100, 10)
    feed.heartbeat(12)
    assert feed.heartbeat(12) == []


@pytest.mark.parametrize("trade_id", [10, 11])
def test_ticker_after_a_reconnect_without_a_trade_between_links(trade_id: int) -> None:
    """The same or the next trade id proves that no ticker was missed."""
    feed = Feed()
    feed.ticker(100, 10)
    feed.reconnect()
    assert feed.ticker(110, trade_id) == ["ticker tick"]


def test_ticker_after_a_reconnect_with_trades_between_starts_a_new_chain() -> None:
    """What was missed is announced, without asking for a recovery that has already happened."""
    feed = Feed()
    feed.ticker(100, 10)
    feed.reconnect()
    assert feed.ticker(150, 15) == [
        "ticker gap 100-150",
        "ticker snapshot resync",
        "ticker live 100-150",
    ]
    assert feed.out.requests == []


def test_reconnect_of_one_line_is_no_gap_while_the_other_watches() -> None:
    """Two lines: one alone may drop without anybody noticing."""
    feed = Feed()
    feed.ticker(100, 10)
    feed.reconnect("b-1")
    assert feed.ticker(100, 10) == []
    assert feed.ticker(140, 14) == ["ticker tick"]
    feed.reconnect("a-2")
    assert feed.ticker(190, 19) == ["ticker tick"]


def test_reconnect_counts_as_unwatched_when_the_other_line_is_silent() -> None:
    """A line that has brought nothing for long proves nothing."""
    feed = Feed()
    feed.ticker(100, 10)
    feed.reconnect("b-1", after_us=10_000_000)
    assert feed.ticker(140, 14)[0] == "ticker gap 100-140"


def test_connection_that_ends_makes_every_feed_stale_until_it_is_proved_live() -> None:
    """Subscribers hear that nobody watches, and when that is over."""
    feed = Feed()
    feed.snapshot()
    feed.trade(10, last=True)
    feed.ticker(100, 10)
    assert feed.send(Down(*feed.head(), "gone")) == ["ticker stale", "trades stale", "book stale"]
    feed.reconnect()
    assert feed.snapshot() == ["book snapshot subscribe", "book live"]
    assert feed.trade(10, last=True) == ["trades live"]
    assert feed.ticker(100, 10) == ["ticker live"]


def test_venue_that_counts_anew_starts_new_chains() -> None:
    """Lower numbers with newer times on a new connection are a new numbering, not repeats."""
    feed = Feed()
    feed.trade(1000, last=True)
    feed.ticker(10_000, 1000)
    feed.reconnect()
    assert feed.trade(5, last=True) == ["trades snapshot subscribe"]
    assert feed.trade(6) == ["trades tick"]
    assert feed.ticker(50, 5)[1] == "ticker snapshot resync"
    assert feed.ticker(60, 6) == ["ticker tick"]


def test_book_changes_before_any_snapshot_are_a_gap() -> None:
    """Changes to an unknown book are worth nothing: ask for it once."""
    feed = Feed()
    assert feed.delta() == [f"book gap 0-{T0 + 1000}"]
    assert feed.delta() == []
    assert feed.snapshot() == [
        "book snapshot subscribe",
        f"book live 0-{T0 + 1000}",
    ]


def test_book_that_crosses_is_corrupt() -> None:
    """A bid above the best ask closes the gate; a snapshot opens it."""
    feed = Feed()
    feed.snapshot()
    assert feed.delta("bid", "102")[0].startswith("book gap")
    assert feed.delta() == []
    assert [request.reason for request in feed.out.requests] == ["crossed"]
    assert feed.snapshot()[0] == "book snapshot subscribe"
    assert feed.delta() == ["book tick"]


def test_record_lost_inside_the_pipeline_is_a_gap_of_the_book() -> None:
    """Our own numbering shows a loss that level 2 itself cannot show."""
    feed = Feed()
    feed.snapshot()
    feed.n += 1
    assert feed.delta()[0].startswith("book gap")
    assert [request.reason for request in feed.out.requests] == ["lost_record"]


def test_repeated_record_is_ignored() -> None:
    """A publish that was repeated without need changes nothing."""
    feed = Feed()
    feed.snapshot()
    feed.delta()
    feed.n -= 1
    assert feed.delta() == []


def test_unreadable_book_message_makes_the_book_unknown() -> None:
    """The change that was in it is lost; unreadable messages of other kinds are not the book's."""
    feed = Feed()
    feed.snapshot()
    assert feed.send(Invalid(*feed.head(), "bad_number", "no", "ticker")) == []
    assert feed.send(Invalid(*feed.head(), "bad_number", "no", "book"))[0].startswith("book gap")
    assert len(feed.out.invalid) == 2


def test_full_channel_jump_is_one_gap_even_when_a_print_was_in_it() -> None:
    """The sequence shows the loss first; the missing trade id is the same loss."""
    feed = Feed()
    feed.order(1000)
    feed.trade(10, seq=1001)
    assert feed.order(1003) == ["trades gap 1001-1003"]
    assert feed.trade(12, seq=1004) == []
    feed.heartbeat(12, 1004)
    assert feed.heartbeat(12, 1004) == []
    assert feed.out.gaps == 1


def test_full_channel_late_message_closes_the_gap() -> None:
    """A late message that was no print lets the held prints go."""
    feed = Feed()
    feed.order(1000)
    feed.trade(10, seq=1001)
    feed.order(1003)
    assert feed.trade(11, seq=1004) == []
    assert feed.order(1002) == ["trades tick", "trades live 1001-1003"]


def test_full_channel_tail_loss_is_seen_by_heartbeats() -> None:
    """The heartbeat's sequence shows that the newest messages never came."""
    feed = Feed()
    feed.order(1000)
    assert feed.heartbeat(0, 1001) == []
    assert feed.heartbeat(0, 1001) == ["trades gap 1000-1002"]


def test_gate_beyond_its_bounds_keeps_only_the_position() -> None:
    """Too many held prints are let go; the log has them, from the noted position on."""
    feed = Feed(hold=Hold(messages=3, time_us=10_000_000))
    feed.trade(10, last=True)
    for trade_id in range(12, 20):
        feed.trade(trade_id)
    assert not feed.core.holding
    assert feed.core._trades.cursor().overflow_from == 2


def test_gate_beyond_its_time_keeps_only_the_position() -> None:
    """The time is the records' own."""
    feed = Feed(hold=Hold(messages=100, time_us=2_000_000))
    feed.trade(10, last=True)
    feed.trade(12)
    assert feed.core.holding
    feed.now += 3_000_000
    feed.heartbeat(12)
    assert not feed.core.holding


def test_gap_that_stays_open_becomes_stale_once_and_is_live_when_it_is_filled() -> None:
    """Whoever should recover it is away; the request waits, and subscribers are told."""
    feed = Feed(hold=Hold(messages=100, time_us=2_000_000, stale_us=5_000_000))
    feed.trade(10, last=True)
    feed.trade(12)
    feed.now += 4_000_000
    assert feed.heartbeat(12) == []
    feed.now += 2_000_000
    assert feed.heartbeat(12) == ["trades stale 10-12"]
    assert feed.send(Event(*feed.head())) == []
    assert feed.fill(11, 12) == ["trades tick", "trades tick", "trades live 10-12"]
    assert len(feed.out.requests) == 1


def test_book_without_heartbeats_becomes_stale_by_records_that_say_nothing() -> None:
    """Records of other channels tell the time as well."""
    feed = Feed(hold=Hold(messages=100, time_us=2_000_000, stale_us=5_000_000))
    feed.snapshot()
    assert feed.delta(price="102") == [f"book gap {feed.gap()}"]
    feed.now += 6_000_000
    assert feed.send(Event(*feed.head())) == [f"book stale {feed.gap()}"]


def test_recovery_that_has_given_up_makes_the_feed_stale_until_another_one_closes_it() -> None:
    """Only its own gap; one that is closed, or another's, is not touched."""
    feed = Feed()
    feed.trade(10, last=True)
    feed.trade(12)
    name = feed.out.requests[-1].resync_id
    assert feed.send(GivenUp(feed.now, "", 0, name + "-other")) == []
    assert feed.send(GivenUp(feed.now, "", 0, name)) == ["trades stale 10-12"]
    assert feed.send(GivenUp(feed.now, "", 0, name)) == []
    answer = feed.fill(11, 12, name="resync/coinbase/BTC-USD/trades/manual-1")
    assert answer[:3] == ["trades tick", "trades tick", "trades live 10-12"]
    assert feed.send(GivenUp(feed.now, "", 0, name)) == []


def test_loss_that_a_person_accepts_begins_a_new_chain_behind_each_hole() -> None:
    """What the venue still has is filled in; the rest is announced by snapshots, once each."""
    feed = Feed()
    feed.trade(10, last=True)
    for trade_id in (14, 15, 18):
        feed.trade(trade_id)
    manual = "resync/coinbase/BTC-USD/trades/manual-1"
    assert feed.fill(12, 17, name=manual, accept_loss=True) == [
        "trades snapshot resync",
        "trades snapshot resync",
        "trades tick",
        "trades snapshot resync",
        "trades tick",
        "trades live 10-14",
        "trades live",
    ]
    assert feed.trade(19) == ["trades tick"]


def test_accepted_loss_at_the_end_goes_on_with_the_next_print() -> None:
    """Nothing has come behind the hole yet: a snapshot tells of it, and the next print follows."""
    feed = Feed()
    feed.trade(10, last=True)
    feed.heartbeat(12)
    assert feed.heartbeat(12) == ["trades gap 10-13"]
    answer = feed.fill(name="resync/x/manual-1", accept_loss=True)
    assert answer == ["trades snapshot resync", "trades live 10-13", "trades live"]
    assert feed.trade(13) == ["trades tick"]


def test_ticker_that_is_stale_with_a_gap_is_not_live_by_an_old_message() -> None:
    """A repeat proves nothing while a loss is known."""
    feed = Feed(hold=Hold(messages=100, time_us=2_000_000, stale_us=5_000_000))
    feed.ticker(100, 10)
    feed.heartbeat(11)
    feed.heartbeat(11)
    feed.now += 6_000_000
    assert feed.heartbeat(11)[-1].startswith("ticker stale")
    assert feed.ticker(100, 10) == []
    assert feed.ticker(110, 11) == ["ticker snapshot resync", "ticker live 100-None"]


def test_fetched_trades_close_the_gap_without_a_seam() -> None:
    """What is missing and what was held go out as linked ticks; the same gap is live."""
    feed = Feed()
    feed.trade(10, last=True)
    feed.trade(13)
    feed.trade(14)
    assert feed.fill(11, 12, 13) == ["trades tick"] * 4 + ["trades live 10-13"]
    assert feed.trade(15) == ["trades tick"]


def test_fetched_trades_that_do_not_reach_are_answered_with_gap() -> None:
    """The venue's page was too old: the recovery is told to fetch again."""
    feed = Feed()
    feed.trade(10, last=True)
    feed.trade(13)
    assert feed.fill(11) == ["trades tick", "trades gap 10-13"]
    assert feed.fill(11, 12) == ["trades tick", "trades tick", "trades live 10-13"]


def test_answer_for_a_gap_that_has_closed_is_live() -> None:
    """Late arrivals were faster than the recovery; it hears so."""
    feed = Feed()
    feed.trade(10, last=True)
    feed.trade(12)
    feed.trade(11)
    assert feed.fill(11, 12) == ["trades live"]


def test_fetched_trades_in_chunks_are_answered_once() -> None:
    """A large answer comes in several markers; the last one counts."""
    feed = Feed()
    feed.trade(10, last=True)
    feed.trade(15)
    assert feed.fill(11, 12, last=False) == ["trades tick", "trades tick"]
    assert feed.fill(13, 14)[-1] == "trades live 10-15"


def test_gate_that_let_go_reads_the_log_again() -> None:
    """Prints beyond the bounds are taken from the log when the missing ones arrive."""
    feed = Feed(hold=Hold(messages=3, time_us=10_000_000))
    feed.trade(10, last=True)
    for trade_id in range(12, 30):
        feed.trade(trade_id)
    assert feed.fill(11, 12) == ["trades tick"] * 19 + ["trades live 10-12"]
    assert feed.trade(30) == ["trades tick"]


def test_fetched_trades_close_a_gap_of_the_full_channel() -> None:
    """The lost message was a print or not: the venue's history holds every print."""
    feed = Feed()
    feed.order(1000)
    feed.trade(10, seq=1001)
    feed.order(1003)
    feed.trade(12, seq=1004)
    assert feed.fill(11, 12)[-1] == "trades live 1001-1003"
    assert feed.trade(13, seq=1005) == ["trades tick"]


def test_fetched_book_replays_what_was_held_behind_it() -> None:
    """Snapshot, then the held changes that are not older, then live."""
    feed = Feed()
    feed.snapshot()
    feed.n += 1
    feed.delta()
    between = feed.now + 1
    feed.delta()
    assert feed.book(between)[0] == "book snapshot resync"
    assert feed.out.lines[1:2] != []
    assert [describe(message) for message in messages(feed.out.lines)][1] == "book tick"
    assert feed.delta() == ["book tick"]


def test_fetched_book_that_is_older_than_the_gap_is_refused() -> None:
    """A cached answer from before the loss cannot repair it."""
    feed = Feed()
    feed.snapshot()
    feed.n += 1
    (gap,) = feed.delta()
    assert feed.book(feed.now - 100_000) == [gap]
    assert feed.book(feed.now)[0] == "book snapshot resync"


def test_book_gate_that_let_go_reads_the_log_again() -> None:
    """Changes beyond the bounds are taken from the log, each once."""
    feed = Feed(hold=Hold(messages=2, time_us=10_000_000))
    feed.snapshot()
    feed.n += 1
    feed.delta()
    time_us = feed.now
    for _ in range(9):
        feed.delta()
    assert not feed.core.holding
    assert feed.book(time_us)[:-1] == ["book snapshot resync"] + ["book tick"] * 10


def test_held_change_that_crosses_the_fetched_book_opens_the_next_gap() -> None:
    """The first gap is closed, the second announced, in that order."""
    feed = Feed()
    feed.snapshot()
    feed.n += 1
    feed.delta()
    time_us = feed.now
    feed.delta("bid", "150")
    told = feed.book(time_us)
    assert [word.split()[1] for word in told] == ["snapshot", "tick", "live", "gap"]


def test_book_resync_by_hand_closes_the_gate_and_then_restarts_the_chain() -> None:
    """The first book of an order from a person finds what follows it; the second replaces."""
    feed = Feed()
    feed.snapshot()
    feed.delta()
    name = "resync/coinbase/BTC-USD/book/manual-1"
    assert feed.book(feed.now - 5000, name=name)[0].startswith("book gap")
    feed.delta()
    told = feed.book(feed.now, name=name)
    assert told[:2] == ["book snapshot resync", "book tick"]
    assert told[2].startswith("book live")
    assert feed.delta() == ["book tick"]


def test_fetched_ticker_restarts_the_chain_unless_it_is_older() -> None:
    """Newer than what is known it heals the gap; older it is answered with gap."""
    feed = Feed()
    feed.ticker(100, 10)
    feed.heartbeat(12)
    feed.heartbeat(12)
    old, new = (Ticker(feed.now, "", 0, seq, 12, feed.now, "{}") for seq in (90, 130))
    assert feed.marker(TickerMarker, old) == ["ticker gap 100-None"]
    assert feed.marker(TickerMarker, new) == ["ticker snapshot resync", "ticker live 100-None"]


def test_lost_stretch_of_the_connection_puts_ticker_and_book_in_a_gap() -> None:
    """Any product's news may have been in it; both requests name the same stretch."""
    feed = Feed()
    feed.snapshot()
    feed.ticker(100, 10)
    told = feed.send(Lost(*feed.head(), 16, 22))
    assert [words.split()[:2] for words in told] == [["book", "gap"], ["ticker", "gap"]]
    assert {request.stretch for request in feed.out.requests} == {"a-1/16-22"}
    assert feed.ticker(110, 11)[0] == "ticker snapshot resync"


def test_lost_stretch_of_one_line_is_no_ticker_gap_while_the_other_watches() -> None:
    """Another line has seen what this one lost."""
    feed = Feed()
    feed.ticker(100, 10)
    feed.reconnect("b-1")
    feed.ticker(100, 10)
    assert feed.send(Lost(feed.now, "a-1", 2, 16, 22)) == []


def test_tickers_numbered_by_time_are_not_repeats_on_one_connection() -> None:
    """Two states within one microsecond: the later one is the truth; another line's is a repeat."""
    feed = Feed()

    def send(seq: int) -> list[str]:
        at = feed.head()
        return feed.send(Ticker(*at, seq, None, at[0], "{}", by_time=True))

    assert send(100) == ["ticker tick"]
    assert send(100) == ["ticker tick"]
    feed.reconnect("b-1")
    assert send(100) == []


def test_line_that_skips_a_print_waits_for_the_other_line() -> None:
    """While the other line has not come that far, nothing is called a gap."""
    feed = Feed()
    feed.trade(10, last=True)
    a_n = feed.n
    feed.reconnect("b-1")
    feed.trade(10, last=True)
    b_n = feed.n
    feed.conn, feed.n = "a-1", a_n
    assert feed.trade(12) == []
    feed.conn, feed.n = "b-1", b_n
    assert feed.trade(11) == ["trades tick", "trades tick"]


def test_print_that_both_lines_skip_is_a_gap() -> None:
    """Once the other line has passed it too, it is lost."""
    feed = Feed()
    feed.trade(10, last=True)
    a_n = feed.n
    feed.reconnect("b-1")
    feed.trade(10, last=True)
    b_n = feed.n
    feed.conn, feed.n = "a-1", a_n
    assert feed.trade(12) == []
    feed.conn, feed.n = "b-1", b_n
    assert feed.trade(12) == ["trades gap 10-12"]


def test_print_that_the_other_line_does_not_bring_in_time_is_a_gap() -> None:
    """Nobody is waited for longer than a second of the records' time."""
    feed = Feed()
    feed.trade(10, last=True)
    a_n = feed.n
    feed.reconnect("b-1")
    feed.trade(10, last=True)
    feed.conn, feed.n = "a-1", a_n
    assert feed.trade(12) == []
    feed.now += 1_500_000
    assert feed.trade(13) == ["trades gap 10-12"]


def test_book_of_the_second_line_takes_over_when_the_first_ends() -> None:
    """No gap and no staleness: the chain restarts from the other line's own book."""
    feed = Feed()
    feed.snapshot()
    a_n = feed.n
    feed.reconnect("b-1")
    assert feed.snapshot() == []
    assert feed.delta() == []
    b_n = feed.n
    feed.conn, feed.n = "a-1", a_n
    assert feed.send(Down(*feed.head(), "gone")) == ["book snapshot subscribe"]
    feed.conn, feed.n = "b-1", b_n
    assert feed.delta(price="97") == ["book tick"]
    assert feed.core._book.book.bids() == [("99", "1"), ("98", "1"), ("97", "1")]


def test_book_of_the_second_line_takes_over_when_the_first_falls_silent() -> None:
    """A killed ingestor says nothing; the other line's heartbeats show how long it has been."""
    feed = Feed()
    feed.snapshot()
    feed.reconnect("b-1")
    feed.snapshot()
    feed.delta()
    feed.now += 2_000_000
    assert feed.heartbeat(0) == []
    feed.now += 2_000_000
    assert feed.heartbeat(0) == ["book snapshot subscribe"]
    assert feed.delta() == ["book tick"]


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


def test_chain_of_the_book_goes_on_with_what_the_second_line_has_beyond_the_first() -> None:
    """Nothing is missing and nothing comes twice, whichever of them was ahead."""
    feed = Lines()
    assert feed.change("a", 10, "97") == ["book tick"]
    assert feed.change("b", 10, "97") == []
    assert feed.change("b", 20, "96") == []
    assert feed.end("a") == ["book tick"]
    assert feed.change("b", 30, "95") == ["book tick"]
    assert feed.prices() == ["99", "98", "97", "96", "95"]


def test_second_line_that_is_behind_takes_over_when_it_has_come_so_far() -> None:
    """What the first line had said already does not come again."""
    feed = Lines()
    for price in ("97", "96"):  # of the same microsecond
        assert feed.change("a", 10, price) == ["book tick"]
    assert feed.end("a") == []
    assert feed.change("b", 10, "97") == []
    assert feed.change("b", 10, "96") == []
    assert feed.change("b", 10, "95") == ["book tick"]
    assert feed.change("b", 20, "94") == ["book tick"]
    assert feed.prices() == ["99", "98", "97", "96", "95", "94"]


def test_line_that_fell_silent_and_speaks_again_stands_by() -> None:
    """It brings late what the other one has said; then it can take over in its turn."""
    feed = Lines()
    feed.now += 4_000_000
    feed.change("b", 10, "97")
    assert feed.on("b").heartbeat(0) == ["book tick"]
    assert feed.change("b", 20, "96") == ["book tick"]
    assert feed.change("a", 10, "97") == []
    assert feed.end("b") == []
    assert feed.change("a", 20, "96") == []
    assert feed.change("a", 30, "95") == ["book tick"]
    assert feed.prices() == ["99", "98", "97", "96", "95"]


def test_connection_that_replaces_the_followed_one_stands_by() -> None:
    """A killed ingestor comes back within a second: the other line goes on with the chain."""
    feed = Lines()
    feed.change("b", 10, "97")
    feed.numbers["b"] = feed.n
    feed.reconnect("a-2")
    assert feed.snapshot() == ["book tick"]
    feed.conn, feed.n = "b-1", feed.numbers["b"]
    assert feed.change("b", 20, "96") == ["book tick"]
    assert feed.prices() == ["99", "98", "97", "96"]


@pytest.mark.parametrize("is_ahead", [False, True])
def test_second_line_that_was_doubted_learns_the_book_from_the_first(is_ahead: bool) -> None:  # noqa: FBT001
    """It need not connect anew to be able to take over."""
    feed = Lines()
    feed.on("b").n += 1  # a record of it is missing
    for at, price in enumerate(("97", "96", "95"), start=1):
        for line in "ba" if is_ahead else "ab":
            feed.change(line, 10 * at, price)
    assert feed.change("b", 50, "94") == []
    assert feed.end("a") == ["book tick"]
    assert feed.change("b", 60, "93") == ["book tick"]
    assert feed.prices() == ["99", "98", "97", "96", "95", "94", "93"]


def test_second_line_with_another_book_begins_a_new_chain() -> None:
    """Where the lines differ, the chain must not go on as if they did not."""
    feed = Lines()
    feed.change("b", 5, "90")
    feed.change("a", 10, "97")
    feed.change("b", 20, "96")
    assert feed.end("a") == ["book tick", "book snapshot subscribe"]
    assert feed.prices() == ["99", "98", "96", "90"]


def test_what_a_second_line_has_beyond_the_first_survives_a_restart() -> None:
    """A checkpoint has it; the restarted normalizer says the same."""
    feed = Lines()
    feed.change("b", 10, "97")
    lines, cursors = feed.core.checkpoint()
    restarted = ProductNormalizer("coinbase", "BTC-USD")
    restarted.restore([line.encode() for line in lines], cursors)
    feed.core = restarted
    assert feed.end("a") == ["book tick"]
    assert feed.prices() == ["99", "98", "97"]


def test_change_that_the_fetched_book_already_has_is_left_out() -> None:
    """REST may be ahead of the feed: older changes that come later must not put old sizes back."""
    feed = Feed()
    feed.snapshot()
    feed.n += 1
    feed.delta()
    ahead = feed.now + 2500
    assert feed.book(ahead)[0] == "book snapshot resync"
    assert feed.delta() == []
    assert feed.now < ahead
    assert feed.delta() == ["book tick"]
