"""Gaps of the trades: jumps of ids, heartbeats, and the full channel's sequence."""

from tests.unit.streaming.normalizing import Feed


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
