"""Frames per second that a canary judges, end to end: a million, two candidates, real servers.

An equal candidate must agree; then one that swallows a single tick must be caught. What is timed
is the workflow, from its start to its report: planning, reading, decoding, normalizing, comparing.
"""

import os
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop

from bench.harness import note
from models.canary import CanaryReport
from streaming.core.normalizer import ProductNormalizer
from tests.canaries import CandidateProcess, Court, court
from tests.judged_past import Broken, Story
from workers.candidate import candidate
from workers.process import configure_logging, run_worker
from workflows.connect import leave

FRAMES = 1_000_000
PRODUCTS = (
    *("BTC-USD", "ETH-USD", "SOL-USD", "ADA-USD"),
    *("LTC-USD", "DOT-USD", "LINK-USD", "AVAX-USD"),
)
HOURS = 0.9
CANDIDATES = 2

_BUNCH = 80
"""Frames between two cuts: about ten to a message, as at a few thousand a second."""

_MESSAGES = 1700
"""To an object: about 5 MB of text, as the archive cuts them."""

_DROPPED = "BENCH_DROPPED_TICK"


def canary() -> dict[str, float]:
    """Judge an equal candidate, and one that drops one tick of a million."""
    configure_logging("CRITICAL")
    story = Story(frames=FRAMES, hours=HOURS, products=PRODUCTS, bunch=_BUNCH, losses=0.02)
    dropped = _middle_tick(story)
    with TemporaryDirectory() as directory:
        return uvloop.run(_measure(Path(directory), story, dropped))


def _middle_tick(story: Story) -> str:
    """Return a tick from the middle of the past."""
    for message in story.ticks[len(story.ticks) // 2 :]:
        for line in message.payload.split(b"\n"):
            if b'"type":"tick"' in line and b'"feed":"book"' in line:
                return line.decode()
    raise AssertionError("there is no tick in the second half")


async def _measure(root: Path, story: Story, dropped: str) -> dict[str, float]:
    async with court(root, story, messages=_MESSAGES) as where:
        equal = await _judged(root, where, "equal")
        assert (equal.verdict, equal.total.differences) == ("agrees", 0), equal.sentence
        assert equal.total.equal == sum(one.payload.count(b"\n") + 1 for one in story.ticks)
        os.environ[_DROPPED] = dropped
        caught = await _judged(root, where, "drop")
        assert (caught.total.missing, caught.total.differences) == (1, 1), caught.sentence
        assert caught.first is not None
        assert caught.first.expected == dropped
    note(
        f"{equal.frames:,} frames, {equal.total.equal:,} ticks in {equal.seconds:.1f} s and "
        f"{equal.cpu_s:.1f} s of the candidates' processors; then one tick of "
        f"{caught.total.compared:,} was dropped, and found"
    )
    return {"canary_frames_per_s": equal.frames / equal.seconds}


async def _judged(root: Path, where: Court, queue: str) -> CanaryReport:
    """Run a canary against two candidate processes."""
    with ExitStack() as stack:
        for _ in range(CANDIDATES):
            process = CandidateProcess(root, where.settings, queue, module="bench.canary")
            stack.enter_context(process)
        # The first one is for the candidates to come up.
        await where.judge(f"{queue}-warm", candidate_queue=queue, products=[PRODUCTS[-1]])
        return await where.judge(queue, candidate_queue=queue)


def _dropping(dropped: str, venue: str, product: str, **more: object) -> ProductNormalizer:
    """Return a normalizer that does not say one tick."""

    def change(lines: list[str]) -> list[str]:
        return [line for line in lines if line != dropped] if dropped in lines else lines

    return Broken(venue, product, change=change, **more)


def main(queue: str) -> int:
    """Serve a queue as a candidate, broken if the environment says so; return the exit status."""
    dropped = os.environ.get(_DROPPED)
    make = ProductNormalizer if dropped is None else partial(_dropping, dropped)
    return run_worker("candidate", partial(candidate, queue=queue, make=make))


if __name__ == "__main__":
    leave(main(sys.argv[1]))
