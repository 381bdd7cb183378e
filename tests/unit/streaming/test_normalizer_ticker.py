"""Gaps of the ticker: the heartbeat's watermark, and connections with trades in between."""

import pytest

from models.events import (
    Lost,
    Ticker,
)
from tests.unit.streaming.normalizing import Feed


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


def test_lost_stretch_of_the_connection_puts_ticker_and_book_in_a_gap() -> None:
    """Any product's news may have been in it; both requests name the same stretch."""
    feed = Feed()
    feed.snapshot()
    feed.ticker(100, 10)
    told = feed.send(Lost(*feed.head(), 16, 22))
    assert [words.split()[:2] for words in told] == [["book", "gap"], ["ticker", "gap"]]
    assert {request.stretch for request in feed.out.requests} == {"a-1/16-22"}
    assert feed.ticker(110, 11)[0] == "ticker snapshot resync"


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
