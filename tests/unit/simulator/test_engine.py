"""The matching engine: priorities, events and what it refuses."""

from collections.abc import Callable

import pytest

from venues.simulator.engine import EngineError, MatchingEngine
from venues.simulator.events import Change, Done, LevelChange, Match, Open, Outcome, Received


def test_limit_resting_emits_received_and_open() -> None:
    """An order that crosses nothing rests, and uses two sequence numbers."""
    engine = MatchingEngine(sequence=10)
    outcome = engine.limit("buy", 100, 5)
    assert outcome.events == [
        Received(11, 1, "buy", 100, 5, None),
        Open(12, 1, "buy", 100, 5),
    ]
    assert outcome.changes == [LevelChange("buy", 100, 0, 5)]


def test_limit_crossing_trades_in_price_time_order() -> None:
    """The best price goes first, and at one price the oldest order."""
    engine = MatchingEngine(trade_id=7)
    for price, size in ((102, 1), (101, 2), (101, 3)):
        engine.limit("sell", price, size)
    matches = [one for one in engine.limit("buy", 102, 5).events if isinstance(one, Match)]
    assert [(one.trade_id, one.maker, one.price, one.size) for one in matches] == [
        (8, 2, 101, 2),
        (9, 3, 101, 3),
    ]
    assert {one.side for one in matches} == {"sell"}
    assert engine.asks.best() == 102


def test_limit_filled_in_part_rests_with_the_remainder() -> None:
    """What is not filled rests at the order's own price."""
    engine = MatchingEngine()
    engine.limit("sell", 100, 2)
    outcome = engine.limit("buy", 101, 5)
    assert outcome.events[-2] == Done(5, 1, "sell", "filled", 100, 0)
    assert outcome.events[-1] == Open(6, 2, "buy", 101, 3)
    assert (engine.bids.best(), engine.asks.best()) == (101, None)


def test_market_with_funds_spends_no_more_than_it_has() -> None:
    """Funds are price times size, and what is left buys nothing."""
    engine = MatchingEngine()
    engine.limit("sell", 100, 10)
    outcome = engine.market("buy", funds=250)
    assert [one.size for one in outcome.events if isinstance(one, Match)] == [2]
    assert outcome.events[-1] == Done(5, 2, "buy", "filled", None, None)


def test_market_on_an_empty_book_is_canceled() -> None:
    """Nothing to trade with: received, and done."""
    outcome = MatchingEngine().market("sell", size=3)
    assert outcome.events == [
        Received(1, 1, "sell", None, 3, None),
        Done(2, 1, "sell", "canceled", None, None),
    ]


def test_cancel_of_a_resting_order_removes_its_level() -> None:
    """The level goes with its last order, and done says what was left."""
    engine = MatchingEngine()
    engine.limit("buy", 100, 5)
    outcome = engine.cancel(1)
    assert outcome.events == [Done(3, 1, "buy", "canceled", 100, 5)]
    assert outcome.changes == [LevelChange("buy", 100, 5, 0)]
    assert not engine.bids.levels


def test_change_to_a_smaller_size_keeps_the_place() -> None:
    """A smaller order is still the first of its level."""
    engine = MatchingEngine()
    engine.limit("sell", 100, 5)
    engine.limit("sell", 100, 5)
    assert engine.change(1, 2).events == [Change(5, 1, "sell", 100, 5, 2)]
    first = next(one for one in engine.limit("buy", 100, 1).events if isinstance(one, Match))
    assert first.maker == 1


def test_engine_given_nonsense_refuses_and_changes_nothing() -> None:
    """Errors are raised before anything happens."""
    engine = MatchingEngine()
    engine.limit("sell", 100, 5)
    commands: list[Callable[[], Outcome]] = [
        lambda: engine.limit("buy", 0, 1),
        lambda: engine.limit("buy", 1, 0),
        lambda: engine.market("buy"),
        lambda: engine.market("buy", size=1, funds=1),
        lambda: engine.market("buy", size=0),
        lambda: engine.cancel(99),
        lambda: engine.change(1, 5),
    ]
    for command in commands:
        with pytest.raises(EngineError):
            command()
    assert engine.sequence == 2
