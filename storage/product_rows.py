"""An object of the lake product by product: rows and text, without a Python object for each line.

For readers that go through much of a product, such as a canary. Of a large object only the row
groups that hold the product are unpacked, and the newest ones stay unpacked for the next product.
Each page is held against its checksum, and what was found against the entry's counts.
"""

import itertools
from collections import OrderedDict
from typing import NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.manifest import Entry
from storage.parquet import SHAPES_KEY, NotALakeObjectError
from storage.rows import to_text
from storage.scan import Ints
from storage.schema import FORMATS, Stream
from storage.shapes import Shape

_KEPT_GROUPS = 2
_UNREADABLE = (pa.ArrowException, OSError, ValueError, KeyError)


class Passage(NamedTuple):
    """Lines of one product in order: `text`, each with a break behind it, and for each where.

    `position`: of its message; `start`: of its text, with one more for the end; `time_us`: when
    it was received, 0 where it does not tell.
    """

    text: bytes
    position: Ints
    start: Ints
    time_us: Ints

    def messages(self) -> list[tuple[int, bytes]]:
        """Return position and payload of each message."""
        if not len(self.position):
            return []
        first = np.flatnonzero(np.diff(self.position, prepend=-1))
        starts = self.start[first].tolist()
        ends = [*starts[1:], int(self.start[-1])]
        text = self.text
        return [
            (position, text[start : end - 1])
            for position, start, end in zip(
                self.position[first].tolist(), starts, ends, strict=True
            )
        ]

    def slices(self, lines: int) -> "list[Passage]":
        """Cut into pieces of about so many lines; no message is cut."""
        firsts = np.flatnonzero(np.diff(self.position, prepend=-1))
        cuts = [0]
        for first in firsts.tolist():
            if first - cuts[-1] >= lines:
                cuts.append(first)
        cuts.append(len(self.position))
        return [
            Passage(
                self.text[self.start[begin] : self.start[end]],
                self.position[begin:end],
                self.start[begin : end + 1] - self.start[begin],
                self.time_us[begin:end],
            )
            for begin, end in itertools.pairwise(cuts)
            if begin < end
        ]


class ProductRows:
    """One object."""

    def __init__(self, stream: Stream, data: bytes, entry: Entry) -> None:
        """Open an object.

        Raises:
            NotALakeObjectError: the bytes are none, or not those of the entry.
        """
        self._form, self._entry = FORMATS[stream], entry
        self._groups: OrderedDict[int, pa.Table] = OrderedDict()
        try:
            self._file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
            metadata = self._file.metadata
            templates = msgspec.json.decode(metadata.metadata[SHAPES_KEY], type=dict[int, str])
        except _UNREADABLE as error:
            raise NotALakeObjectError(f"these bytes are no object of the lake: {error}") from error
        if metadata.num_rows != entry.rows:
            raise NotALakeObjectError(
                f"it holds {metadata.num_rows} rows, but should hold {entry.rows}"
            )
        self._shapes = {shape.code: shape for shape in map(Shape, templates.values())}

    def passage(
        self, product: str, after: int, upto: int | None, feeds: frozenset[str] | None = None
    ) -> Passage:
        """Return a product's lines at positions above `after`, up to and with `upto`.

        `feeds`: none means all.

        Raises:
            NotALakeObjectError: the object is damaged, or not that of the entry.
        """
        rows = self._rows(product)
        position = rows.column("position").to_numpy()
        kept = position > after
        if upto is not None:
            kept &= position <= upto
        if feeds is not None:
            kept &= pc.is_in(rows.column("feed"), pa.array(sorted(feeds))).to_numpy()
        order = np.lexsort((rows.column("line").to_numpy(), position))
        order = order[kept[order]]
        if len(order) < len(rows) or np.any(np.diff(order) != 1):
            rows = rows.take(pa.array(order))
        text, start = to_text(rows.combine_chunks(), self._shapes)
        time_us = pc.fill_null(rows.column("ts_ingest").cast(pa.int64()), 0).to_numpy()
        return Passage(text, rows.column("position").to_numpy(), start, time_us)

    def _rows(self, product: str) -> pa.Table:
        """Return the rows of a product."""
        spans = self._entry.spans.get(product, {}).values()
        found = [
            rows.filter(pc.equal(rows.column("product"), product))
            for group in range(self._file.metadata.num_row_groups)
            if self._may_hold(group, product)
            for rows in (self._group(group),)
        ]
        table = pa.concat_tables(found) if found else self._form.schema.empty_table()
        expected = sum(span.rows for span in spans)
        if len(table) != expected:
            raise NotALakeObjectError(
                f"it holds {len(table)} rows of {product}, but should hold {expected}"
            )
        return table

    def _group(self, group: int) -> pa.Table:
        table = self._groups.get(group)
        if table is None:
            try:
                table = self._file.read_row_group(group).cast(self._form.schema)
            except _UNREADABLE as error:
                raise NotALakeObjectError(f"a part of the object is damaged: {error}") from error
            self._groups[group] = table
            if len(self._groups) > _KEPT_GROUPS:
                self._groups.popitem(last=False)
        return table

    def _may_hold(self, group: int, product: str) -> bool:
        """Tell from its statistics whether a group can have rows of the product."""
        statistics = self._file.metadata.row_group(group).column(0).statistics
        if statistics is None or not statistics.has_min_max:
            return True
        return bool(statistics.min <= product <= statistics.max)
