"""Judges one slice of the past: raw messages through a candidate, against the archived ticks.

Synchronous and streaming: of each lane three objects are in memory as they are stored, of each at
most two row groups unpacked, and of one product what one object has of it as text. Reads by a
function that is handed in; what it finds is positions, counts and differences.
`activities.candidate` runs it in a thread.
"""

from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from models.canary import Divergence
from models.events import Decode
from storage.errors import DamagedError, StorageError
from storage.lake import Found
from storage.layout import Lane
from storage.manifest import Entry
from storage.parquet import NotALakeObjectError
from storage.product_rows import Passage, ProductRows
from streaming.core.compare import Comparison, Difference, End, head_of
from streaming.core.normalizer import ProductNormalizer
from streaming.core.outputs import Outputs

CHUNK_LINES = 4096
"""Raw records that are applied before what came of them is compared."""

_KEPT_OBJECTS = 3
_KEPT_PIECES = 4

Fetch = Callable[[Found], tuple[bytes, Entry]]
"""Gives an object's bytes, and the entry of what they are: of what it was merged into meanwhile."""


class CandidateError(Exception):
    """A record of the past has made the candidate fail; the text names it."""


class Shelf:
    """Objects of a lane, in order of position, opened when they are needed.

    Attributes: lane, objects.
    """

    def __init__(self, lane: Lane, objects: Sequence[Found], fetch: Fetch) -> None:
        self.lane, self.objects, self._fetch = lane, list(objects), fetch
        self._opened: OrderedDict[int, ProductRows] = OrderedDict()

    def passage(
        self,
        number: int,
        product: str,
        after: int,
        upto: int | None,
        feeds: frozenset[str] | None = None,
    ) -> Passage:
        """Return a product's lines in an object, within bounds of position.

        Raises:
            DamagedError: it is not what the manifest says.
            StorageError: it cannot be read.
        """
        entry = self.objects[number].entry
        last = entry.last if upto is None else min(upto, entry.last)
        try:
            rows = self._open(number)
            return rows.passage(product, max(after, entry.first - 1), last, feeds)
        except NotALakeObjectError as error:
            raise DamagedError(self.key(number), str(error)) from error

    def having(self, product: str, after: int, upto: int | None) -> list[int]:
        """Return the numbers of the objects that have anything of a product within bounds."""
        return [
            number
            for number, found in enumerate(self.objects)
            if any(
                span.last > after and (upto is None or span.first <= upto)
                for span in found.entry.spans.get(product, {}).values()
            )
        ]

    def key(self, number: int) -> str:
        """Return the name of an object."""
        found = self.objects[number]
        return self.lane.key(found.hour, found.entry.first, found.entry.last)

    def _open(self, number: int) -> ProductRows:
        opened = self._opened.get(number)
        if opened is None:
            opened = ProductRows(self.lane.stream, *self._fetch(self.objects[number]))
            self._opened[number] = opened
            if len(self._opened) > _KEPT_OBJECTS:
                self._opened.popitem(last=False)
        self._opened.move_to_end(number)
        return opened


class _Mark(NamedTuple):
    """A raw message that gave lines: of the candidate's all, those from `start` up to `upto`.

    `ends`: how many of them there were after each of the message's events.
    """

    start: int
    upto: int
    position: int
    ends: list[int]


class _Piece(NamedTuple):
    """Raw lines that were applied, and the object that they are from."""

    number: int
    passage: Passage

    def record(self, index: int) -> "_Record":
        """Return one of the lines."""
        passage = self.passage
        position = int(passage.position[index])
        first = int(np.searchsorted(passage.position, position))
        start, end = passage.start[index : index + 2].tolist()
        text = passage.text[start : end - 1]
        return _Record(self.number, position, index - first, int(passage.time_us[index]), text)


class _Record(NamedTuple):
    """A raw line: object, position and number within its message, time, and itself."""

    number: int
    position: int
    line: int
    time_us: int
    text: bytes


@dataclass(frozen=True, slots=True)
class Bounds:
    """What of a product is judged: raw above `after` up to `upto`, ticks likewise.

    `ticks_upto` is none where the range ends in the middle; then `ticks_go_on` tells whether the
    lake has ticks from beyond the range.
    """

    product: str
    after: int
    upto: int
    ticks_after: int
    ticks_upto: int | None
    ticks_go_on: bool = True


class ProductJudge:
    """One product in a slice. Attributes: bounds, comparison, first, differences."""

    def __init__(
        self,
        bounds: Bounds,
        core: ProductNormalizer,
        decode: Decode,
        raw: Shelf,
        ticks: Shelf,
        feeds: frozenset[str] | None,
    ) -> None:
        """Begin at the bounds; the core is as it was there."""
        self.bounds, self.comparison = bounds, Comparison()
        self._core, self._decode, self._feeds = core, decode, feeds
        self._raw, self._ticks = raw, ticks
        self._expected = iter(ticks.having(bounds.product, bounds.ticks_after, bounds.ticks_upto))
        self._pieces: deque[_Piece] = deque(maxlen=_KEPT_PIECES)
        self._marks: list[_Mark] = []
        self._said = self._applied_us = self._archived_us = 0

    def take(self, number: int) -> Iterator[tuple[int, list[Difference]]]:
        """Apply what an object has of the product; yield how many frames, and what differs.

        Raises:
            CandidateError: the candidate cannot apply a record.
            DamagedError: an object is damaged.
            StorageError: one cannot be read.
        """
        bounds = self.bounds
        passage = self._raw.passage(number, bounds.product, bounds.after, bounds.upto)
        for piece in passage.slices(CHUNK_LINES):
            self._pieces.append(_Piece(number, piece))
            self._applied_us = max(self._applied_us, int(piece.time_us.max()))
            text = self._apply(piece)
            if text:
                self.comparison.say(text)
            yield len(piece.position), self._compare()

    def finish(self) -> list[Difference]:
        """Compare what is left."""
        found = self._compare()
        while self._expect_more():
            found += self.comparison.step()
        bounds, core = self.bounds, self._core
        if bounds.ticks_upto is not None:
            return found + self.comparison.finish()
        closed = {feed for feed, state in core.states.items() if state != "live"}
        if core.holding:
            closed |= {"trades", "book"}
        archived_us = None if bounds.ticks_go_on else self._archived_us
        return found + self.comparison.finish(End(self._applied_us, archived_us, closed))

    def explain(self, difference: Difference) -> Divergence:
        """Say where in the past a difference came about, as far as that is still at hand."""
        head, record = difference.head, self._behind(difference)
        found = Divergence(
            kind=difference.kind,
            product=self.bounds.product,
            feed=head.feed,
            seq=head.since if head.seq is None else head.seq,
            expected=_text(difference.expected),
            actual=_text(difference.actual),
            differs_at=_differs_at(difference.expected, difference.actual),
            position=self.bounds.upto,
        )
        if record is None:
            return found
        return found.model_copy(
            update={
                "position": record.position,
                "line": record.line,
                "time_us": record.time_us,
                "object_": self._raw.key(record.number),
                "raw": _text(record.text),
            }
        )

    def forget(self) -> None:
        """Drop what no difference can be about any more."""
        judged = self.comparison.said
        del self._marks[: bisect_right(self._marks, judged, key=_upto)]

    def _compare(self) -> list[Difference]:
        """Compare as far as the candidate has come."""
        comparison = self.comparison
        found = comparison.step()
        while comparison.wants_expected and self._expect_more():
            found += comparison.step()
        return found

    def _expect_more(self) -> bool:
        """Give the comparison the next object's ticks; return false if there are none."""
        number = next(self._expected, None)
        if number is None:
            self.comparison.expect_no_more()
            return False
        bounds = self.bounds
        passage = self._ticks.passage(
            number, bounds.product, bounds.ticks_after, bounds.ticks_upto, self._feeds
        )
        self.comparison.expect(passage.text)
        self._archived_us = max(self._archived_us, int(passage.time_us.max(initial=0)))
        return True

    def _apply(self, piece: Passage) -> bytes:
        """Return what the candidate says of raw messages, each line with a break behind it."""
        said: list[str] = []
        for position, payload in piece.messages():
            try:
                lines, ends = self._apply_message(position, payload)
            except StorageError:
                raise
            except Exception as error:
                raise CandidateError(
                    f"the candidate failed at raw position {position} of {self.bounds.product}: "
                    f"{type(error).__name__}: {error}"
                ) from error
            if lines:
                start = self._said + len(said)
                said += lines
                self._marks.append(_Mark(start, start + len(lines), position, ends))
        self._said += len(said)
        said.append("")
        return "\n".join(said).encode()

    def _apply_message(self, position: int, payload: bytes) -> tuple[list[str], list[int]]:
        """Return a message's lines, and how many there were after each event."""
        out, ends, apply = Outputs(), list[int](), self._core.apply
        for event in self._decode(payload, self.bounds.product):
            apply(event, position, out)
            if out.reread is not None:
                self._reread(out, before=position)
            ends.append(len(out.lines))
        if self._feeds is not None:
            out.keep(self._feeds)
        return out.lines, ends

    def _reread(self, out: Outputs, *, before: int) -> None:
        """Read again what a closed gate had let go, up to the marker that opens it."""
        product, after = self.bounds.product, (out.reread or 1) - 1
        for number in self._raw.having(product, after, before - 1):
            passage = self._raw.passage(number, product, after, before - 1)
            for _, payload in passage.messages():
                self._core.refill(self._decode(payload, product), out)
        self._core.refilled(out)

    def _behind(self, difference: Difference) -> _Record | None:
        """Return the raw record that was being applied when a difference came about.

        What the candidate does not say is known by its time only.
        """
        line = difference.expected if difference.expected is not None else difference.actual
        by_time = self._of_time(line or b"")
        if difference.kind == "missing" and by_time is not None:
            return by_time
        at = bisect_right(self._marks, difference.at, key=_upto)
        mark = self._marks[at] if at < len(self._marks) else None
        if mark is None or mark.start > difference.at:
            return by_time or self._newest()
        event = bisect_right(mark.ends, difference.at - mark.start)
        return self._of_event(mark.position, event) or by_time

    def _newest(self) -> _Record | None:
        """Return the newest record that was applied."""
        piece = self._pieces[-1] if self._pieces else None
        return None if piece is None else piece.record(len(piece.passage.position) - 1)

    def _of_time(self, line: bytes) -> _Record | None:
        """Return the raw record that was received when a canonical line says it was."""
        head = head_of(line)
        for piece in reversed(self._pieces):
            found = [
                piece.record(index)
                for index in np.flatnonzero(piece.passage.time_us == head.time_us).tolist()
            ]
            if found:
                named = [one for one in found if str(head.seq).encode() in one.text]
                return (named or found)[0]
        return None

    def _of_event(self, position: int, event: int) -> _Record | None:
        """Return the line of a raw message that gave one of its events."""
        for piece in reversed(self._pieces):
            start, end = np.searchsorted(piece.passage.position, (position, position + 1)).tolist()
            events = 0
            for index in range(start, end):
                record = piece.record(index)
                events += len(self._decode(record.text, self.bounds.product))
                if event < events:
                    return record
        return None


def _upto(mark: _Mark) -> int:
    return mark.upto


def _text(line: bytes | None) -> str | None:
    return None if line is None else line.decode(errors="replace")


def _differs_at(expected: bytes | None, actual: bytes | None) -> int | None:
    """Return the byte in which two lines first differ."""
    if expected is None or actual is None:
        return None
    pairs = enumerate(zip(expected, actual, strict=False))
    return next((at for at, (one, other) in pairs if one != other), min(len(expected), len(actual)))
