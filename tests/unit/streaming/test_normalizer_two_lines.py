"""Two ingestors on one product: what one line alone loses is no gap, and books take over."""

import pytest

from models.events import (
    Down,
    Lost,
)
from streaming.core.normalizer import ProductNormalizer
from tests.unit.streaming.normalizing import Feed, Lines


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


def test_lost_stretch_of_one_line_is_no_ticker_gap_while_the_other_watches() -> None:
    """Another line has seen what this one lost."""
    feed = Feed()
    feed.ticker(100, 10)
    feed.reconnect("b-1")
    feed.ticker(100, 10)
    assert feed.send(Lost(feed.now, "a-1", 2, 16, 22)) == []


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
