"""Gaps of the book: lost records, unreadable changes, crossed books."""

from models.events import (
    Invalid,
)
from tests.unit.streaming.normalizing import T0, Feed


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


def test_record_lost_inside_the_pipeline_is_a_gap_of_the_book() -> None:
    """Our own numbering shows a loss that level 2 itself cannot show."""
    feed = Feed()
    feed.snapshot()
    feed.n += 1
    assert feed.delta()[0].startswith("book gap")
    assert [request.reason for request in feed.out.requests] == ["lost_record"]
