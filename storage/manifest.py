"""What an hour of a lane holds: one entry per object, with what can be known without opening it.

Entries are made here from rows; the lake stores them. With first and last `seq` per product and
feed, the chain can be followed over objects, and a subscriber's `from_seq` found.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from storage.digest import digest, joined
from storage.rows import Message
from storage.scan import Ints

_NONE = -1


class Span(msgspec.Struct, frozen=True, omit_defaults=True):
    """Rows of one product and feed in an object.

    `first_seq`, `last_seq`: of the first and last tick or snapshot; `low_seq`, `high_seq`: least
    and greatest, which are others where the venue began to count anew. `links_to`: the `prev_seq`
    of the first one, none if it is a snapshot, which links to nothing. `breaks`: ticks within that
    do not link to what came before them. Raw rows have none of these.
    """

    rows: int
    first: int
    last: int
    first_seq: int | None = None
    last_seq: int | None = None
    low_seq: int | None = None
    high_seq: int | None = None
    links_to: int | None = None
    breaks: int = 0


class Entry(msgspec.Struct, frozen=True):
    """One object.

    `first`, `last`: the range of the log; every message of the lane in it is in the object.
    `digest`: of the messages (`storage.digest`). `size_bytes` of the object, `text_bytes` of the
    payloads. `since_us`, `until_us`: least and greatest `ts_ingest`, 0 where no row has one.
    `spans`: by product and feed; of raw rows the feed is empty.
    """

    first: int
    last: int
    messages: int
    rows: int
    digest: str
    size_bytes: int
    text_bytes: int
    since_us: int
    until_us: int
    spans: dict[str, dict[str, Span]]


class Hole(msgspec.Struct, frozen=True):
    """A range that the log dropped before it was archived, or whose loss a person has accepted.

    Nothing of it will ever be here.
    """

    first: int
    last: int
    noticed_us: int
    reason: str


class Manifest(msgspec.Struct, frozen=True):
    """The valid objects of an hour of a lane, and its holes, in the order of the log."""

    version: int = 0
    entries: tuple[Entry, ...] = ()
    holes: tuple[Hole, ...] = ()
    v: Literal[1] = 1

    def ranges(self) -> list[tuple[int, int]]:
        """Return first and last of each object and each hole."""
        objects = [(one.first, one.last) for one in self.entries]
        return objects + [(one.first, one.last) for one in self.holes]

    def covers(self, first: int, last: int) -> bool:
        """Tell whether one object has all of a range."""
        return any(one.first <= first and last <= one.last for one in self.entries)

    def overlaps(self, first: int, last: int) -> bool:
        """Tell whether an object has any of a range."""
        return any(one.first <= last and first <= one.last for one in self.entries)


encode_manifest = msgspec.json.Encoder().encode
decode_manifest = msgspec.json.Decoder(Manifest).decode


def gaps(manifests: Sequence[Manifest]) -> list[tuple[int, int]]:
    """Return the ranges, first and last, that neither an object nor a hole accounts for.

    `manifests`: of hours of one lane, in any order. What lies before the first object or behind
    the last one is no gap.
    """
    known = sorted(one for manifest in manifests for one in manifest.ranges())
    return [
        (before[1] + 1, after[0] - 1)
        for before, after in pairwise(known)
        if after[0] > before[1] + 1
    ]


def compactable(manifest: Manifest, max_rows: int, max_text_bytes: int) -> list[list[Entry]]:
    """Return neighbours that are worth merging: two or more that together stay within bounds."""
    groups: list[list[Entry]] = []
    for entry in manifest.entries:
        group = groups[-1] if groups else []
        fits = (
            bool(group)
            and group[-1].last + 1 == entry.first
            and sum(one.rows for one in group) + entry.rows <= max_rows
            and sum(one.text_bytes for one in group) + entry.text_bytes <= max_text_bytes
        )
        if fits:
            group.append(entry)
        else:
            groups.append([entry])
    return [group for group in groups if len(group) > 1]


def entry_of(
    first: int, last: int, messages: Sequence[Message], rows: pa.Table, size_bytes: int
) -> Entry:
    """Return the entry of an object that holds these messages as these rows."""
    since_us, until_us = _received(rows)
    return Entry(
        first=first,
        last=last,
        messages=len(messages),
        rows=len(rows),
        digest=digest(messages),
        size_bytes=size_bytes,
        text_bytes=sum(len(one.payload) for one in messages),
        since_us=since_us,
        until_us=until_us,
        spans=spans_of(rows),
    )


def merged(parts: Sequence[Entry], rows: pa.Table, size_bytes: int) -> Entry:
    """Return the entry of an object that holds all rows of others."""
    return Entry(
        first=parts[0].first,
        last=parts[-1].last,
        messages=sum(one.messages for one in parts),
        rows=len(rows),
        digest=joined(one.digest for one in parts),
        size_bytes=size_bytes,
        text_bytes=sum(one.text_bytes for one in parts),
        since_us=min(one.since_us for one in parts),
        until_us=max(one.until_us for one in parts),
        spans=spans_of(rows),
    )


def spans_of(rows: pa.Table) -> dict[str, dict[str, Span]]:
    """Return what sorted rows hold of each product and feed."""
    product = rows.column("product")
    has_feed = "feed" in rows.column_names
    feed = pc.fill_null(rows.column("feed"), "") if has_feed else pa.repeat("", len(rows))
    starts = np.flatnonzero(_changes(product) | _changes(feed))
    names = product.take(pa.array(starts)).to_pylist()
    feeds = feed.take(pa.array(starts)).to_pylist()
    position = rows.column("position").to_numpy()
    seq, prev = (_numbers(rows, name) for name in ("seq", "prev_seq"))
    spans: dict[str, dict[str, Span]] = {}
    ends = [*starts[1:].tolist(), len(rows)]
    for name, of, start, end in zip(names, feeds, starts.tolist(), ends, strict=True):
        span = _span(position[start:end], seq[start:end], prev[start:end])
        spans.setdefault(name, {})[of] = span
    return spans


def _received(rows: pa.Table) -> tuple[int, int]:
    """Return the least and the greatest time of receipt; 0 where no row tells one."""
    bounds = pc.min_max(rows.column("ts_ingest").cast(pa.int64()))
    return bounds["min"].as_py() or 0, bounds["max"].as_py() or 0


def _changes(column: pa.Array | pa.ChunkedArray) -> NDArray[np.bool_]:
    """Tell which rows differ from the one before; the first does."""
    codes = pa.chunked_array([*getattr(column, "chunks", [column])]).combine_chunks()
    indices = codes.dictionary_encode().indices.to_numpy()
    return np.asarray(np.diff(indices, prepend=_NONE) != 0, np.bool_)


def _numbers(rows: pa.Table, name: str) -> Ints:
    """Return a column, or nothing but -1 where the stream has no such column."""
    if name not in rows.column_names:
        return np.full(len(rows), _NONE, np.int64)
    return np.asarray(pc.fill_null(rows.column(name), _NONE).to_numpy(), np.int64)


def _span(position: Ints, seq: Ints, prev: Ints) -> Span:
    rows, first, last = len(position), int(position[0]), int(position[-1])
    counted = seq != _NONE
    seq, prev = seq[counted], prev[counted]
    if len(seq) == 0:
        return Span(rows, first, last)
    return Span(
        rows,
        first,
        last,
        first_seq=int(seq[0]),
        last_seq=int(seq[-1]),
        low_seq=int(seq.min()),
        high_seq=int(seq.max()),
        links_to=None if prev[0] == _NONE else int(prev[0]),
        breaks=int(np.count_nonzero((prev[1:] != seq[:-1]) & (prev[1:] != _NONE))),
    )
