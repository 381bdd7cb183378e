"""Lines of the log to rows of a table, and back, byte for byte.

Knows neither files nor object stores. What no shape describes is kept verbatim, so nothing is
lost and nothing has to be refused.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.canonical import FEEDS
from models.decoding import UNREADABLE
from models.subjects import product_of
from storage.scan import Block, Ints
from storage.schema import Format
from storage.shapes import Shape

_BLOCK_BYTES = 2 * 1024**2
_FEEDS = sorted(FEEDS)
_ROW_BITS = 40
_NO_SHAPE = -1


class Stored(Protocol):
    """A message of the log, as `streaming.broker.log.LogMessage` is one."""

    @property
    def subject(self) -> str:
        """Where it was published."""

    @property
    def seq(self) -> int:
        """Its position."""

    @property
    def payload(self) -> bytes:
        """NDJSON."""


class Message(NamedTuple):
    """A message of the log, from the lake: position, product and NDJSON, verbatim."""

    position: int
    product: str
    payload: bytes


class _Head(msgspec.Struct):
    """What is still understood of a line that no shape describes; any of it may be anything."""

    type: Any = None
    feed: Any = None
    seq: Any = None
    prev_seq: Any = None
    ts_event: Any = None
    ts_snapshot: Any = None
    since: Any = None
    ts_ingest: Any = None
    conn: Any = None
    n: Any = None


_decode_head = msgspec.json.Decoder(_Head).decode


class _Lines(NamedTuple):
    """Of each line, in the order of the log: its message's position, its number, its product."""

    position: Ints
    line: Ints
    product: Ints


def messages_of(stored: Iterable[Stored]) -> list[Message]:
    """Return the log's messages as the lake knows them."""
    return [Message(one.seq, product_of(one.subject)[1], one.payload) for one in stored]


def to_rows(form: Format, venue: str, messages: Sequence[Message]) -> pa.Table:
    """Return the lines of the messages as sorted rows."""
    codes = {name: code for code, name in enumerate(sorted({one.product for one in messages}))}
    names = [name.encode() for name in codes]
    pieces: list[pa.Table] = []
    lines: list[_Lines] = []
    first = 0
    for position, product, payloads in _bunches(messages):
        block = Block(b"\n".join(payloads))
        which = np.fromiter(map(codes.__getitem__, product), np.int64, len(product))
        lines.append(_lines(block, np.array(position, np.int64), which, payloads))
        pieces += _pieces(form, venue, block, names, lines[-1].product, first)
        first += len(block)
    return _sorted(form, pieces, _Lines(*map(np.concatenate, zip(*lines, strict=True))), codes)


_Bunch = tuple[list[int], list[str], list[bytes]]


def _bunches(messages: Sequence[Message]) -> Iterator[_Bunch]:
    """Yield positions, products and payloads of some MB of messages at a time."""
    # Not `zip(*messages)`, which makes an iterator of each and took a quarter of all the time.
    positions = [one.position for one in messages]
    products = [one.product for one in messages]
    payloads = [one.payload for one in messages]
    upto = np.cumsum(np.fromiter(map(len, payloads), np.int64, len(payloads)))
    first = 0
    while first < len(payloads):
        start = upto[first - 1] if first else 0
        last = int(np.searchsorted(upto, start + _BLOCK_BYTES)) + 1
        yield positions[first:last], products[first:last], payloads[first:last]
        first = last


def _lines(block: Block, position: Ints, product: Ints, payloads: Sequence[bytes]) -> _Lines:
    sizes = np.fromiter(map(len, payloads), np.int64, len(payloads)) + 1
    # A message ends where one of its lines does.
    upto = np.searchsorted(block.ends, block.starts[0] + np.cumsum(sizes) - 1) + 1
    counts = np.diff(upto, prepend=0)
    number = np.arange(len(block)) - np.repeat(upto - counts, counts)
    return _Lines(np.repeat(position, counts), number, np.repeat(product, counts))


def _pieces(
    form: Format, venue: str, block: Block, names: list[bytes], which: Ints, first: int
) -> Iterator[pa.Table]:
    """Yield a table for each shape that lines of the block have, and one for all the others."""
    is_text = block.are_text()
    unread = is_text.copy()
    colons = set(np.unique(block.colon_count).tolist())
    for shape in form.shapes(venue):
        if shape.ends_anywhere or shape.colons in colons:
            read, columns = shape.read(block, shape.candidates(block, unread), names, which)
            if len(read):
                unread[read] = False
                yield _piece(form, columns, first + read, shape)
    others = np.flatnonzero(unread | ~is_text)
    if len(others):
        yield _verbatim(form, [block.line(number) for number in others.tolist()], first + others)


def _piece(form: Format, columns: dict[str, pa.Array], rows: Ints, shape: Shape) -> pa.Table:
    count = len(rows)
    constants = {"type": shape.type, "feed": shape.feed, "shape": shape.code}
    for name, value in constants.items():
        if name in form.schema.names and value is not None:
            columns[name] = pa.repeat(pa.scalar(value, form.schema.field(name).type), count)
    return _table(form, columns, rows)


def _verbatim(form: Format, lines: list[bytes], rows: Ints) -> pa.Table:
    columns: dict[str, pa.Array] = {"verbatim": pa.array(lines, pa.binary())}
    heads = [_head(line) for line in lines]
    for name, allowed in _HEAD_COLUMNS.items():
        if name in form.schema.names:
            values = [value if allowed(value := getattr(head, name)) else None for head in heads]
            columns[name] = pa.array(values, form.schema.field(name).type)
    return _table(form, columns, rows)


def _head(line: bytes) -> _Head:
    try:
        head = _decode_head(line)
    except UNREADABLE:
        return _Head()
    if head.ts_event is None:
        head.ts_event = head.since if head.ts_snapshot is None else head.ts_snapshot
    return head


def _is_int64(value: object) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


def _is_text(value: object) -> bool:
    return isinstance(value, str)


_HEAD_COLUMNS: Mapping[str, Callable[[object], bool]] = {
    "type": _is_text,
    "feed": FEEDS.__contains__,
    **dict.fromkeys(("seq", "prev_seq", "ts_event", "ts_ingest", "n"), _is_int64),
    "conn": _is_text,
}


def _table(form: Format, columns: dict[str, pa.Array], rows: Ints) -> pa.Table:
    """Return a table of some of the schema's columns and the number of each line."""
    typed = {
        name: column
        if column.type == form.schema.field(name).type
        else column.cast(form.schema.field(name).type)
        for name, column in columns.items()
    }
    return pa.table({"row": pa.array(rows), **typed})


def _sorted(form: Format, pieces: list[pa.Table], lines: _Lines, names: Iterable[str]) -> pa.Table:
    """Put the pieces together: by product, feed, position and line."""
    table = pa.concat_tables(pieces, promote_options="default").combine_chunks()
    row = table.column("row").to_numpy()
    product = lines.product[row]
    order = np.argsort(((product * 4 + _feed_order(table)) << _ROW_BITS) | row)
    row, product = row[order], product[order]
    table = table.take(pa.array(order))
    columns = {name: table.column(name) for name in table.column_names}
    columns["product"] = pa.array(list(names)).take(pa.array(product))
    columns["position"] = pa.array(lines.position[row])
    columns["line"] = pa.array(lines.line[row].astype(np.int32))
    return pa.table(
        [
            columns[field.name] if field.name in columns else pa.nulls(len(row), field.type)
            for field in form.schema
        ],
        schema=form.schema,
    )


def merge_rows(tables: Sequence[pa.Table]) -> pa.Table:
    """Return the rows of several ranges, each sorted and in the order of the log, sorted anew."""
    table = pa.concat_tables(tables).combine_chunks()
    product = pc.rank(table.column("product"), tiebreaker="dense").to_numpy().astype(np.int64)
    order = np.argsort(product * 4 + _feed_order(table), kind="stable")
    return table.take(pa.array(order))


def _feed_order(table: pa.Table) -> Ints | int:
    if "feed" not in table.column_names:
        return 0
    known = pc.index_in(table.column("feed"), value_set=pa.array(_FEEDS))
    return np.asarray(pc.fill_null(known, len(_FEEDS)).to_numpy(), np.int64)


def product_slices(table: pa.Table) -> Iterator[pa.Table]:
    """Yield the rows of each product of a sorted table, without copying them."""
    if len(table) == 0:
        return
    codes = table.column("product").combine_chunks().dictionary_encode().indices.to_numpy()
    starts = np.flatnonzero(np.diff(codes, prepend=-1)).tolist()
    for start, end in pairwise([*starts, len(table)]):
        yield table.slice(start, end - start)


def to_lines(table: pa.Table, shapes: Mapping[int, Shape]) -> list[bytes]:
    """Spell rows, in their order. `shapes`: by code, those that the rows name."""
    code = pc.fill_null(table.column("shape"), _NO_SHAPE).to_numpy()
    lines = np.empty(len(table), object)
    for kind in np.unique(code).tolist():
        rows = np.flatnonzero(code == kind)
        some = table if len(rows) == len(table) else table.take(pa.array(rows))
        text = some.column("verbatim") if kind == _NO_SHAPE else shapes[kind].write(some)
        lines[rows] = text.cast(pa.binary()).to_numpy(zero_copy_only=False)
    return list(lines)


def to_text(table: pa.Table, shapes: Mapping[int, Shape]) -> tuple[bytes, Ints]:
    """Spell rows, in their order, each with a break behind it: as `to_lines`, in one piece.

    Return the text, and where in it each row begins, with one more for the end.
    """
    code = pc.fill_null(table.column("shape"), _NO_SHAPE).to_numpy()
    texts: list[pa.Array] = [pa.array([], pa.large_binary())]
    numbers: list[Ints] = [np.zeros(0, np.int64)]
    for kind in np.unique(code).tolist():
        rows = np.flatnonzero(code == kind)
        some = table if len(rows) == len(table) else table.take(pa.array(rows))
        text = some.column("verbatim") if kind == _NO_SHAPE else shapes[kind].write(some)
        whole = text.combine_chunks() if isinstance(text, pa.ChunkedArray) else text
        texts.append(whole.cast(pa.large_binary()))
        numbers.append(rows)
    lines = pa.concat_arrays(texts).take(pa.array(np.argsort(np.concatenate(numbers))))
    nothing, line_break = (pa.scalar(sign, pa.large_binary()) for sign in (b"", b"\n"))
    broken = pc.binary_join_element_wise(lines, nothing, line_break)
    _, offsets, data = broken.buffers()
    start = np.frombuffer(offsets, np.int64)[broken.offset : broken.offset + len(table) + 1]
    text_bytes = data.slice(start[0], start[-1] - start[0]).to_pybytes() if len(table) else b""
    return text_bytes, start - start[0]


def to_messages(table: pa.Table, shapes: Mapping[int, Shape]) -> list[Message]:
    """Return the messages that the rows hold, whole and in the order of the log."""
    position, line = (table.column(name).to_numpy() for name in ("position", "line"))
    order = np.lexsort((line, position))
    position, table = position[order], table.take(pa.array(order))
    lines, names = to_lines(table, shapes), table.column("product")
    starts = np.flatnonzero(np.diff(position, prepend=-1)).tolist()
    products = names.take(pa.array(starts, pa.int64())).to_pylist()
    return [
        Message(int(position[start]), product, b"\n".join(lines[start:end]))
        for start, end, product in zip(starts, [*starts[1:], len(lines)], products, strict=True)
    ]
