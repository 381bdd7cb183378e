"""The ways in which a line can be spelled: constant text around named slots.

One template is both parser and printer: `Shape.read` finds the slots in many lines at once and
`Shape.write` puts their values back, so a line that was read comes out byte for byte. A value
stands after a colon and holds none itself, so the colons of a line say where everything is.
"""

import re
import zlib
from functools import lru_cache
from itertools import product

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.levels import levels_text, read_levels
from storage.numbers import decimal_array, decimal_text
from storage.scan import Block, Bools, Ints, Slices

NUMBERS = frozenset({"trade_px", "trade_qty", "bid_px", "bid_qty", "ask_px", "ask_qty", "last_px"})
"""Slots of exact decimals; each has a second column, `<name>_places`."""

LISTS = frozenset({"changes", "bids", "asks"})
"""Slots of levels."""

TIMES = frozenset({"ts_event", "ts_ingest"})
"""Slots of microseconds since 1970 UTC."""

INTEGERS = frozenset({"seq", "prev_seq", "trade_id", "gap_after", "gap_before", "n"}) | TIMES
"""Slots of whole numbers."""

TO_THE_END = "frame"
"""A slot that may hold anything at all, up to the last sign of the line."""

_SLOT = re.compile(r"<(\w+)>")
_SIDES = ("buy", "sell")


class Shape:
    """One spelling.

    Attributes: template; code, which names it in the rows of an object; slots, in order; type and
    feed of the lines that are spelled so; colons in the template; ends_anywhere, whether the last
    slot may hold colons of its own.
    """

    def __init__(self, template: str, kind: str | None = None, feed: str | None = None) -> None:
        self.template, self.type, self.feed = template, kind, feed
        self.code = zlib.crc32(template.encode()) & 0x7FFFFFFF
        parts = _SLOT.split(template)
        self.slots = tuple(parts[1::2])
        self._literals = [part.encode() for part in parts[::2]]
        self.colons = template.count(":")
        self.ends_anywhere = self.slots[-1] == TO_THE_END

    def candidates(self, block: Block, open_: Bools) -> Ints:
        """Return those of the open lines that have the colons of this shape."""
        if self.ends_anywhere:
            return np.flatnonzero(open_ & (block.colon_count >= self.colons))
        return np.flatnonzero(open_ & (block.colon_count == self.colons))

    def read(
        self, block: Block, lines: Ints, names: list[bytes], which: Ints
    ) -> tuple[Ints, dict[str, pa.Array]]:
        """Return those of the lines that are spelled so, and the columns of their values.

        `names[which]` is the name of the product that each of the block's lines must be of.
        """
        if not len(lines):
            return lines, {}
        found, fine = self._find(block, lines)
        lines, found = lines[fine], {slot: slices.where(fine) for slot, slices in found.items()}
        columns: dict[str, pa.Array] = {}
        fine = np.ones(len(lines), np.bool_)
        for slot, slices in found.items():
            if slot == "product":
                fine &= block.equals(slices, names, which[lines])
            elif len(lines):
                read, those = _read(block, slot, slices)
                columns |= read
                fine &= those
        if fine.all():
            return lines, columns
        kept = pa.array(fine)
        return lines[fine], {name: column.filter(kept) for name, column in columns.items()}

    def _find(self, block: Block, lines: Ints) -> tuple[dict[str, Slices], Bools]:
        """Return where the slots are, and in which lines the text around them is the template's."""
        first, end_of_line = block.first_colon[lines], block.ends[lines]
        at, colons = block.starts[lines], 0
        fine = np.ones(len(lines), np.bool_)
        found = {}
        for number, slot in enumerate(self.slots):
            literal, after = self._literals[number : number + 2]
            colons += literal.count(b":")
            fine &= block.reads(at, literal)
            start = at + len(literal)
            if b":" in after:
                at = block.colons[first + colons] - after.index(b":")
            else:
                at = end_of_line - len(after)
            fine &= start <= at
            found[slot] = Slices(start, at)
            if not fine.any():
                return found, fine
        literal = self._literals[-1]
        fine &= block.reads(at, literal) & (at + len(literal) == end_of_line)
        return found, fine

    def write(self, rows: pa.Table) -> pa.Array:
        """Spell rows."""
        parts: list[pa.Array | pa.Scalar] = [pa.scalar(self._literals[0].decode())]
        for slot, literal in zip(self.slots, self._literals[1:], strict=True):
            parts += [_written(rows, slot), pa.scalar(literal.decode())]
        return pc.binary_join_element_wise(*parts, "")


def _read(block: Block, slot: str, slices: Slices) -> tuple[dict[str, pa.Array], Bools]:
    """Return the columns that one slot fills, and which values could be read."""
    if slot in INTEGERS:
        value, fine = block.integers(slices)
        return {slot: pa.array(value)}, fine
    if slot in NUMBERS:
        value, places, fine = block.decimals(slices)
        return {slot: decimal_array(value), f"{slot}_places": pa.array(places)}, fine
    if slot in LISTS:
        lists, fine = read_levels(block, slices, sided=slot == "changes")
        return {slot: lists}, fine
    if slot == "side":
        buys, sells = (
            block.reads(slices.start, side.encode()) & (slices.size == len(side)) for side in _SIDES
        )
        return {slot: pa.array(_SIDES).take(pa.array(sells.astype(np.int8)))}, buys | sells
    texts = block.texts(slices)
    if slot == TO_THE_END:
        return {slot: texts}, np.ones(len(texts), np.bool_)
    return {slot: texts}, ~pc.match_substring_regex(texts, r'["\\]').to_numpy(zero_copy_only=False)


def _written(rows: pa.Table, slot: str) -> pa.Array:
    values = _whole(rows, slot)
    if slot in TIMES:
        values = values.cast(pa.int64())
    if slot in INTEGERS:
        return values.cast(pa.string())
    if slot in NUMBERS:
        return decimal_text(values, _whole(rows, f"{slot}_places"))
    if slot in LISTS:
        return levels_text(values)
    return values.cast(pa.string())


def _whole(rows: pa.Table, name: str) -> pa.Array:
    """Return a column in one piece."""
    return rows.column(name).combine_chunks()


@lru_cache(maxsize=64)
def canonical_shapes(venue: str) -> tuple[Shape, ...]:
    """Return every spelling of `streaming.core.writer` and the venues' mappers, frequent first."""
    trade = '"last_trade":{"px":<trade_px>,"qty":<trade_qty>,"side":"<side>","id":<trade_id>}'
    quotes = {
        side: (
            f'"best_{side}":{{"px":<{side}_px>,"qty":<{side}_qty>}}',
            f'"best_{side}":{{"px":<{side}_px>}}',
            "",
        )
        for side in ("bid", "ask")
    }
    firsts = (trade, '"last_px":<last_px>', "")
    states = [
        ("book", '{"changes":<changes>}'),
        *[
            ("ticker", "{" + ",".join(filter(None, parts)) + "}")
            for parts in product(firsts, quotes["bid"], quotes["ask"])
        ],
        ("trades", f"{{{trade}}}"),
        ("trades", "{}"),
        ("book", '{"bids":<bids>,"asks":<asks>}'),
    ]
    return (
        *[_tick(venue, feed, state) for feed, state in states],
        *[
            _snapshot(venue, feed, state, resync)
            for (feed, state), resync in product(states, _RESYNCS)
        ],
        *[
            _status(venue, feed, gap, resync)
            for feed, gap, resync in product(("ticker", "trades", "book"), _GAPS, _RESYNCS)
        ],
    )


_RESYNCS = ("null", '"<resync_id>"')
_GAPS = (
    "null",
    '{"after":<gap_after>,"before":<gap_before>}',
    '{"after":<gap_after>,"before":null}',
)


def _shape(venue: str, kind: str, feed: str, rest: str) -> Shape:
    head = f'{{"v":1,"type":"{kind}","venue":"{venue}","product":"<product>","feed":"{feed}",'
    return Shape(head + rest, kind, feed)


def _tick(venue: str, feed: str, fields: str) -> Shape:
    return _shape(
        venue,
        "tick",
        feed,
        '"seq":<seq>,"prev_seq":<prev_seq>,"ts_event":<ts_event>,"ts_ingest":<ts_ingest>,'
        f'"fields":{fields}}}',
    )


def _snapshot(venue: str, feed: str, state: str, resync: str) -> Shape:
    return _shape(
        venue,
        "snapshot",
        feed,
        f'"seq":<seq>,"ts_snapshot":<ts_event>,"reason":"<reason>","resync_id":{resync},'
        f'"state":{state}}}',
    )


def _status(venue: str, feed: str, gap: str, resync: str) -> Shape:
    return _shape(
        venue,
        "status",
        feed,
        f'"state":"<state>","since":<ts_event>,"gap":{gap},"resync_id":{resync}}}',
    )


def raw_shapes(_venue: str) -> tuple[Shape, ...]:
    """Return the spelling of a venue's frame (`models.records.frame_line`)."""
    line = '{"ts_ingest":<ts_ingest>,"conn":"<conn>","n":<n>,"frame":<frame>}'
    return (Shape(line, "frame"),)
