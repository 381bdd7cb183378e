"""A candidate process with a flaw: `python -m tests.candidates QUEUE slow|wrong`.

`slow` takes its time over every record, so that it can be killed in the middle of a slice; `wrong`
sells what was bought.
"""

import sys
import time
from functools import partial

from streaming.core.normalizer import ProductNormalizer
from tests.judged_past import Broken
from workers.candidate import candidate
from workers.process import run_worker
from workflows.connect import leave

_PAUSE_S = 0.002


def _slow(lines: list[str]) -> list[str]:
    time.sleep(_PAUSE_S)
    return lines


def _wrong(lines: list[str]) -> list[str]:
    return [line.replace('"side":"buy"', '"side":"sell"') for line in lines]


_FLAWS = {"slow": _slow, "wrong": _wrong}


def make_flawed(flaw: str, venue: str, product: str, **more: object) -> ProductNormalizer:
    """Return a normalizer that has the flaw."""
    return Broken(venue, product, change=_FLAWS[flaw], **more)


def main(queue: str, flaw: str) -> int:
    """Run; return the exit status."""
    return run_worker("candidate", partial(candidate, queue=queue, make=partial(make_flawed, flaw)))


if __name__ == "__main__":
    leave(main(*sys.argv[1:]))
