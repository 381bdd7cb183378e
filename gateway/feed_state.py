"""One feed of one product: its latest state, and how a newcomer's view of it begins.

Rendering a deep book takes a tenth of a second, so a rendered snapshot is kept together with
the frames that came after it: the next newcomer gets these. Both are bounded. Knows no client.
"""

import msgspec

from gateway.frames import line_frame
from models.canonical import ORIGIN, Feed, Head
from streaming.core.latest import LatestState

SNAPSHOT_TO_TAIL = 4
"""The frames kept behind a snapshot may have this part of its bytes; then it is rendered anew."""

MAX_SNAPSHOTS = 4
"""Depths for which a snapshot is kept."""

_REASON = "subscribe"


class _StateOf(msgspec.Struct):
    """The part of a status line that tells whether the feed is live."""

    state: str


_decode_state = msgspec.json.Decoder(_StateOf).decode


class FeedState:
    """Latest state of one feed.

    Attributes: seq, of the newest message, or `ORIGIN`.
    """

    __slots__ = ("_is_book", "_newest", "_room_bytes", "_snapshots", "_state", "_tail", "seq")

    def __init__(self, venue: str, product: str, feed: Feed) -> None:
        self._state = LatestState(venue, product, feed)
        self._is_book = feed == "book"
        self.seq = ORIGIN
        self._newest: bytes | None = None
        self._snapshots: dict[int | None, tuple[bytes, int]] = {}
        self._tail: list[bytes] = []
        self._room_bytes = 0

    def take(self, head: Head, line: bytes, frame: bytes) -> bool:
        """Apply the next line, whose frame is given; tell whether its link fits.

        Raises:
            msgspec.ValidationError: a book line is no canonical message.
        """
        if head.type == "status":
            self._state.apply(line)
            return True
        fits = head.type == "snapshot" or head.prev_seq == self.seq
        self.seq = head.seq
        if self._is_book:
            self._state.apply(line)
            self._keep(head, frame)
        else:
            # A ticker or trades line is the whole state: only the newest is ever looked at.
            self._newest = line
        return fits

    @property
    def state(self) -> LatestState:
        """The state after everything taken so far."""
        if self._newest is not None:
            line, self._newest = self._newest, None
            self._state.apply(line)
        return self._state

    def opening(self, *, reason: str = _REASON, depth: int | None = None) -> bytes:
        """Return the frames that begin a view: a snapshot, what came after it, and any trouble."""
        if self._is_book:
            return self._kept(reason, depth) + self.trouble()
        return line_frame("snapshot", self.state.snapshot(reason=reason)) + self.trouble()

    @property
    def status(self) -> str:
        """The state that the newest status line told; `live` before any."""
        line = self._state.status
        return "live" if line is None else _decode_state(line).state

    def trouble(self) -> bytes:
        """Return the frame of the newest status line, or nothing while the feed is live."""
        line = self._state.status
        return b"" if line is None or self.status == "live" else line_frame("status", line)

    def _kept(self, reason: str, depth: int | None) -> bytes:
        """Return a snapshot of the book and the frames after it, rendered only if need be."""
        if depth not in self._snapshots:
            self._render(depth)
        line, start = self._snapshots[depth]
        if reason != _REASON:
            line = line.replace(
                b'"reason":"%b"' % _REASON.encode(), b'"reason":"%b"' % reason.encode(), 1
            )
        return b"".join((line_frame("snapshot", line), *self._tail[start:]))

    def _render(self, depth: int | None) -> None:
        if len(self._snapshots) == MAX_SNAPSHOTS:
            self._forget()
        line = self._state.snapshot(reason=_REASON, depth=depth)
        if not self._snapshots:
            self._room_bytes = len(line) // SNAPSHOT_TO_TAIL
        self._snapshots[depth] = (line, len(self._tail))

    def _keep(self, head: Head, frame: bytes) -> None:
        """Add a frame behind the kept snapshots, or drop them when it is too much."""
        if not self._snapshots:
            return
        self._room_bytes -= len(frame)
        if head.type == "snapshot" or self._room_bytes < 0:
            self._forget()
        else:
            self._tail.append(frame)

    def _forget(self) -> None:
        self._snapshots.clear()
        self._tail.clear()
