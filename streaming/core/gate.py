"""The sequence gate: which numbers of a contiguous numbering have been seen.

Pure arithmetic on numbers; what a number stands for (a trade id, a venue's sequence) is the
caller's business. Invariant: seen and missing numbers together are all numbers up to `top`.
"""

import msgspec


class SequenceGate(msgspec.Struct):
    """`last`: everything up to here was seen; `top`: the highest number known to exist.

    `ahead`: numbers seen above `last`. Bound it by calling `rewind`.
    """

    last: int
    top: int = 0
    ahead: set[int] = msgspec.field(default_factory=set)

    def offer(self, number: int) -> bool:
        """Note that a number was seen; return whether it was new."""
        if number == self.last + 1:
            self.last = number
            ahead = self.ahead
            while ahead and self.last + 1 in ahead:
                self.last += 1
                ahead.remove(self.last)
        elif number <= self.last or number in self.ahead:
            return False
        else:
            self.ahead.add(number)
        self.top = max(self.top, number)
        return True

    def require(self, number: int) -> None:
        """Note that everything up to a number exists, seen or not."""
        self.top = max(self.top, number)

    @property
    def open(self) -> bool:
        """Whether a number is missing."""
        return self.last < self.top

    @property
    def next_seen(self) -> int:
        """The first number behind the first hole."""
        return min(self.ahead, default=self.top + 1)

    def skip(self) -> int:
        """Give up the first hole; return the number behind it."""
        first = self.next_seen
        self.last = first - 1
        if first in self.ahead:
            self.ahead.remove(first)
            self.offer(first)
        return first

    def rewind(self, last: int) -> None:
        """Forget what was seen above `last`: from here on it counts as missing."""
        self.last = last
        self.ahead.clear()
