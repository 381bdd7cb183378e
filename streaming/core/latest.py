"""The latest state of one product and feed: canonical lines in, a snapshot line out.

The gateway serves subscribers from it and the normalizer's checkpoint is made of it, so both
tell the same story. Feeds whose ticks carry their whole state (ticker, trades) keep the last
tick's `fields` verbatim; the book keeps its levels.
"""

import msgspec

from models.canonical import Feed, Fields, Level, Side
from streaming.core.book import Book


class _Line(msgspec.Struct):
    """What a canonical line tells about state."""

    type: str
    seq: int = 0
    ts_event: int = 0
    ts_snapshot: int = 0
    fields: msgspec.Raw = msgspec.Raw(b"{}")
    state: msgspec.Raw = msgspec.Raw(b"{}")


class _Changes(msgspec.Struct):
    changes: list[tuple[Side, str, str]]


class _Levels(msgspec.Struct):
    bids: list[Level] = []
    asks: list[Level] = []


_decode_line = msgspec.json.Decoder(_Line).decode
_decode_changes = msgspec.json.Decoder(_Changes).decode
_decode_levels = msgspec.json.Decoder(_Levels).decode
_decode_fields = msgspec.json.Decoder(Fields).decode


class LatestState:
    """State of one feed of one product after the lines applied so far.

    Attributes: seq, of the newest message; known, whether there was any; status, the newest
    status line, verbatim.
    """

    __slots__ = ("_fields", "_prefix", "book", "feed", "known", "seq", "status", "ts_us")

    def __init__(self, venue: str, product: str, feed: Feed) -> None:
        self._prefix = (
            f'{{"v":1,"type":"snapshot","venue":"{venue}","product":"{product}","feed":"{feed}"'
        )
        self.feed = feed
        self.seq = 0
        self.ts_us = 0
        self.known = False
        self.status: bytes | None = None
        self.book = Book()
        self._fields = b"{}"

    def apply(self, line: bytes) -> None:
        """Take the next canonical line of this product and feed.

        Raises:
            msgspec.ValidationError: the line is no canonical message.
        """
        told = _decode_line(line)
        if told.type == "status":
            self.status = line
            return
        is_snapshot = told.type == "snapshot"
        self.seq, self.known = told.seq, True
        self.ts_us = told.ts_snapshot if is_snapshot else told.ts_event
        if self.feed != "book":
            self._fields = bytes(told.state if is_snapshot else told.fields)
        elif is_snapshot:
            levels = _decode_levels(told.state)
            self.book = Book(levels.bids, levels.asks)
        else:
            self.book.apply(_decode_changes(told.fields).changes)

    def snapshot(self, *, reason: str = "subscribe", depth: int | None = None) -> bytes:
        """Render the state as a canonical snapshot; `depth` bounds a book's sides."""
        return b'%b,"seq":%d,"ts_snapshot":%d,"reason":"%b","resync_id":null,"state":%b}' % (
            self._prefix.encode(),
            self.seq,
            self.ts_us,
            reason.encode(),
            self._state(depth),
        )

    def fields(self) -> Fields:
        """Return the state as exact numbers; a book gives its best prices only."""
        if self.feed != "book":
            return _decode_fields(self._fields)
        return Fields(bids=self.book.bids(1), asks=self.book.asks(1))

    def _state(self, depth: int | None) -> bytes:
        if self.feed != "book":
            return self._fields
        return msgspec.json.encode({"bids": self.book.bids(depth), "asks": self.book.asks(depth)})
