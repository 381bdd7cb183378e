"""Lines in are lines out, byte for byte: on random lines, and on real traffic."""

import json
from collections import defaultdict
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.canonical import FEEDS, Feed
from storage.excerpt import Excerpt
from storage.layout import Lane
from storage.parcel import decode, encode, merge
from storage.parquet import read_parquet
from storage.rows import Message, to_rows
from storage.schema import FORMATS, Stream
from storage.shapes import canonical_shapes, raw_shapes
from streaming.core.normalizer import ProductNormalizer
from streaming.core.outputs import Outputs
from tests.examples import examples
from tests.recordings import full_frames, level2_frames, needs_recordings, raw_lines
from tests.unit.storage.lines import PRODUCTS, VENUE, canonical, logs
from venues.coinbase.mapper import decode as decode_raw

TICKS = Lane("ticks", VENUE, 0, 1)
RAW = Lane("raw", VENUE, 0, 1)
HEAD = '{"v":1,"type":"tick","venue":"coinbase","product":"BTC-USD","feed":"ticker",'


def lane_of(stream: Stream) -> Lane:
    """Return a lane of the stream."""
    return TICKS if stream == "ticks" else RAW


def there_and_back(stream: Stream, messages: list[Message]) -> list[Message]:
    """Encode and decode."""
    parcel = encode(lane_of(stream), messages[0].position, messages[-1].position, messages)
    assert parcel.entry.messages == len(messages)
    return decode(stream, parcel.data)


@examples(150)
@given(logs(of="ticks"))
def test_any_ticks_come_back_verbatim(messages: list[Message]) -> None:
    """Canonical lines, damaged ones and anything else: nothing is lost or changed."""
    assert there_and_back("ticks", messages) == messages


@examples(100)
@given(logs(of="raw"))
def test_any_raw_lines_come_back_verbatim(messages: list[Message]) -> None:
    """Frames, notes, markers and anything else: nothing is lost or changed."""
    assert there_and_back("raw", messages) == messages


@examples(100)
@given(st.lists(logs(of="ticks"), min_size=1, max_size=4))
def test_merged_objects_hold_what_their_parts_held(parts: list[list[Message]]) -> None:
    """Merging keeps every message, and the digest of the whole is that of its parts."""
    moved, after = [], 0
    for part in parts:
        messages = [one._replace(position=one.position + after) for one in part]
        moved.append((after + 1, messages[-1].position, messages))
        after = messages[-1].position
    parcels = [encode(TICKS, *part) for part in moved]
    everything = [one for *_, messages in moved for one in messages]
    whole, direct = merge(TICKS, parcels), encode(TICKS, 1, after, everything)
    assert decode("ticks", whole.data) == everything
    assert (whole.entry.digest, whole.entry.rows) == (direct.entry.digest, direct.entry.rows)
    assert whole.entry.spans == direct.entry.spans


@examples(100)
@given(logs(of="canonical"), st.sampled_from(PRODUCTS), st.sampled_from(FEEDS))
def test_lines_of_one_feed_are_those_of_the_log(
    messages: list[Message], product: str, feed: Feed
) -> None:
    """A reader of one product and feed gets its canonical lines, all of them, in order."""
    parcel = encode(TICKS, 1, messages[-1].position, messages)
    excerpt = Excerpt(parcel.data, product, feed)
    wanted = [
        (message.position, line)
        for message in messages
        for line in message.payload.split(b"\n")
        if message.product == product and json.loads(line)["feed"] == feed
    ]
    for limit in (2, 1000):
        found, after = [], 0
        while page := excerpt.after(after, limit):
            after = page[-1].position
            found += [(one.position, line) for one in page for line in one.payload.split(b"\n")]
        assert found == wanted


@examples(100)
@given(st.data())
def test_every_spelling_of_the_core_is_typed(data: st.DataObject) -> None:
    """A canonical line goes into typed columns unless a number in it is too wide for them."""
    line = data.draw(canonical("BTC-USD"))
    rows = to_rows(FORMATS["ticks"], VENUE, [Message(1, "BTC-USD", line.encode())])
    told = json.loads(line, parse_float=Decimal)
    numbers: list[Decimal] = []
    integers: list[int] = []

    def walk(value: object) -> None:
        if isinstance(value, dict):
            for one in value.values():
                walk(one)
        elif isinstance(value, list):
            for one in value:
                walk(one)
        elif isinstance(value, Decimal) or (isinstance(value, str) and value[:1].isdigit()):
            numbers.append(Decimal(value))
        elif isinstance(value, int):
            integers.append(value)

    walk(told)
    wide = any(-one.as_tuple().exponent > 8 or one >= 10**10 for one in numbers)  # type: ignore[operator]
    wide = wide or any(one >= 10**10 for one in integers)
    if not wide:
        assert rows.column("verbatim").to_pylist() == [None]
        assert rows.column("feed").to_pylist() == [told["feed"]]
        assert rows.column("type").to_pylist() == [told["type"]]


def test_columns_hold_the_numbers_of_the_line() -> None:
    """Prices are exact decimals, times are times, and what a line lacks is null."""
    line = (
        HEAD + '"seq":7,"prev_seq":5,"ts_event":1735942854123456,"ts_ingest":1735942854126789,'
        '"fields":{"last_trade":{"px":65123.40,"qty":0.00000001,"side":"sell","id":9},'
        '"best_bid":{"px":65123},"best_ask":{"px":9999999999.00,"qty":0}}}'
    )
    rows = to_rows(FORMATS["ticks"], VENUE, [Message(3, "BTC-USD", line.encode())])
    (row,) = rows.to_pylist()
    assert row["trade_px"] == Decimal("65123.40")
    assert row["trade_px_places"] == 2
    assert row["trade_qty"] == Decimal("0.00000001")
    assert row["ask_px"] == Decimal(9999999999)
    assert (row["bid_px"], row["bid_qty"], row["ask_qty"]) == (65123, None, 0)
    assert (row["side"], row["trade_id"], row["seq"], row["prev_seq"]) == ("sell", 9, 7, 5)
    assert row["ts_event"].isoformat() == "2025-01-03T22:20:54.123456+00:00"
    assert (row["position"], row["line"], row["verbatim"]) == (3, 0, None)


@pytest.mark.parametrize(
    "number", ["1.", ".5", "01", "1e5", "-1", "1.123456789", "10000000000", "1..2", "1.2.3", ""]
)
def test_number_that_does_not_fit_leaves_its_line_verbatim(number: str) -> None:
    """The line is kept as it is, and what else it tells can still be queried."""
    line = (
        HEAD + '"seq":7,"prev_seq":5,"ts_event":1,"ts_ingest":2,'
        f'"fields":{{"last_px":{number},"best_bid":{{"px":1}},"best_ask":{{"px":2}}}}}}'
    ).encode()
    rows = to_rows(FORMATS["ticks"], VENUE, [Message(3, "BTC-USD", line)])
    assert rows.column("verbatim").to_pylist() == [line]
    assert rows.column("last_px").to_pylist() == [None]
    if number in {"-1", "1.123456789", "10000000000", "1e5"}:
        assert rows.column("seq").to_pylist() == [7]


def test_future_field_is_kept_and_its_head_is_queried() -> None:
    """A line of a later version is verbatim, with type, feed, seq and times in their columns."""
    line = HEAD + '"seq":7,"prev_seq":5,"ts_event":1,"ts_ingest":2,"fields":{},"new":{"a":[1]}}'
    message = Message(3, "BTC-USD", line.encode())
    (row,) = to_rows(FORMATS["ticks"], VENUE, [message]).to_pylist()
    assert row["verbatim"] == message.payload
    assert (row["type"], row["feed"], row["seq"], row["prev_seq"]) == ("tick", "ticker", 7, 5)
    assert there_and_back("ticks", [message]) == [message]


def test_line_of_another_product_is_not_taken_for_this_one() -> None:
    """The product of a row is that of its message; a line that says otherwise is verbatim."""
    line = HEAD + '"seq":7,"prev_seq":5,"ts_event":1,"ts_ingest":2,"fields":{}}'
    message = Message(3, "ETH-USD", line.encode())
    assert to_rows(FORMATS["ticks"], VENUE, [message]).column("verbatim").to_pylist() == [
        message.payload
    ]


def test_shapes_have_names_of_their_own() -> None:
    """No two spellings share a code."""
    for shapes in (canonical_shapes(VENUE), raw_shapes(VENUE)):
        assert len({one.code for one in shapes}) == len(shapes)


def test_object_is_read_by_the_templates_in_it() -> None:
    """An object names its spellings itself, so a version with other ones still reads it."""
    line = HEAD + '"seq":7,"prev_seq":5,"ts_event":1,"ts_ingest":2,"fields":{}}'
    parcel = encode(TICKS, 3, 3, [Message(3, "BTC-USD", line.encode())])
    _, shapes = read_parquet(FORMATS["ticks"], parcel.data)
    (shape,) = shapes.values()
    assert shape.template.replace("<product>", "BTC-USD").startswith(HEAD)


def recorded(*, skip_every: int = 0) -> dict[str, list[Message]]:
    """Return raw and canonical messages of the recordings, some records left out."""
    raw: list[Message] = []
    ticks: list[Message] = []
    frames = list(level2_frames())
    start = frames[-1][0]
    frames += [(start + number, frame) for number, frame in enumerate(full_frames())]
    by_product = raw_lines(frames)
    cores = {name: ProductNormalizer(VENUE, name) for name in by_product}
    for name, lines in by_product.items():
        kept = [one for at, one in enumerate(lines, 1) if not skip_every or at % skip_every]
        for at in range(0, len(kept), 7):
            raw.append(Message(len(raw) + 1, name, b"\n".join(kept[at : at + 7])))
            out = Outputs()
            for event in decode_raw(raw[-1].payload, name):
                cores[name].apply(event, len(raw), out)
            if out.lines:
                payload = "\n".join(out.lines).encode()
                ticks.append(Message(len(ticks) + 1, name, payload))
    return {"raw": raw, "ticks": ticks}


@needs_recordings
@pytest.mark.parametrize("skip_every", [0, 13])
@pytest.mark.parametrize("stream", ["raw", "ticks"])
def test_recorded_traffic_comes_back_verbatim_and_typed(stream: Stream, skip_every: int) -> None:
    """Real frames, and what the normalizer makes of them, with gaps and without."""
    messages = recorded(skip_every=skip_every)[stream]
    assert len(messages) > (50 if skip_every else 1000)
    assert there_and_back(stream, messages) == messages
    rows = to_rows(FORMATS[stream], VENUE, messages)
    assert rows.column("verbatim").null_count == len(rows)
    kinds: dict[str, int] = defaultdict(int)
    for kind in rows.column("type").to_pylist():
        kinds[kind] += 1
    assert ("status" in kinds) == (stream == "ticks" and skip_every > 0)
