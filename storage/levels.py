"""Levels of a book, from text to nested columns and back: `[["bid","65123.40","0.5"],…]`.

A list is read only if it is spelled exactly so, with nothing between its signs.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.numbers import DECIMAL, decimal_array, decimal_text
from storage.scan import Block, Bools, Ints, Slices

_SIDES = (b"bid", b"ask")
_QUOTE_BYTES = 1

_NUMBERS = [
    pa.field("px", DECIMAL, nullable=False),
    pa.field("qty", DECIMAL, nullable=False),
    pa.field("px_places", pa.int8(), nullable=False),
    pa.field("qty_places", pa.int8(), nullable=False),
]
LEVELS = pa.list_(pa.struct(_NUMBERS))
"""A side of a snapshot."""

CHANGES = pa.list_(pa.struct([pa.field("side", pa.string(), nullable=False), *_NUMBERS]))
"""What a tick of the book changes."""


def read_levels(block: Block, lists: Slices, *, sided: bool) -> tuple[pa.ListArray, Bools]:
    """Read one list per line; tell which ones are. Those that are not are empty in the result."""
    texts, quotes = 3 if sided else 2, block.quotes
    first, last = np.searchsorted(quotes, (lists.start, lists.end))
    count, odd = np.divmod(last - first, 2 * texts)
    fine = (odd == 0) & _bracketed(block, lists, first, last, count)
    while True:
        # A list with anything unreadable in it is emptied, and the rest is read once more.
        count = np.where(fine, count, 0)
        marks = quotes[_ranges(first, count * 2 * texts)].reshape(-1, 2 * texts)
        entries, read = _read_entries(block, marks, count, sided=sided)
        if read.all():
            break
        bad = np.repeat(np.arange(len(count)), count)[~read]
        fine[bad] = False
    offsets = np.concatenate(([0], np.cumsum(count))).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), entries), fine


def _bracketed(block: Block, lists: Slices, first: Ints, last: Ints, count: Ints) -> Bools:
    """Tell which texts begin and end as a list does."""
    quotes = block.quotes
    begins = block.reads(lists.start, b'[["') & (quotes[first] == lists.start + 2)
    ends = block.reads(lists.end - 3, b'"]]') & (quotes[last - 1] == lists.end - 3)
    empty = block.reads(lists.start, b"[]") & (lists.size == len(b"[]"))
    return np.asarray(np.where(count > 0, begins & ends, empty), np.bool_)


def _ranges(first: Ints, count: Ints) -> Ints:
    """Return first, first + 1, … of each, one after the other."""
    total = np.cumsum(count)
    here = np.arange(total[-1] if len(total) else 0)
    return np.asarray(here + np.repeat(first - total + count, count), np.int64)


def _read_entries(
    block: Block, marks: Ints, count: Ints, *, sided: bool
) -> tuple[pa.StructArray, Bools]:
    """Read the entries whose quotes are given, a row each; tell which ones are as they should."""
    fine = _separated(block, marks, count)
    texts = [
        Slices(marks[:, opening] + _QUOTE_BYTES, marks[:, opening + 1])
        for opening in range(0, marks.shape[1], 2)
    ]
    columns: list[pa.Array] = []
    if sided:
        side = texts.pop(0)
        is_side = [block.reads(side.start, name) for name in _SIDES]
        fine &= (side.size == len(_SIDES[0])) & (is_side[0] | is_side[1])
        names = pa.array([name.decode() for name in _SIDES])
        columns.append(names.take(pa.array(is_side[1].astype(np.int8))))
    numbers, places = [], []
    for text in texts:
        value, sent, read = block.decimals(text)
        fine &= read
        numbers.append(decimal_array(np.where(read, value, 0)))
        places.append(pa.array(np.where(read, sent, 0).astype(np.int8)))
    kind = CHANGES if sided else LEVELS
    fields = [kind.value_type.field(number) for number in range(kind.value_type.num_fields)]
    return pa.StructArray.from_arrays([*columns, *numbers, *places], fields=fields), fine


def _separated(block: Block, marks: Ints, count: Ints) -> Bools:
    """Tell which entries have `","` between their texts and `"],["` before the next one."""
    fine = np.ones(len(marks), np.bool_)
    for closing in range(1, marks.shape[1] - 1, 2):
        fine &= (marks[:, closing + 1] == marks[:, closing] + 2) & block.reads(
            marks[:, closing], b'","'
        )
    last = np.cumsum(count)[count > 0] - 1
    inner = np.ones(len(marks), np.bool_)
    inner[last] = False
    follows = np.zeros(len(marks), np.bool_)
    follows[:-1] = marks[1:, 0] == marks[:-1, -1] + len(b'"],["') - 1
    return np.asarray(fine & (~inner | (follows & block.reads(marks[:, -1], b'"],["'))))


def levels_text(lists: pa.ListArray) -> pa.StringArray:
    """Spell lists of levels as they were."""
    entries = lists.flatten()
    numbers = [
        decimal_text(pc.struct_field(entries, name), pc.struct_field(entries, f"{name}_places"))
        for name in ("px", "qty")
    ]
    parts = [pa.scalar('["')]
    if entries.type.get_field_index("side") >= 0:
        parts += [pc.struct_field(entries, "side"), pa.scalar('","')]
    parts += [numbers[0], pa.scalar('","'), numbers[1], pa.scalar('"]')]
    spelled = pc.binary_join_element_wise(*parts, "")
    sizes = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
    offsets = np.concatenate(([0], np.cumsum(sizes))).astype(np.int32)
    joined = pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), spelled), ",")
    return pc.binary_join_element_wise(pa.scalar("["), joined, pa.scalar("]"), "")
