"""What the core makes of this venue's events where its numbering is weaker than Exchange's."""

import json
from typing import Any

import msgspec

from models.records import (
    LineDown,
    LostFrames,
    ResyncMarker,
    frame_line,
    marker_line,
    note_line,
)
from streaming.core.latest import LatestState
from streaming.core.normalizer import ProductNormalizer
from streaming.core.outputs import Outputs
from tests.chains import assert_linked, messages, statuses, ticks
from tests.unit.coinbase_advanced.frames import NOW, book, level, level2, ticker, tickers, trade
from tests.unit.coinbase_advanced.frames import trades as trades_frame
from venues.coinbase_advanced.mapper import VENUE, decode

PRODUCT = "BTC-USD"


class Records:
    """Lines of a raw log, numbered as ingest numbers them, and what the core says of them."""

    def __init__(self) -> None:
        self.core = ProductNormalizer(VENUE, PRODUCT)
        self.out = Outputs()
        self._numbers: dict[str, int] = {}

    def add(self, told: Any, conn: str = "a-1") -> None:
        """Apply one record."""
        number = self._numbers[conn] = self._numbers.get(conn, 0) + 1
        if isinstance(told, dict):
            line = frame_line(NOW, conn, number, json.dumps(told).encode())
        else:
            line = note_line(NOW, conn, number, told)
        for event in decode(line, PRODUCT):
            self.core.apply(event, number, self.out)


def test_tickers_of_one_microsecond_are_all_told() -> None:
    """Within a connection an equal or older stamp is a newer state: time only numbers it."""
    records = Records()
    stamps = ("44.123456Z", "44.123456789Z", "44.1Z")
    for price, stamp in zip("123", stamps, strict=True):
        frame = tickers(ticker(price=price)) | {"timestamp": f"2026-09-30T02:03:{stamp}"}
        records.add(frame)
    assert [tick.fields.last_px for tick in ticks(records.out.lines, "ticker")] == [1, 2, 3]
    assert assert_linked(records.out.lines) == 3


def test_reconnect_is_filled_from_the_snapshot_of_trades() -> None:
    """The hundred prints of a new subscription bring what was traded while nobody listened."""
    records = Records()
    records.add(trades_frame(trade(3), trade(2), kind="snapshot"))
    records.add(trades_frame(trade(4)))
    records.add(LineDown("gone"))
    records.add(
        trades_frame(*(trade(number) for number in range(7, 1, -1)), kind="snapshot"), "a-2"
    )
    records.add(trades_frame(trade(8)), "a-2")
    told = [tick.fields.last_trade for tick in ticks(records.out.lines, "trades")]
    assert [one.id for one in told if one is not None] == [3, 4, 5, 6, 7, 8]
    assert not records.out.requests
    assert_linked(records.out.lines)


def test_several_prints_in_one_record_count_once() -> None:
    """The record has one number: the next record follows it, whatever it held."""
    records = Records()
    records.add(level2(book("snapshot", level("bid", "1", "2"))))
    records.add(trades_frame(trade(3), trade(2), trade(1)))
    records.add(level2(book("update", level("bid", "1", "3"))))
    assert statuses(records.out.lines) == []
    assert not records.out.requests
    assert len(messages(records.out.lines)) == 5


def test_lost_stretch_puts_every_feed_in_doubt() -> None:
    """Nobody knows whose frame it was; the next ticker and the next snapshot heal."""
    records = Records()
    records.add(level2(book("snapshot", level("bid", "1", "2"))))
    records.add(tickers(ticker()))
    records.add(LostFrames("connection_gap", "", 4, 9))
    assert {status.feed for status in statuses(records.out.lines)} >= {"book", "ticker"}
    records.add(tickers(ticker()) | {"timestamp": "2026-09-30T02:03:45Z"})
    records.add(level2(book("snapshot", level("bid", "1", "3"))), "a-2")
    last = {status.feed: status.state for status in statuses(records.out.lines)}
    assert last["ticker"] == last["book"] == "live"


def test_recovery_brings_the_book_back_without_a_new_connection() -> None:
    """Exchange's REST answers for this venue, too: one matching engine, one clock."""
    records = Records()
    records.add(level2(book("snapshot", level("bid", "1", "2"))))
    records.add(LostFrames("connection_gap", "", 4, 9))
    (request,) = (one for one in records.out.requests if one.feed == "book")
    later = {"event_time": "2026-09-30T02:03:46Z"}
    records.add(level2(book("update", level("bid", "1", "9", **later))))
    body = {"bids": [["1", "3", 1]], "asks": [], "sequence": 5, "time": "2026-09-30T02:03:45Z"}
    answer = msgspec.Raw(json.dumps(body).encode())
    marker = marker_line(NOW, ResyncMarker(request.resync_id, "book", answer))
    for event in decode(marker, PRODUCT):
        records.core.apply(event, 9, records.out)
    latest = LatestState(VENUE, PRODUCT, "book")
    for text in records.out.lines:
        latest.apply(text.encode())
    assert statuses(records.out.lines)[-1].state == "live"
    assert latest.book.bids() == [("1", "9")]
    assert_linked(records.out.lines)


def test_lost_snapshot_of_a_new_connection_is_a_gap() -> None:
    """The book that was followed has ended, and the changes that come belong to another."""
    records = Records()
    records.add(level2(book("snapshot", level("bid", "1", "2"))))
    records.add(LineDown("gone"))
    records.add(LostFrames("connection_gap", "", -1, 2), "a-2")
    records.add(level2(book("update", level("bid", "1", "9"))), "a-2")
    told = [(status.feed, status.state) for status in statuses(records.out.lines)]
    assert told[-1] == ("book", "gap")
    assert [request.feed for request in records.out.requests] == ["book"]
