"""Objects of the lake: messages to bytes with their entry, and back, verified.

Pure: no bucket, no manifest. `storage.lake` stores what is made here.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from storage.digest import digest, joined
from storage.layout import Lane
from storage.manifest import Entry, Manifest, entry_of, gaps, merged
from storage.parquet import NotALakeObjectError, read_parquet, write_parquet
from storage.rows import Message, merge_rows, product_slices, to_messages, to_rows
from storage.schema import FORMATS, Stream


@dataclass(frozen=True, slots=True)
class Parcel:
    """A finished object: its bytes, and its entry for the manifest."""

    data: bytes
    entry: Entry


def encode(lane: Lane, first: int, last: int, messages: Sequence[Message]) -> Parcel:
    """Make the object of a range: all messages of the lane from `first` to `last`, in order.

    Raises:
        ValueError: there is no message, or one is outside of the range or out of order.
    """
    positions = [one.position for one in messages]
    if not positions or positions != sorted(set(positions)):
        raise ValueError(f"range {first}-{last}: give one or more messages, in order, each once")
    if positions[0] < first or positions[-1] > last:
        raise ValueError(f"range {first}-{last} does not hold {positions[0]} to {positions[-1]}")
    form = FORMATS[lane.stream]
    rows = to_rows(form, lane.venue, messages)
    data = write_parquet(form, rows, {one.code: one for one in form.shapes(lane.venue)})
    return Parcel(data, entry_of(first, last, messages, rows, len(data)))


def decode(stream: Stream, data: bytes) -> list[Message]:
    """Return the messages of an object, in the order of the log, byte for byte.

    Raises:
        NotALakeObjectError: the bytes are none, or damaged.
    """
    return _in_order(_by_product(stream, data))


def merge(lane: Lane, parcels: Sequence[Parcel]) -> Parcel:
    """Make one object of several that follow one another; its digest is the sum of theirs.

    Raises:
        NotALakeObjectError: the bytes of one are none, or damaged.
        ValueError: they do not follow one another.
    """
    entries = [one.entry for one in parcels]
    if gaps([Manifest(entries=tuple(entries))]) or entries != sorted(
        entries, key=lambda one: one.first
    ):
        raise ValueError("only objects that follow one another without a hole can be merged")
    form = FORMATS[lane.stream]
    read = [read_parquet(form, one.data) for one in parcels]
    rows = merge_rows([rows for rows, _ in read])
    shapes = {code: shape for _, known in read for code, shape in known.items()}
    data = write_parquet(form, rows, shapes)
    return Parcel(data, merged(entries, rows, len(data)))


def verify(stream: Stream, data: bytes, entry: Entry) -> None:
    """Hold an object against its entry, by decoding all of it, one product at a time.

    Raises:
        NotALakeObjectError: the bytes are no object, are damaged, or hold something else.
    """
    _compare([_sum_of(one) for one in _by_product(stream, data)], entry)


def opened(stream: Stream, data: bytes, entry: Entry) -> list[Message]:
    """Return the messages of an object once they are known to be those of its entry.

    Raises:
        NotALakeObjectError: the bytes are no object, are damaged, or hold something else.
    """
    products = list(_by_product(stream, data))
    _compare([_sum_of(one) for one in products], entry)
    return _in_order(products)


class _Sum(NamedTuple):
    """What messages are compared by."""

    messages: int
    rows: int
    digest: str


def _sum_of(messages: Sequence[Message]) -> _Sum:
    rows = sum(one.payload.count(b"\n") + 1 for one in messages)
    return _Sum(len(messages), rows, digest(messages))


def _compare(sums: Sequence[_Sum], entry: Entry) -> None:
    found = _Sum(
        sum(one.messages for one in sums),
        sum(one.rows for one in sums),
        joined(one.digest for one in sums),
    )
    expected = _Sum(entry.messages, entry.rows, entry.digest)
    if found != expected:
        raise NotALakeObjectError(
            "it holds {} messages with {} rows and digest {:.12}…, but should hold {} with {} and "
            "{:.12}…".format(*found, *expected)
        )


def _by_product(stream: Stream, data: bytes) -> Iterator[list[Message]]:
    """Yield the messages of each product: rows are sorted by it, and a message has only one."""
    rows, shapes = read_parquet(FORMATS[stream], data)
    for some in product_slices(rows):
        yield to_messages(some, shapes)


def _in_order(products: Iterable[list[Message]]) -> list[Message]:
    return sorted(itertools.chain.from_iterable(products))
