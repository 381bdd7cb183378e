"""Hostile frames in both venues' decoders: an event each, and neighbours that are untouched."""

import pytest

from models.events import Decode, Event, Invalid, Trade
from models.records import frame_line
from streaming.guard import UNDECODABLE, guarded
from streaming.ingest import by_product_id
from tests.hostile import FRAMES, MATCH
from tests.ingesting import match
from venues.coinbase import mapper as exchange
from venues.coinbase_advanced import mapper as advanced

NOW = 1_790_733_824_000_000


@pytest.mark.parametrize("decode", [exchange.decode, advanced.decode], ids=["exchange", "advanced"])
@pytest.mark.parametrize("name", FRAMES)
def test_decoder_gives_an_event_for_whatever_comes(decode: Decode, name: str) -> None:
    """One that counts under its connection and number, with a short sentence if it is invalid."""
    line = frame_line(NOW, "a-1", 2, FRAMES[name].replace(b"\n", b" "))
    found = guarded(decode)(line, "BTC-USD")
    assert (found[0].ts_ingest, found[0].conn, found[0].n) == (NOW, "a-1", 2)
    for event in found:
        if isinstance(event, Invalid) and event.reason in {"malformed", UNDECODABLE}:
            assert event.feed == "book"
        assert not isinstance(event, Trade) or 0 <= event.trade_id < 2**63
        assert not isinstance(event, Trade) or 0 <= event.seq < 2**63


@pytest.mark.parametrize("name", FRAMES)
def test_neighbours_of_a_hostile_line_are_read_as_ever(name: str) -> None:
    """Before it and behind it, in one message of the log."""
    frames = [match(1), FRAMES[name].replace(b"\n", b" "), match(3)]
    payload = b"\n".join(frame_line(NOW, "a-1", n, frame) for n, frame in enumerate(frames, 1))
    found = guarded(exchange.decode)(payload, "BTC-USD")
    assert len(found) == 3
    ids = [event.trade_id for event in (found[0], found[2]) if isinstance(event, Trade)]
    assert ids == [1, 3]


def test_what_is_in_order_is_not_in_the_table() -> None:
    """The frame that each one is made from is a trade."""
    assert by_product_id(match(2)) == ("match", ("BTC-USD",), None)
    (event,) = guarded(exchange.decode)(frame_line(NOW, "a-1", 2, match(2)), "BTC-USD")
    assert isinstance(event, Trade)
    assert MATCH["trade_id"] == event.trade_id
    assert not isinstance(event, Invalid)
    assert isinstance(event, Event)
