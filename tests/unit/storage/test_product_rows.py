"""Objects read product by product give the same bytes as whole ones."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.layout import Lane
from storage.parcel import encode
from storage.parquet import NotALakeObjectError
from storage.product_rows import ProductRows
from storage.rows import Message
from tests.examples import examples
from tests.unit.storage.lines import PRODUCTS, VENUE, logs

TICKS, RAW = Lane("ticks", VENUE, 0, 1), Lane("raw", VENUE, 0, 1)


def opened(lane: Lane, messages: list[Message]) -> ProductRows:
    """Return an object that holds messages."""
    parcel = encode(lane, messages[0].position, messages[-1].position, messages)
    return ProductRows(lane.stream, parcel.data, parcel.entry)


@examples(80)
@given(st.sampled_from((TICKS, RAW)), st.data(), st.integers(1, 9), st.integers(0, 40))
def test_passages_hold_the_messages_of_a_product_verbatim(
    lane: Lane, data: st.DataObject, size: int, after: int
) -> None:
    """Within bounds, in pieces that cut no message, whatever the lines are."""
    messages = data.draw(logs(of=lane.stream))
    rows = opened(lane, messages)
    upto = data.draw(st.none() | st.integers(1, messages[-1].position))
    for product in PRODUCTS:
        expected = [
            (one.position, one.payload)
            for one in messages
            if one.product == product and after < one.position <= (upto or messages[-1].position)
        ]
        passage = rows.passage(product, after, upto)
        assert passage.messages() == expected
        pieces = passage.slices(size)
        assert [one for piece in pieces for one in piece.messages()] == expected
        assert b"".join(piece.text for piece in pieces) == passage.text
        assert len(passage.position) == sum(text.count(b"\n") + 1 for _, text in expected)


@examples(40)
@given(logs(of="canonical"))
def test_passage_of_one_feed_has_only_its_lines(messages: list[Message]) -> None:
    """Feeds can be chosen; lines stay in their order."""
    rows = opened(TICKS, messages)
    for product in PRODUCTS:
        lines = [
            line
            for one in messages
            if one.product == product
            for line in one.payload.split(b"\n")
            if b'"feed":"book"' in line
        ]
        passage = rows.passage(product, 0, None, frozenset({"book"}))
        assert passage.text == b"".join(line + b"\n" for line in lines)


def test_object_of_another_entry_is_refused() -> None:
    """Neither fewer rows in all nor fewer of a product pass for the whole."""
    messages = [Message(at, PRODUCTS[at % 2], b"{}") for at in range(1, 9)]
    parcel = encode(RAW, 1, 8, messages)
    with pytest.raises(NotALakeObjectError, match="holds 8 rows, but should hold 9"):
        ProductRows("raw", parcel.data, msgspec.structs.replace(parcel.entry, rows=9))
    spans = {name: next(iter(parcel.entry.spans.values())) for name in ("NEW-USD",)}
    entry = msgspec.structs.replace(parcel.entry, spans=spans)
    with pytest.raises(NotALakeObjectError, match="0 rows of NEW-USD, but should hold 4"):
        ProductRows("raw", parcel.data, entry).passage("NEW-USD", 0, None)
    with pytest.raises(NotALakeObjectError, match="no object of the lake"):
        ProductRows("raw", parcel.data[:-9], parcel.entry)


def test_damaged_page_is_refused() -> None:
    """A flipped bit in the data is seen before anything of it is used."""
    messages = [Message(at, PRODUCTS[0], b'{"at":%d}' % at) for at in range(1, 200)]
    parcel = encode(RAW, 1, 199, messages)
    data = bytearray(parcel.data)
    data[len(data) // 3] ^= 1
    with pytest.raises(NotALakeObjectError, match="damaged"):
        ProductRows("raw", bytes(data), parcel.entry).passage(PRODUCTS[0], 0, None)
