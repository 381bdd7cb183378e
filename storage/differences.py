"""The file of a canary's differences: one row each, in the order in which they were found."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from models.canary import Divergence

SCHEMA = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=False),
        pa.field("product", pa.string(), nullable=False),
        pa.field("feed", pa.string(), nullable=False),
        pa.field("seq", pa.int64()),
        pa.field("expected", pa.string()),
        pa.field("actual", pa.string()),
        pa.field("differs_at", pa.int64()),
        pa.field("position", pa.int64()),
        pa.field("line", pa.int64()),
        pa.field("time", pa.timestamp("us", tz="UTC")),
        pa.field("object", pa.string()),
        pa.field("raw", pa.string()),
    ]
)
"""See `models.canary.Divergence`; texts are whole."""

_OTHER_NAMES = {"time": "time_us", "object": "object_"}


def encode_differences(found: Sequence[Divergence]) -> bytes:
    """Return the bytes of a Parquet file."""
    columns = {
        name: [getattr(one, _OTHER_NAMES.get(name, name)) for one in found] for name in SCHEMA.names
    }
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns, schema=SCHEMA), sink, compression="zstd")
    return bytes(sink.getvalue())
