"""What Advanced Trade is told, and how its answers are read."""

import json
from typing import Any

import pytest

from models.settings import load_settings
from tests.unit.coinbase_advanced.frames import envelope, ticker, tickers
from venues.coinbase.dialect import Accepted, Complaint
from venues.coinbase.feed import FeedConfigError
from venues.coinbase_advanced.dialect import AdvancedDialect, UnknownChannelError, own_channels
from workers.venue import feed_config

DIALECT = AdvancedDialect()


def test_subscribe_is_one_message_per_channel_with_heartbeats() -> None:
    """Heartbeats are always asked for, last and without products."""
    texts = DIALECT.subscribe(("BTC-USD",), ("heartbeats", "ticker", "level2"), None)
    assert [json.loads(text) for text in texts] == [
        {"type": "subscribe", "product_ids": ["BTC-USD"], "channel": "ticker"},
        {"type": "subscribe", "product_ids": ["BTC-USD"], "channel": "level2"},
        {"type": "subscribe", "channel": "heartbeats"},
    ]


def test_exchange_names_of_channels_are_understood() -> None:
    """The same COINBASE_CHANNELS serve both feeds; a channel that only Exchange has is refused."""
    names = ("ticker", "heartbeat", "level2_batch", "level2", "matches", "market_trades")
    assert own_channels(names) == ("ticker", "heartbeats", "level2", "market_trades")
    with pytest.raises(UnknownChannelError, match="'full'"):
        own_channels(("ticker", "full"))


@pytest.mark.parametrize(
    ("frame", "answer"),
    [
        (envelope("subscriptions", {"subscriptions": {"ticker": ["BTC-USD"]}}), Accepted()),
        (envelope("subscriptions", {"subscriptions": {"ticker": []}}), None),
        (envelope("subscriptions", {"subscriptions": {"heartbeats": ["heartbeats"]}}), None),
        (envelope("subscriptions", {"subscriptions": {}}), None),
        ({"type": "error", "message": "failure"}, Complaint("failure")),
        (tickers(ticker()), None),
    ],
)
def test_answer_is_read_from_acks_and_errors(frame: dict[str, Any], answer: object) -> None:
    """Heartbeats alone are no market data, and unknown products leave a channel empty."""
    assert DIALECT.answer(json.dumps(frame).encode()) == answer


def test_settings_choose_the_feed() -> None:
    """INGEST_VENUE picks the address and the dialect; a bad address is named by its setting."""
    settings = load_settings(ingest_venue="coinbase-advanced", coinbase_advanced_ws="ws://x:1/y")
    config = feed_config(settings)
    assert config.urls == ("ws://x:1/y",)
    assert config.channels == ("ticker", "heartbeats", "level2")
    assert isinstance(config.dialect, AdvancedDialect)
    assert feed_config(load_settings()).primary.endswith("ws-feed.exchange.coinbase.com")
    bad = load_settings(ingest_venue="coinbase-advanced", coinbase_advanced_ws="http://x")
    with pytest.raises(FeedConfigError, match="COINBASE_ADVANCED_WS"):
        feed_config(bad)
