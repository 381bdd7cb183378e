"""What applying records gives: canonical lines in order, requests for recovery, dead letters.

One `Outputs` collects over a whole MD_RAW message; the shell publishes it and takes a new one.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

from models.events import Invalid
from models.resync import ResyncRequest


@dataclass(slots=True)
class Outputs:
    """Collected in the order in which it came about. `lines` are canonical JSON without breaks."""

    lines: list[str] = field(default_factory=list)
    requests: list[ResyncRequest] = field(default_factory=list)
    invalid: list[Invalid] = field(default_factory=list)
    ticks: int = 0
    gaps: int = 0
    reread: int | None = None
    """Set by a marker behind a gate that let go what it held: the shell must read MD_RAW again
    from this position to the marker's, hand it to `refill` and end with `refilled`."""

    def keep(self, feeds: Collection[str]) -> None:
        """Drop what is said of other feeds."""
        self.lines = [line for line in self.lines if _feed_of(line) in feeds]
        self.requests = [request for request in self.requests if request.feed in feeds]
        self.ticks = sum('"type":"tick"' in line for line in self.lines)
        self.gaps = sum('"state":"gap"' in line for line in self.lines)


def _feed_of(line: str) -> str:
    """Return a canonical line's feed; nothing before it can hold these words."""
    return line.partition('"feed":"')[2].partition('"')[0]
