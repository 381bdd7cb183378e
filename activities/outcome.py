"""What is told of a resync when it is over: a log line and the metrics of this process."""

from collections.abc import Iterable
from itertools import product as pairs
from typing import get_args

import structlog
from temporalio import activity

from models.recovery import Outcome, ResyncReport
from streaming.metrics import Counts, Durations

_BOUNDS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
_log = structlog.get_logger(__name__)


class OutcomeActivities:
    """Local activity of the `resync` task queue. Attributes: total, seconds: the collectors."""

    def __init__(self, products: Iterable[str] = ()) -> None:
        """Begin; these products are shown from the start."""
        self.total = Counts("md_resync_total", "Resyncs that ended", ("product", "outcome"))
        for name, outcome in pairs(products, get_args(Outcome)):
            self.total.expect(name, outcome)
        self.seconds = Durations("md_resync_seconds", "How long each resync took", _BOUNDS_S)

    @activity.defn
    async def note_outcome(self, report: ResyncReport) -> None:
        """Count and log what became of a gap; a crash at this moment may lose or double it."""
        self.total.values[report.product, report.outcome] += 1
        self.seconds.observe(report.seconds)
        say = _log.error if report.outcome == "failed" else _log.info
        facts = report.model_dump(exclude={"steps", "seconds"}, exclude_none=True)
        say("resync ended", duration_ms=round(report.seconds * 1000), **facts)
