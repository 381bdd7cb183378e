"""The connection counter: whether every frame of one connection has come.

For venues that number all frames of a connection in one count from 0 (Coinbase Advanced Trade's
`sequence_num`, COINBASE.md section 2). Pure arithmetic; what a loss means for the products of the
connection is the normalizer's business.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Lost:
    """Frames between these two never came; `after` is -1 before the first frame.

    `before` is not above `after` where the venue began to count anew.
    """

    after: int
    before: int

    @property
    def count(self) -> int:
        """How many frames are known to be missing."""
        return max(0, self.before - self.after - 1)


Verdict = Literal["next", "repeat"] | Lost
"""next: in order. repeat: this number or a later one has come before. `Lost`: before this one."""


class ConnectionCounter:
    """Takes the numbers of one connection in the order in which its frames came.

    `newest` is the number of the frame that was taken last.
    """

    __slots__ = ("_behind", "newest")

    def __init__(self) -> None:
        self.newest = -1
        self._behind: int | None = None

    def offer(self, number: int) -> Verdict:
        """Take the number of the next frame.

        A late frame is a repeat: its loss has been told, and what it says is old. Two in a row
        that follow each other are a count that began anew, so a restarted venue is never taken
        for repeats for ever.
        """
        newest, behind = self.newest, self._behind
        if number <= newest and (behind is None or number != behind + 1):
            self._behind = number
            return "repeat"
        self.newest, self._behind = number, None
        return "next" if number == newest + 1 else Lost(newest, number)
