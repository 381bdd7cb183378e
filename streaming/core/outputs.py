"""What applying records gives: canonical lines in order, requests for recovery, dead letters.

One `Outputs` collects over a whole MD_RAW message; the shell publishes it and takes a new one.
"""

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
