"""One feed of one product: its latest state, and how a newcomer's view of it begins.

Rendering a deep book takes a tenth of a second, so a rendered snapshot is kept together with
the frames that came after it: the next newcomer gets these. Both are bounded. Knows no client.
"""

from typing import NamedTuple

import msgspec

from gateway.frames import line_frame, unrecovered_frame
from models.canonical import ORIGIN, Feed, Head
from streaming.core.latest import LatestState

SNAPSHOT_TO_TAIL = 4
"""The frames kept behind a snapshot may have this part of its bytes; then it is rendered anew."""

MIN_TAIL_BYTES = 16 * 1024
"""They may always have so many: finding the best levels of a deep book takes long, too."""

MAX_SNAPSHOTS = 4
"""Depths for which a snapshot is kept."""

_REASON = "subscribe"


class _StateOf(msgspec.Struct):
    """The part of a status line that tells whether the feed is live."""

    state: str


_decode_state = msgspec.json.Decoder(_StateOf).decode


class _Kept(msgspec.Struct):
    """A rendered snapshot; `start`: where the frames after it begin, `room_bytes` more may come."""

    line: bytes
    start: int
    room_bytes: int


class Restart(NamedTuple):
    """The venue has counted anew at `time_us`: numbers `first` to `last` may come twice."""

    first: int
    last: int
    time_us: int


class FeedState:
    """Latest state of one feed.

    Attributes: seq, of the newest message, or `ORIGIN`; restart, the newest one known, or none.
    """

    __slots__ = (
        "_is_book",
        "_newest",
        "_recalled",
        "_snapshots",
        "_state",
        "_tail",
        "restart",
        "seq",
    )

    def __init__(self, venue: str, product: str, feed: Feed) -> None:
        self._state = LatestState(venue, product, feed)
        self._is_book = feed == "book"
        self.seq = ORIGIN
        self.restart: Restart | None = None
        self._recalled = ORIGIN
        self._newest: bytes | None = None
        self._snapshots: dict[int | None, _Kept] = {}
        self._tail: list[bytes] = []

    def take(self, head: Head, line: bytes, frame: bytes, time_us: int) -> bool:
        """Apply the next line, with its frame and when it was stored; tell whether its link fits.

        Raises:
            msgspec.ValidationError: a book line is no canonical message.
        """
        if head.type == "status":
            self._state.apply(line)
            return True
        fits = head.prev_seq == self.seq
        if head.type == "snapshot":
            fits = True
            self._begin(self.seq, head.seq, time_us)
        self.seq = head.seq
        if self._is_book:
            self._state.apply(line)
            self._keep(head, frame)
        else:
            # A ticker or trades line is the whole state: only the newest is ever looked at.
            self._newest = line
        return fits

    def recall(self, head: Head, time_us: int) -> None:
        """Note a line that is part of the state already: what it tells about numbering."""
        if head.type == "status":
            return
        if head.type == "snapshot":
            self._begin(self._recalled, head.seq, time_us)
        self._recalled = head.seq

    def _begin(self, last: int, first: int, time_us: int) -> None:
        """Note that a chain has ended at `last` and another one begins."""
        if first < last:
            if self.restart is not None:
                first, last = min(first, self.restart.first), max(last, self.restart.last)
            self.restart = Restart(first, last, time_us)

    @property
    def state(self) -> LatestState:
        """The state after everything taken so far."""
        if self._newest is not None:
            line, self._newest = self._newest, None
            self._state.apply(line)
        return self._state

    def opening(
        self, *, reason: str = _REASON, depth: int | None = None, recovered: bool = True
    ) -> bytes:
        """Return the frames that begin a view: a snapshot, what came after it, and any trouble.

        `recovered` is false for somebody who wanted to resume and could not.
        """
        if self._is_book:
            line, tail = self._kept(reason, depth)
        else:
            line, tail = self.snapshot(reason), []
        frame = line_frame("snapshot", line) if recovered else unrecovered_frame(line)
        return b"".join((frame, *tail, self.trouble()))

    def snapshot(self, reason: str = _REASON, depth: int | None = None) -> bytes:
        """Return the newest state as a canonical snapshot; `depth` bounds a book's sides."""
        return self.state.snapshot(reason=reason, depth=depth)

    @property
    def status(self) -> str:
        """The state that the newest status line told; `live` before any."""
        line = self._state.status
        return "live" if line is None else _decode_state(line).state

    def trouble(self) -> bytes:
        """Return the frame of the newest status line, or nothing while the feed is live."""
        line = self._state.status
        return b"" if line is None or self.status == "live" else line_frame("status", line)

    @property
    def status_line(self) -> bytes | None:
        """The newest status line, or none."""
        return self._state.status

    def _kept(self, reason: str, depth: int | None) -> tuple[bytes, list[bytes]]:
        """Return a snapshot of the book and the frames after it, rendered only if need be."""
        if depth not in self._snapshots:
            self._render(depth)
        kept = self._snapshots[depth]
        line = kept.line
        if reason != _REASON:
            line = line.replace(
                b'"reason":"%b"' % _REASON.encode(), b'"reason":"%b"' % reason.encode(), 1
            )
        return line, self._tail[kept.start :]

    def _render(self, depth: int | None) -> None:
        if len(self._snapshots) == MAX_SNAPSHOTS:
            self._forget()
        line = self.snapshot(depth=depth)
        room_bytes = max(len(line) // SNAPSHOT_TO_TAIL, MIN_TAIL_BYTES)
        self._snapshots[depth] = _Kept(line, len(self._tail), room_bytes)

    def _keep(self, head: Head, frame: bytes) -> None:
        """Add a frame behind the kept snapshots, and drop those for which it is too much."""
        if not self._snapshots:
            return
        for depth, kept in tuple(self._snapshots.items()):
            kept.room_bytes -= len(frame)
            if kept.room_bytes < 0:
                del self._snapshots[depth]
        if head.type == "snapshot" or not self._snapshots:
            self._forget()
        else:
            self._tail.append(frame)

    def _forget(self) -> None:
        self._snapshots.clear()
        self._tail.clear()
