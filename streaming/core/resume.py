"""The merge behind `from_seq`: which messages follow a number, and the proof that none is missing.

Pure: heads of one product and feed in, in the order of the log; how many of them follow, or a
refusal, out. Where the heads come from, and how far back they reach, is its caller's part.
"""

from collections.abc import Sequence
from typing import Literal

from models.canonical import Head

Unrecoverable = Literal["too_old", "unknown_seq", "broken"]
"""Why what follows cannot be told: it begins before what is kept; no message, or more than one,
has the number; the chain does not link."""


class UnrecoverableError(Exception):
    """What follows a number cannot be told for certain. Attributes: reason."""

    def __init__(self, reason: Unrecoverable) -> None:
        super().__init__(reason)
        self.reason = reason


def links_to(head: Head, from_seq: int) -> bool:
    """Tell whether a feed's oldest message that is kept comes right after a number."""
    return head.type == "tick" and head.prev_seq == from_seq


class ResumeMerge:
    """Finds the message `from_seq` in one feed's messages and checks every link after it.

    Everything after the first message with that number follows, statuses included. A number that
    comes again after others, in a chain that counts anew, could mean either place, and is refused.

    Attributes: overtaken, a greater number has come and that message has not.
    """

    __slots__ = ("_from_seq", "_newest", "_oldest", "_passed", "overtaken")

    def __init__(self, from_seq: int, *, linked: bool = False) -> None:
        """Begin; `linked`: the message itself is not kept, and the first that is `links_to` it."""
        self._from_seq = from_seq
        self._newest = from_seq if linked else None
        self._oldest: int | None = None
        self._passed = False
        self.overtaken = False

    @property
    def found(self) -> bool:
        """Whether messages follow from here on."""
        return self._newest is not None

    def take(self, heads: Sequence[Head]) -> int:
        """Take the next messages; return the index of the first of them that follows.

        All after it follow as well; the index is `len(heads)` where none does.

        Raises:
            UnrecoverableError: `broken` or `unknown_seq`; nothing more may be taken.
        """
        start = self._seek(heads) if self._newest is None else 0
        if self._newest is not None:
            self._follow(heads[start:] if start else heads)
        return start

    def finish(self) -> None:
        """Note that there are no more messages.

        Raises:
            UnrecoverableError: `too_old` or `unknown_seq`: the number was not among them.
        """
        if self._newest is None:
            too_old = self._oldest is None or self._from_seq < self._oldest
            raise UnrecoverableError("too_old" if too_old else "unknown_seq")

    def _seek(self, heads: Sequence[Head]) -> int:
        """Look for the number; return the index after it."""
        for index, head in enumerate(heads):
            if head.type == "status":
                continue
            if head.seq == self._from_seq:
                self._newest = self._from_seq
                return index + 1
            if self._oldest is None:
                self._oldest = head.seq
            self.overtaken = self.overtaken or head.seq > self._from_seq
        return len(heads)

    def _follow(self, heads: Sequence[Head]) -> None:
        """Check the links of messages that follow."""
        newest, from_seq, passed = self._newest, self._from_seq, self._passed
        for head in heads:
            if head.type == "status":
                continue
            if head.type == "tick" and head.prev_seq != newest:
                raise UnrecoverableError("broken")
            newest = head.seq
            if newest != from_seq:
                passed = True
            elif passed:
                raise UnrecoverableError("unknown_seq")
        self._newest, self._passed = newest, passed
