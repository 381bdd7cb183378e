"""What a judge finds: messages that are missing, that come twice, that are out of order."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Kind = Literal["lost", "doubled", "reordered", "announced", "wrong"]
"""announced: missing, and a snapshot in the chain says so. wrong: whatever else must not be."""

FAULTS: tuple[Kind, ...] = ("lost", "doubled", "reordered", "wrong")
"""What must never be found."""


@dataclass(frozen=True)
class Finding:
    """So many messages; `at_us`: when they were said; `what`: a sentence with product and place."""

    kind: Kind
    count: int
    at_us: int
    what: str


def count(findings: Iterable[Finding], kind: Kind) -> int:
    """Return how many messages were found of a kind."""
    return sum(one.count for one in findings if one.kind == kind)
