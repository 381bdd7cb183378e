"""Answers of a recovery, gates beyond their bounds, gaps that stay open, accepted losses."""

from models.events import (
    Event,
    GivenUp,
    Ticker,
    TickerMarker,
)
from streaming.core.hold import Hold
from tests.chains import messages
from tests.unit.streaming.normalizing import Feed, describe


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
