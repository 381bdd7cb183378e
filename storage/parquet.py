"""Tables of rows to Parquet bytes and back.

An object describes itself: the templates of its shapes are in its metadata, so any later version
reads it, whatever shapes that one has.
"""

from collections.abc import Iterable, Mapping

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from storage.schema import Format
from storage.shapes import Shape

ROW_GROUP_ROWS = 65_536
"""Rows per group: the least that a reader can skip by the statistics of its columns."""

SHAPES_KEY = b"ledgerflux.shapes"
"""Metadata of the file: JSON, template by code."""

_LEVEL = 3
"""Of zstd: 6 saves 2 % and doubles the time, 1 saves no time."""

Shapes = Mapping[int, Shape]


class NotALakeObjectError(ValueError):
    """The bytes are no object of the lake's making, or not the one that they should be."""


def write_parquet(form: Format, table: pa.Table, shapes: Shapes) -> bytes:
    """Return the bytes of an object that holds sorted rows."""
    used = table.column("shape").unique().drop_null().to_pylist()
    templates = {str(code): shapes[code].template for code in sorted(used)}
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        form.schema,
        compression="zstd",
        compression_level=_LEVEL,
        use_dictionary=form.dictionaries,
        column_encoding=dict(form.encodings),
        store_decimal_as_integer=True,
        store_schema=False,
        write_page_checksum=True,
        sorting_columns=[
            pq.SortingColumn(form.schema.get_field_index(name)) for name in form.sorted_by
        ],
    ) as writer:
        writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
        writer.add_key_value_metadata({SHAPES_KEY: msgspec.json.encode(templates)})
    return bytes(sink.getvalue())


def read_parquet(form: Format, data: bytes) -> tuple[pa.Table, Shapes]:
    """Return an object's rows and the shapes that they name.

    Raises:
        NotALakeObjectError: it is none, or is damaged.
    """
    try:
        with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
            shapes = _shapes(file.metadata.metadata or {})
            return file.read().cast(form.schema), shapes
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise NotALakeObjectError(f"these bytes are no object of the lake: {error}") from error


def _shapes(metadata: Mapping[bytes, bytes]) -> Shapes:
    templates: Iterable[str] = msgspec.json.decode(
        metadata[SHAPES_KEY], type=dict[int, str]
    ).values()
    shapes = [Shape(template) for template in templates]
    return {shape.code: shape for shape in shapes}
