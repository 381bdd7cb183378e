"""The book of a line that is not followed, and how it goes on where the followed one ended.

All lines bring the same changes in the same order, so a change has the same place on each: its
event time, and how many of that time came before it. What this line has brought beyond the
followed one is kept, and is what the chain goes on with.
"""

from collections import deque
from typing import NamedTuple

import msgspec

from models.canonical import Level
from models.events import BookDelta
from streaming.core.book import Book


class Place(NamedTuple):
    """How far a book is: time of its newest change, and how many changes have that time."""

    ts: int
    same: int

    def after(self, ts: int) -> "Place":
        """Return the place of the next change."""
        return Place(ts, self.same + 1 if ts == self.ts else 1)


class Shadow(msgspec.Struct):
    """A standby in a checkpoint; the book of one without `since` is not known yet."""

    ts_event: int
    bids: list[Level]
    asks: list[Level]
    count: int = 0
    since: int | None = None
    ahead: list[tuple[int, BookDelta]] = []


class Standby:
    """A book that is kept beside the followed one.

    Attributes: book; place; since, from what event time on it has seen every change, none while
    its book is not known: that of a line which was met, or doubted, in the middle.
    """

    __slots__ = ("_ahead", "book", "place", "since")

    def __init__(self, book: Book, place: Place, since: int | None) -> None:
        self.book, self.place, self.since = book, place, since
        self._ahead: deque[tuple[Place, BookDelta]] = deque()

    @property
    def is_ahead(self) -> bool:
        """Whether it has brought something that the followed line had not, when it came."""
        return bool(self._ahead)

    def take(self, event: BookDelta, followed: Place, most: int) -> None:
        """Apply changes; keep what is beyond the followed line, of `most` messages at most."""
        self.book.apply(event.changes)
        self.place = self.place.after(event.ts_event)
        ahead = self._ahead
        ahead.append((self.place, event))
        if self.since is not None:
            while ahead and ahead[0][0] <= followed:
                ahead.popleft()
        if len(ahead) > most:
            ahead.clear()
            self.since = None if self.since is None else self.place.ts + 1

    def learn(self, book: Book, followed: Place) -> None:
        """Take over the followed line's book, if that has passed all that was not seen here."""
        if self.since is not None or not self._ahead or self._ahead[0][0].ts >= followed.ts:
            return
        beyond = [(place, event) for place, event in self._ahead if place > followed]
        self.book, self.since = Book(book.bids(), book.asks()), followed.ts
        self._ahead = deque(beyond)
        for _, event in beyond:
            self.book.apply(event.changes)

    def continues(self, followed: Place) -> bool:
        """Tell whether it has seen every change since the followed line's newest one."""
        return self.since is not None and self.since <= followed.ts

    def beyond(self, followed: Place) -> list[BookDelta]:
        """Return what it has brought beyond the followed line."""
        return [event for place, event in self._ahead if place > followed]

    def shadow(self) -> Shadow:
        """Return it for a checkpoint."""
        ahead = [(place.same, event) for place, event in self._ahead]
        place, book = self.place, self.book
        return Shadow(place.ts, book.bids(), book.asks(), place.same, self.since, ahead)

    @classmethod
    def restored(cls, shadow: Shadow) -> "Standby":
        """Return what a checkpoint had."""
        place = Place(shadow.ts_event, shadow.count)
        self = cls(Book(shadow.bids, shadow.asks), place, shadow.since)
        self._ahead.extend((Place(event.ts_event, count), event) for count, event in shadow.ahead)
        return self
