"""Compares what a candidate says with what was archived: lines of one product, two texts in order.

The texts come in pieces of whole lines, and how they are cut does not matter. Equal text is
compared as it stands, however long; only where it differs are lines looked at, and aligned again
by what they are about (type, feed, number) within a bounded window. Pure: knows neither where the
lines come from nor what becomes of the differences.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import msgspec

from models.canonical import FEEDS
from models.decoding import UNREADABLE

Kind = Literal["changed", "missing", "extra"]

WINDOW_BYTES = 256 * 1024
"""So far ahead a line is looked for that the other side has next: about a thousand ticks."""

_PROBE_BYTES = 4096

OTHER = "other"
"""Feed of lines that are no canonical messages."""

_FEED_TEXTS = {feed: f'"feed":"{feed}"'.encode() for feed in sorted(FEEDS)}
_name_of = re.compile(rb'\{"v":1,[^{}\[\]\n]*?"(?:seq|since)":\d+,').match
_topic_of = re.compile(rb'\{"v":1,"type":"\w+",[^{}\[\]\n]*?"feed":"\w+",').match


class Head(msgspec.Struct, frozen=True):
    """What a line is about; of a line that is no canonical message nothing is known."""

    type: str = ""
    feed: str = OTHER
    seq: int | None = None
    since: int | None = None
    ts_snapshot: int | None = None
    ts_ingest: int | None = None

    @property
    def time_us(self) -> int:
        """When its record was received, or the nearest to that which the line tells."""
        return self.ts_ingest or self.since or self.ts_snapshot or 0


_decode_head = msgspec.json.Decoder(Head).decode


def head_of(line: bytes) -> Head:
    """Read what a line is about."""
    try:
        return _decode_head(line)
    except UNREADABLE:
        return Head()


@dataclass(frozen=True, slots=True)
class Difference:
    """One line that is not as it should be.

    `expected`: as archived, none if the candidate says more; `actual`: as the candidate says it,
    none if it does not. `at`: how many lines the candidate had said before this place.
    """

    kind: Kind
    expected: bytes | None
    actual: bytes | None
    at: int

    @property
    def head(self) -> Head:
        """What the line is about, as archived if it was."""
        return head_of(self.expected if self.expected is not None else self.actual or b"")


@dataclass(slots=True)
class Tally:
    """Lines of one feed. `unjudged`: at the end, where it cannot be told whether they belong."""

    equal: int = 0
    changed: int = 0
    missing: int = 0
    extra: int = 0
    unjudged: int = 0


@dataclass(frozen=True, slots=True)
class End:
    """What is known at the end of a range that ends in the middle of both logs.

    `applied_us`: when the candidate's last record was received: later archived lines were said of
    later records. `archived_us`: when the newest archived line was received: later ones of the
    candidate were perhaps not archived yet; none if they were. `closed`: feeds whose gate is
    closed: what it holds is said later, with an earlier time.
    """

    applied_us: int
    archived_us: int | None = None
    closed: Collection[str] = ()


class Comparison:
    """Attributes: tallies, by feed; said, lines of the candidate that have been judged."""

    def __init__(self, *, window_bytes: int = WINDOW_BYTES) -> None:
        """Begin with nothing on either side."""
        self._window_bytes = window_bytes
        self._expected, self._actual = bytearray(), bytearray()
        self._expected_ended = self._actual_ended = False
        self.tallies: dict[str, Tally] = {}
        self.said = 0

    @property
    def wants_expected(self) -> bool:
        """Whether more of what was archived is needed to judge what the candidate has said."""
        short = len(self._expected) < self._window_bytes
        return bool(self._actual) and short and not self._expected_ended

    def say(self, text: bytes) -> None:
        """Take lines as the candidate says them, each with a break behind it."""
        self._actual += text

    def expect(self, text: bytes) -> None:
        """Take lines as they were archived, each with a break behind it."""
        self._expected += text

    def expect_no_more(self) -> None:
        """Note that all archived lines have been given."""
        self._expected_ended = True

    def step(self) -> list[Difference]:
        """Compare as far as both sides have come; return what differs, in order."""
        found: list[Difference] = []
        while self._skip_equal() and self._can_align():
            found += self._align()
        return found

    def finish(self, end: End | None = None) -> list[Difference]:
        """Compare what is left, when neither side says more; return the last differences.

        Without an `end` both sides are known to be whole, and all that is left is a difference.
        """
        self._expected_ended = self._actual_ended = True
        found = self.step()
        missing, extra = (bytes(text).splitlines() for text in (self._expected, self._actual))
        for line in missing:
            head = head_of(line)
            if end is None or (head.time_us <= end.applied_us and head.feed not in end.closed):
                found.append(self._missing(line))
            elif head.feed in end.closed:
                self._tally(line).unjudged += 1
        for line in extra:
            if end is not None and _is_later(line, end.archived_us):
                self._tally(line).unjudged += 1
                self.said += 1
            else:
                found.append(self._extra(line))
        self._expected.clear()
        self._actual.clear()
        return found

    def _skip_equal(self) -> bool:
        """Count and drop what is equal; tell whether both sides have something left."""
        size = min(len(self._expected), len(self._actual))
        if self._expected[:_PROBE_BYTES] != self._actual[:_PROBE_BYTES]:
            size = min(size, _PROBE_BYTES)  # not worth copying more
        expected, actual = bytes(self._expected[:size]), bytes(self._actual[:size])
        if expected != actual:
            size = expected.rfind(b"\n", 0, _first_difference(expected, actual)) + 1
            expected = expected[:size]
        if size:
            self._count_equal(expected)
            del self._expected[:size]
            del self._actual[:size]
        return bool(self._expected) and bool(self._actual)

    def _count_equal(self, text: bytes) -> None:
        lines = other = text.count(b"\n")
        for feed, mark in _FEED_TEXTS.items():
            count = text.count(mark)
            if count:
                self.tallies.setdefault(feed, Tally()).equal += count
                other -= count
        if other:
            self.tallies.setdefault(OTHER, Tally()).equal += other
        self.said += lines

    def _can_align(self) -> bool:
        """Tell whether each side has a window's text, or all that it will have."""
        enough = self._window_bytes
        return (self._expected_ended or len(self._expected) >= enough) and (
            self._actual_ended or len(self._actual) >= enough
        )

    def _align(self) -> list[Difference]:
        """Take lines off both sides up to where they are about the same again."""
        expected, actual = _first_line(self._expected), _first_line(self._actual)
        if _name(expected) == _name(actual):
            return [self._changed()]
        missing = self._lines_before(self._expected, _name(actual))
        extra = self._lines_before(self._actual, _name(expected))
        if missing is not None and (extra is None or missing <= extra):
            return [self._missing(_take_line(self._expected)) for _ in range(missing)]
        if extra is not None:
            return [self._extra(_take_line(self._actual)) for _ in range(extra)]
        if _topic(expected) == _topic(actual):
            return [self._changed()]
        return [
            self._missing(_take_line(self._expected)),
            self._extra(_take_line(self._actual)),
        ]

    def _lines_before(self, text: bytearray, name: bytes) -> int | None:
        """Return how many lines of the window stand before the one of that name, if any has it."""
        at = text.find(b"\n" + name, 0, self._window_bytes)
        return None if at < 0 else text.count(b"\n", 0, at + 1)

    def _changed(self) -> Difference:
        expected, actual = _take_line(self._expected), _take_line(self._actual)
        self._tally(expected).changed += 1
        self.said += 1
        return Difference("changed", expected, actual, self.said - 1)

    def _missing(self, line: bytes) -> Difference:
        self._tally(line).missing += 1
        return Difference("missing", line, None, self.said)

    def _extra(self, line: bytes) -> Difference:
        self._tally(line).extra += 1
        self.said += 1
        return Difference("extra", None, line, self.said - 1)

    def _tally(self, line: bytes) -> Tally:
        return self.tallies.setdefault(head_of(line).feed, Tally())


def _first_difference(one: bytes, other: bytes) -> int:
    """Return where two different texts of the same length begin to differ."""
    low, high = 0, len(one)
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low


def _first_line(text: bytearray) -> bytes:
    return bytes(text[: text.index(b"\n")])


def _take_line(text: bytearray) -> bytes:
    line = _first_line(text)
    del text[: len(line) + 1]
    return line


def _name(line: bytes) -> bytes:
    """Return the beginning that two lines share which ought to be the same."""
    found = _name_of(line)
    return line if found is None else found[0]


def _topic(line: bytes) -> bytes:
    """Return the beginning that lines of one type and feed share."""
    found = _topic_of(line)
    return line if found is None else found[0]


def _is_later(line: bytes, time_us: int | None) -> bool:
    return time_us is not None and head_of(line).time_us > time_us
