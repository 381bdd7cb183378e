"""Reads numbers and words out of many lines of text at once, with numpy and without copies.

A canonical line is 300 bytes of which 60 are news. Decoding each as JSON costs 3 µs and would be
most of what archiving costs; here a block of lines is one array of bytes, a value is a pair of
positions in it, and each function reads one value of every line. Nothing here believes the text:
each returns which of the values it could read exactly.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Words = NDArray[np.uint64]

PLACES = 8
"""Decimal places that a number can have to be read; Coinbase and most others send at most 8."""

INTEGER_DIGITS = 10
"""Digits before the point. Together they fill a DECIMAL(18, 8), which Parquet keeps in 8 bytes."""

_MOST_DIGITS = 18
_PAD_BYTES = 512
_COLON, _BREAK, _QUOTE, _DOT, _ZERO, _COMMA = (ord(sign) for sign in ':\n".0,')
_WORD = 8


def _u64(value: int) -> np.uint64:
    return np.uint64(value)


_KEEP = np.array([(2**64 - 1) ^ (2 ** (8 * (_WORD - size)) - 1) for size in range(9)], np.uint64)
"""By how many bytes count: a mask of the last ones, in the order in which they stand in memory."""

_FILL = np.array([0x3030303030303030], np.uint64) & ~_KEEP
_HIGH, _SIXES, _DIGITS = (
    _u64(0xF0F0F0F0F0F0F0F0),
    _u64(0x0606060606060606),
    _u64(0x3333333333333333),
)
_DOTS, _LOW = _u64(0x2E2E2E2E2E2E2E2E), _u64(0x7F7F7F7F7F7F7F7F)
_TEN = 10 ** np.arange(_MOST_DIGITS + 1, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Slices:
    """One piece of text per line: from `start` up to, and without, `end`."""

    start: Ints
    end: Ints

    @property
    def size(self) -> Ints:
        """Bytes of each."""
        return self.end - self.start

    def where(self, kept: Bools) -> "Slices":
        """Return those that are kept."""
        return Slices(self.start[kept], self.end[kept])


class Block:
    """Lines that are looked at together; a few MB, so that they stay in the processor's cache.

    Attributes: starts, ends of the lines; colons, positions of all; first_colon of each line, as
    an index into `colons`; colon_count of each line.
    """

    def __init__(self, text: bytes) -> None:
        """Take text of one or more lines without a break at its end."""
        # Padding, so that reading a little beside a value never leaves the array.
        self._text = b"".join((bytes(_PAD_BYTES), text, b"\n", bytes(_PAD_BYTES)))
        self._bytes: Bytes = np.frombuffer(self._text, np.uint8)
        marks = np.flatnonzero((self._bytes == _COLON) | (self._bytes == _BREAK))
        breaks = np.flatnonzero(self._bytes[marks] == _BREAK)
        self.ends: Ints = marks[breaks]
        self.starts: Ints = np.concatenate(([_PAD_BYTES], self.ends[:-1] + 1))
        self.colons: Ints = np.delete(marks, breaks)
        last_colon = breaks - np.arange(len(breaks))
        self.first_colon: Ints = np.concatenate(([0], last_colon[:-1]))
        self.colon_count: Ints = last_colon - self.first_colon

    def __len__(self) -> int:
        return len(self.ends)

    def line(self, number: int) -> bytes:
        """Return one line, verbatim."""
        return self._text[self.starts[number] : self.ends[number]]

    def are_text(self) -> Bools:
        """Tell which lines are UTF-8; all that our own writers store are."""
        try:
            self._text.decode()
        except UnicodeDecodeError:
            return np.array([_is_text(self.line(number)) for number in range(len(self))])
        return np.ones(len(self), np.bool_)

    def texts(self, slices: Slices) -> pa.Array:
        """Return the text of each slice; they must be UTF-8, follow one another and not overlap."""
        bounds = np.stack((slices.start, slices.end), axis=1).astype(np.int32).ravel()
        pieces = pa.StringArray.from_buffers(
            max(len(bounds) - 1, 0), pa.py_buffer(bounds), pa.py_buffer(self._text)
        )
        return pieces.take(pa.array(np.arange(0, len(bounds), 2)))

    def reads(self, at: Ints, literal: bytes) -> Bools:
        """Tell where the text at these positions is the literal."""
        here = self._view(f"S{len(literal)}", len(literal))[at] == literal
        return np.asarray(here, np.bool_)

    @cached_property
    def quotes(self) -> Ints:
        """Positions of all double quotes, and one beyond the last line."""
        return np.append(np.flatnonzero(self._bytes == _QUOTE), len(self._bytes))

    def equals(self, slices: Slices, names: list[bytes], which: Ints) -> Bools:
        """Tell where the text of a slice is `names[which]`."""
        longest = max(map(len, names))
        sizes = np.array([len(name) for name in names], np.int64)[which]
        same = slices.size == sizes
        for offset in range(0, longest, _WORD):
            parts = [name[offset : offset + _WORD] for name in names]
            expected = np.array([int.from_bytes(part, "little") for part in parts], np.uint64)
            mask = np.array([2 ** (8 * len(part)) - 1 for part in parts], np.uint64)
            same &= self._words(slices.start + offset) & mask[which] == expected[which]
        return np.asarray(same, np.bool_)

    def integers(self, slices: Slices) -> tuple[Ints, Bools]:
        """Read whole numbers as JSON spells them; tell which ones are (at most 18 digits)."""
        size = slices.size
        value, fine = self._number(slices.end, size)
        return value, fine & ((size == 1) | (self._bytes[slices.start] != _ZERO))

    def decimals(self, slices: Slices) -> tuple[Ints, NDArray[np.int8], Bools]:
        """Read plain decimals: value times 10**8, decimal places as written, and which are read."""
        start, end = slices.start, slices.end
        tail = self._words(end - _WORD)
        places = _places(tail & _KEEP[_upto_word(slices.size)])
        places[(places < 0) & (self._bytes[end - 1 - PLACES] == _DOT) & (slices.size > PLACES)] = 8
        whole, fine = self.integers(Slices(start, end - 1 - places))
        fine &= places != 0  # a point with nothing behind it
        places = np.maximum(places, 0)
        part, digits = _digits(tail, places)
        fine &= digits & (whole < _TEN[INTEGER_DIGITS])
        return whole * _TEN[PLACES] + part * _TEN[PLACES - places], places.astype(np.int8), fine

    def _number(self, end: Ints, size: Ints) -> tuple[Ints, Bools]:
        """Read `size` digits that stand before `end`."""
        fine = (size > 0) & (size <= _MOST_DIGITS)
        value = np.zeros(len(end), np.int64)
        longest = int(size.max(initial=0, where=fine))
        for offset in range(0, longest, _WORD):
            word = self._words(end - offset - _WORD)
            part, digits = _digits(word, _upto_word(size - offset))
            fine &= digits
            value += part * _TEN[offset]
        return value, fine

    def _words(self, at: Ints) -> Words:
        """Return 8 bytes from each position, the first one lowest."""
        return np.asarray(self._view("<u8", _WORD)[at], np.uint64)

    def _view(self, kind: str, size: int) -> NDArray[np.generic]:
        """Return the text as one value of this kind per byte, each beginning at that byte."""
        count = len(self._text) - size + 1
        return np.ndarray((count,), np.dtype(kind), self._text, strides=(1,))


def _is_text(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _digits(word: Words, used: Ints) -> tuple[Ints, Bools]:
    """Read the last `used` of eight digits; tell where they are digits."""
    word = word & _KEEP[used] | _FILL[used]
    fine = (word & _HIGH) | (((word + _SIXES) & _HIGH) >> _u64(4)) == _DIGITS
    return _eight_digits(word).view(np.int64), fine


def _upto_word(size: Ints) -> Ints:
    return np.minimum(np.maximum(size, 0), _WORD)


def _places(word: Words) -> Ints:
    """Return how many bytes stand behind the first dot of eight; -1 where there is none."""
    word = word ^ _DOTS
    dots = ~(((word & _LOW) + _LOW) | word | _LOW)
    return 7 - (np.bitwise_count((dots & -dots) - _u64(1)) >> 3).astype(np.int64)


def _eight_digits(word: Words) -> Words:
    """Turn eight ASCII digits into their number: pairs, then fours, then all (Lemire, 2018)."""
    word = (word & _u64(0x0F0F0F0F0F0F0F0F)) * _u64(2561) >> _u64(8)
    word = (word & _u64(0x00FF00FF00FF00FF)) * _u64(6553601) >> _u64(16)
    return (word & _u64(0x0000FFFF0000FFFF)) * _u64(42949672960001) >> _u64(32)
