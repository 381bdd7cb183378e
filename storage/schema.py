"""Columns of the lake: what each holds, in which type, and how Parquet packs it.

Rows are sorted by product, feed and position, so neighbours are alike: counts and times are kept
as differences. Values that a line does not have are null. `verbatim` is the line itself where it
could not be taken apart; the other columns then hold what was understood of it.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import pyarrow as pa

from storage.levels import CHANGES, LEVELS
from storage.numbers import DECIMAL
from storage.shapes import NUMBERS, Shape, canonical_shapes, raw_shapes

Stream = Literal["raw", "ticks"]

_TIME = pa.timestamp("us", tz="UTC")
_WHERE = [
    pa.field("product", pa.string(), nullable=False),
    pa.field("position", pa.int64(), nullable=False),
    pa.field("line", pa.int32(), nullable=False),
    pa.field("type", pa.string()),
]
"""Where a row was: position of its message in the log, line within the message, from 0."""

_HOW = [pa.field("shape", pa.int32()), pa.field("verbatim", pa.binary())]

TICKS_SCHEMA = pa.schema(
    [
        *_WHERE,
        pa.field("feed", pa.string()),
        pa.field("seq", pa.int64()),
        pa.field("prev_seq", pa.int64()),
        pa.field("ts_event", _TIME),  # of a snapshot its ts_snapshot, of a status its since
        pa.field("ts_ingest", _TIME),
        pa.field("trade_px", DECIMAL),
        pa.field("trade_qty", DECIMAL),
        pa.field("side", pa.string()),
        pa.field("trade_id", pa.int64()),
        pa.field("bid_px", DECIMAL),
        pa.field("bid_qty", DECIMAL),
        pa.field("ask_px", DECIMAL),
        pa.field("ask_qty", DECIMAL),
        pa.field("last_px", DECIMAL),
        pa.field("changes", CHANGES),
        pa.field("bids", LEVELS),
        pa.field("asks", LEVELS),
        pa.field("reason", pa.string()),
        pa.field("state", pa.string()),
        pa.field("resync_id", pa.string()),
        pa.field("gap_after", pa.int64()),
        pa.field("gap_before", pa.int64()),
        *[pa.field(f"{name}_places", pa.int8()) for name in sorted(NUMBERS)],
        *_HOW,
    ]
)

RAW_SCHEMA = pa.schema(
    [
        *_WHERE,
        pa.field("ts_ingest", _TIME),
        pa.field("conn", pa.string()),
        pa.field("n", pa.int64()),
        pa.field("frame", pa.string()),
        *_HOW,
    ]
)

_ENCODINGS = {
    "DELTA_BINARY_PACKED": (
        *("position", "seq", "prev_seq", "ts_event", "ts_ingest", "trade_id", "n"),
    ),
    "BYTE_STREAM_SPLIT": ("trade_qty",),
    "PLAIN": (
        *("trade_px", "bid_px", "bid_qty", "ask_px", "ask_qty", "last_px", "frame", "verbatim"),
        *(
            f"{side}.list.element.{number}"
            for side in ("changes", "bids", "asks")
            for number in ("px", "qty")
        ),
    ),
}
"""Measured on the simulator's and the recorded feeds; all other columns are dictionaries."""


class Format:
    """How one stream's lines become rows.

    Attributes: stream; schema; sorted_by, column names; shapes, of a venue's lines; encodings, by
    leaf column; dictionaries, the leaf columns that have one.
    """

    def __init__(
        self,
        stream: Stream,
        schema: pa.Schema,
        sorted_by: tuple[str, ...],
        shapes: Callable[[str], tuple[Shape, ...]],
    ) -> None:
        self.stream, self.schema, self.sorted_by, self.shapes = stream, schema, sorted_by, shapes
        leaves = [leaf for one in schema for leaf in _leaves(one.name, one.type)]
        self.encodings: Mapping[str, str] = {
            leaf: encoding
            for encoding, names in _ENCODINGS.items()
            for leaf in names
            if leaf in leaves
        }
        self.dictionaries = [leaf for leaf in leaves if leaf not in self.encodings]


def _leaves(name: str, kind: pa.DataType) -> list[str]:
    """Return the columns as Parquet names them: those within a list of structs, too."""
    if not pa.types.is_list(kind):
        return [name]
    return [f"{name}.list.element.{field.name}" for field in kind.value_type]


FORMATS: Mapping[Stream, Format] = {
    "raw": Format("raw", RAW_SCHEMA, ("product", "position", "line"), raw_shapes),
    "ticks": Format(
        "ticks", TICKS_SCHEMA, ("product", "feed", "position", "line"), canonical_shapes
    ),
}
"""The streams that the lake keeps."""
