"""Trades, pages and candles of one product."""

from venues.simulator.events import Match
from venues.simulator.history import Bar, History

START_S = 1_790_000_040
"""The beginning of a minute."""


def _history(trades: int, *, every_s: int = 10, kept: int = 1000) -> History:
    history = History(kept)
    for number in range(trades):
        match = Match(number * 5, 100 + number, 1, 2, "buy", 1000 + number % 7, 1 + number)
        history.add(match, (START_S + number * every_s) * 1_000_000)
    return history


def _ids(history: History, limit: int, before: int | None, after: int | None) -> list[int]:
    return [one.match.trade_id for one in history.page(limit, before, after)]


def test_page_is_newest_first_and_walks_back_with_after() -> None:
    """`after` is exclusive and gives the next older page."""
    history = _history(10)
    assert _ids(history, 3, None, None) == [109, 108, 107]
    assert _ids(history, 3, None, 107) == [106, 105, 104]
    assert _ids(history, 3, None, 100) == []
    assert _ids(history, 3, None, 10**9) == [109, 108, 107]


def test_page_before_gives_the_newest_above_it() -> None:
    """The exchange's quirk: not the page next to the cursor."""
    history = _history(10)
    assert _ids(history, 3, 101, None) == [109, 108, 107]
    assert _ids(history, 3, 107, None) == [109, 108]
    assert _ids(history, 3, 109, None) == []
    assert _ids(history, 5, 102, 106) == [105, 104, 103]


def test_page_of_no_trades_is_empty() -> None:
    """A product that never traded has no page."""
    assert History().page(5, None, None) == []


def test_history_beyond_its_bound_forgets_the_oldest() -> None:
    """It keeps what it must, and only a little more."""
    history = _history(500, kept=100)
    ids = _ids(history, 1000, None, None)
    assert ids[0] == 599
    assert 100 <= len(ids) <= 113
    assert ids == list(range(599, 599 - len(ids), -1))


def test_candles_aggregate_minutes_and_omit_empty_ones() -> None:
    """Buckets begin inside the asked span, both ends included; newest first."""
    history = _history(12, every_s=20)
    history.add(Match(0, 112, 1, 2, "buy", 5, 3), (START_S + 600) * 1_000_000)
    minutes = history.candles(60, START_S, START_S + 600)
    assert [bar.start - START_S for bar in minutes] == [600, 180, 120, 60, 0]
    assert minutes[-1] == Bar(START_S, 1000, 1002, 1000, 1002, 1 + 2 + 3)
    assert [bar.start for bar in history.candles(60, START_S + 1, START_S + 60)] == [START_S + 60]
    (day,) = history.candles(86400, 0, 2e9)
    assert (day.volume, day.low, day.close) == (sum(range(1, 13)) + 3, 5, 5)


def test_day_leaves_out_what_is_older() -> None:
    """The day's bar looks back 24 hours; the month's volume further."""
    history = _history(2, every_s=86400)
    assert history.day().volume == 2
    assert history.month_volume == 3
