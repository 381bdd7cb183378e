"""When to connect again, and where: the pure plan behind the feed's reconnects.

Owns no socket, clock or sleep; takes `now_s` and returns the next attempt. Used by feed.py.

The rule. Every round begins at the first address (the primary); an attempt that fails is followed
at once by the next address (the fallback). A round in which all failed is followed by a delay drawn
from 0..min(cap, first * 2**rounds) ("full jitter", AWS Architecture Blog 2015). A connection counts
as good only after it has brought data for `stable_s`: then all counters go back to nothing, and its
end is followed by a delay within `first_s` and the primary. So an address that accepts and drops is
never hammered, and a venue that is up is back well within a second.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum


class Outcome(Enum):
    """How an attempt or a connection ended."""

    GOOD = "good"
    """It brought data for long enough, then dropped."""
    FAILED = "failed"
    """It could not connect, or dropped before it was good."""
    REJECTED = "rejected"
    """The venue answered, and refused the subscription: trying again soon will not help."""


@dataclass(frozen=True, slots=True)
class BackoffSettings:
    """Delays in seconds."""

    first_s: float = 0.25
    """Longest delay after a good connection dropped."""
    cap_s: float = 2.0
    """Longest delay while the venue cannot be reached; with the connect, under 3 s in all."""
    rejected_first_s: float = 1.0
    """Delay after a refused subscription; doubles each time."""
    rejected_cap_s: float = 30.0
    """Longest delay between refused subscriptions."""
    retry_after_cap_s: float = 60.0
    """Longest time that a venue's Retry-After is obeyed."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """Connect to `url`, not before `at_s`."""

    url: str
    at_s: float


class ReconnectPlan:
    """Decides each next attempt; `draw` gives numbers in 0..1."""

    def __init__(
        self, urls: Sequence[str], settings: BackoffSettings, draw: Callable[[], float]
    ) -> None:
        self._urls = tuple(urls)
        self._settings = settings
        self._draw = draw
        self._next = 0
        self._rounds = 0
        self._rejections = 0
        self._due_s = float("-inf")
        self._not_before_s: dict[str, float] = {}

    def next(self, now_s: float) -> Attempt:
        """Return the attempt to make: of the addresses from the next on, the first to be free."""
        rotation = self._urls[self._next :] + self._urls[: self._next]
        attempts = [
            Attempt(url, max(now_s, self._due_s, self._not_before_s.get(url, now_s)))
            for url in rotation
        ]
        chosen = min(attempts, key=lambda attempt: attempt.at_s)
        self._next = self._urls.index(chosen.url)
        return chosen

    def ended(self, now_s: float, outcome: Outcome, retry_after_s: float = 0.0) -> None:
        """Note how the last attempt ended; a positive `retry_after_s` is the venue's own wish."""
        if retry_after_s > 0:
            held_s = min(retry_after_s, self._settings.retry_after_cap_s)
            self._not_before_s[self._urls[self._next]] = now_s + held_s
        if outcome is Outcome.GOOD:
            self._next = self._rounds = self._rejections = 0
            self._due_s = now_s + self._draw() * self._settings.first_s
            return
        if outcome is Outcome.REJECTED:
            self._rejections += 1
        self._advance(now_s)

    def _advance(self, now_s: float) -> None:
        """Go to the next address, at once within a round, after a delay when it is over."""
        self._next = (self._next + 1) % len(self._urls)
        if self._next:
            self._due_s = now_s
            return
        self._rounds += 1
        self._due_s = now_s + max(self._jittered_s(), self._rejected_s())

    def _jittered_s(self) -> float:
        settings = self._settings
        return self._draw() * min(settings.cap_s, settings.first_s * 2.0 ** min(self._rounds, 16))

    def _rejected_s(self) -> float:
        """Return the delay that refusals ask for: at least half of it is always kept."""
        if not self._rejections:
            return 0.0
        settings = self._settings
        whole_s = settings.rejected_first_s * 2.0 ** min(self._rejections - 1, 16)
        return min(settings.rejected_cap_s, whole_s) * (0.5 + self._draw() / 2)
