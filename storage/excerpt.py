"""Excerpts of an object of canonical lines: one product and feed, some messages at a time.

Row groups without any are not even unpacked, and of the others only one at a time: so a gateway
reads through an hour's object without ever having a hundred MB of text in memory.
"""

from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from models.canonical import Feed
from storage.parquet import SHAPES_KEY, NotALakeObjectError
from storage.rows import to_lines
from storage.schema import FORMATS
from storage.shapes import Shape

_FORM = FORMATS["ticks"]
_UNREADABLE = (pa.ArrowException, OSError, ValueError, KeyError)


class FeedMessage(NamedTuple):
    """A message's lines of one feed, verbatim; `time_us`: when the last was received, if known."""

    position: int
    time_us: int | None
    payload: bytes


class Excerpt:
    """The lines of one product and feed in an object, in order."""

    def __init__(self, data: bytes, product: str, feed: Feed) -> None:
        """Open an object.

        Raises:
            NotALakeObjectError: the bytes are none, or damaged.
        """
        self._product, self._feed = product, feed
        self._unpacked: tuple[int, pa.Table] | None = None
        try:
            self._file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
            metadata = self._file.metadata
            templates = msgspec.json.decode(metadata.metadata[SHAPES_KEY], type=dict[int, str])
        except _UNREADABLE as error:
            raise NotALakeObjectError(f"these bytes are no object of the lake: {error}") from error
        self._shapes = {shape.code: shape for shape in map(Shape, templates.values())}
        self._columns = {metadata.schema.column(n).path: n for n in range(metadata.num_columns)}
        self._groups = [
            group
            for group in range(metadata.num_row_groups)
            if self._may_hold(group, "product", product) and self._may_hold(group, "feed", feed)
        ]

    def before(self, seq: int) -> int | None:
        """Return the position right before the first message that has a number; none if none has.

        Raises:
            NotALakeObjectError: the object is damaged.
        """
        for group in self._groups:
            if self._may_hold(group, "seq", seq):
                rows = self._rows(group)
                found = pc.index(rows.column("seq"), seq).as_py()
                if found >= 0:
                    return int(rows.column("position")[found].as_py()) - 1
        return None

    def after(self, position: int, limit: int) -> list[FeedMessage]:
        """Return the next messages above a position, whole, with about `limit` lines in all.

        Raises:
            NotALakeObjectError: the object is damaged.
        """
        pieces: list[pa.Table] = []
        count = 0
        for group in self._groups:
            bounds = self._bounds(group, "position")
            if bounds is not None and bounds[1] <= position:
                continue
            rows = self._rows(group)
            start = int(np.searchsorted(rows.column("position").to_numpy(), position, "right"))
            pieces.append(rows.slice(start))
            count += len(rows) - start
            # One message may go on in the next group.
            if count > limit and len({one for piece in pieces for one in _ends(piece)}) > 1:
                break
        return self._messages(pa.concat_tables(pieces), limit) if count else []

    def _messages(self, rows: pa.Table, limit: int) -> list[FeedMessage]:
        """Return whole messages of rows, the last of which may be cut off: one at least."""
        position = rows.column("position").to_numpy()
        if len(rows) > limit:
            end = int(np.searchsorted(position, position[limit], "left"))
            end = end or int(np.searchsorted(position, position[0], "right"))
            rows, position = rows.slice(0, end), position[:end]
        rows = rows.combine_chunks()
        lines = to_lines(rows, self._shapes)
        times = rows.column("ts_ingest").cast(pa.int64()).to_pylist()
        starts = np.flatnonzero(np.diff(position, prepend=-1)).tolist()
        return [
            FeedMessage(
                int(position[start]),
                max((time for time in times[start:end] if time is not None), default=None),
                b"\n".join(lines[start:end]),
            )
            for start, end in zip(starts, [*starts[1:], len(lines)], strict=True)
        ]

    def _rows(self, group: int) -> pa.Table:
        """Return a group's rows of the product and feed; the newest group stays unpacked."""
        if self._unpacked is None or self._unpacked[0] != group:
            try:
                rows = self._file.read_row_group(group).cast(_FORM.schema)
            except _UNREADABLE as error:
                raise NotALakeObjectError(f"a part of the object is damaged: {error}") from error
            is_product = pc.equal(rows.column("product"), self._product)
            is_feed = pc.equal(rows.column("feed"), self._feed)
            self._unpacked = group, rows.filter(pc.and_(is_product, is_feed))
        return self._unpacked[1]

    def _may_hold(self, group: int, column: str, value: str | int) -> bool:
        bounds = self._bounds(group, column)
        return bounds is None or bounds[0] <= value <= bounds[1]

    def _bounds(self, group: int, column: str) -> tuple[Any, Any] | None:
        """Return least and greatest value of a column in a group, if its statistics tell."""
        found = self._file.metadata.row_group(group).column(self._columns[column]).statistics
        return (found.min, found.max) if found is not None and found.has_min_max else None


def _ends(rows: pa.Table) -> tuple[int, ...]:
    """Return the positions of the first and the last row."""
    return tuple(rows.column("position")[at].as_py() for at in ((0, -1) if len(rows) else ()))
