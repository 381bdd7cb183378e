"""What ingest reads of a frame: its channel, its products, and its number."""

import json
from typing import Any

import msgspec
import pytest

from models.subjects import META_PRODUCT
from tests.unit.coinbase_advanced.frames import (
    book,
    envelope,
    level,
    level2,
    ticker,
    tickers,
    trade,
    trades,
)
from venues.coinbase_advanced.route import route


@pytest.mark.parametrize(
    ("frame", "products"),
    [
        (tickers(ticker("ETH-USD"), ticker(), ticker("ETH-USD"), number=5), ("ETH-USD", "BTC-USD")),
        (trades(trade(1), trade(2, "ETH-USD"), number=5), ("BTC-USD", "ETH-USD")),
        (level2(book("update", level("bid", "1", "2")), number=5), ("BTC-USD",)),
        (envelope("candles", {"candles": [{"product_id": "BTC-USD"}]}, number=5), ("BTC-USD",)),
        (envelope("heartbeats", {"heartbeat_counter": 1}, number=5), ()),
        (envelope("subscriptions", {"subscriptions": {"ticker": ["BTC-USD"]}}, number=5), ("_",)),
        (envelope("status", {"products": [{"id": "BTC-USD"}]}, number=5), ("_",)),
        (envelope("surprise", number=5), ("_",)),
    ],
)
def test_frame_is_routed_to_every_product_in_it(
    frame: dict[str, Any], products: tuple[str, ...]
) -> None:
    """Each product once; a heartbeat is everybody's, and acknowledgements are nobody's."""
    assert route(json.dumps(frame).encode()) == (frame["channel"], products, 5)


def test_error_has_no_number() -> None:
    """The venue's errors are no envelopes, and are not counted."""
    frame = b'{"type":"error","message":"authentication failure"}'
    assert route(frame) == ("error", (META_PRODUCT,), None)


@pytest.mark.parametrize("frame", [b"", b"no", b'{"events":5}', b'{"sequence_num":"1"}', b"[]"])
def test_frame_that_is_no_envelope_is_refused(frame: bytes) -> None:
    """Its number is lost with it, so the next frame will show a gap: nothing is passed over."""
    with pytest.raises(msgspec.DecodeError):
        route(frame)
