"""The running account of one resync, from which progress and report are written.

Pure and deterministic: time is given. `gap_resync` decides, this counts.
"""

from dataclasses import dataclass, field

from models.recovery import (
    Answer,
    Fetched,
    Outcome,
    Progress,
    ResyncInput,
    ResyncReport,
    Step,
    StepTime,
    Verified,
)
from models.resync import MANUAL
from workflows.attributes import lost_prints


@dataclass
class Journal:
    """Counts and times of one run. `began`, `at`: seconds of the workflow's clock."""

    gap: ResyncInput
    began: float
    step: Step = "starting"
    at: float = 0.0
    rounds: int = 0
    attempts: int = 0
    too_old: int = 0
    fetched: int = 0
    markers: int = 0
    verified: Verified = field(default_factory=Verified)
    live_at: float | None = None
    steps: list[StepTime] = field(default_factory=list)

    def enter(self, step: Step, now: float, note: str = "") -> None:
        """End the present step and begin another; `note` is said of the one that ends."""
        began = self.at or self.began
        self.steps.append(StepTime(step=self.step, seconds=round(now - began, 6), note=note))
        self.step, self.at = step, now

    def note_fetched(self, fetched: Fetched) -> None:
        """Count one answer of the venue."""
        self.attempts += fetched.attempt
        self.too_old += bool(fetched.too_old)
        if fetched.marker is not None:
            self.markers += 1
            self.fetched += fetched.items

    def progress(self, now: float) -> Progress:
        """Return how things stand."""
        last = self.steps[-1].note if self.steps else ""
        return Progress(
            resync_id=self.gap.resync_id,
            step=self.step,
            rounds=self.rounds,
            attempts=self.attempts,
            too_old=self.too_old,
            fetched=self.fetched,
            markers=self.markers,
            seconds=round(now - self.began, 6),
            sentence=last,
        )

    def report(self, outcome: Outcome, sentence: str, now: float) -> ResyncReport:
        """End the present step and return what became of the gap."""
        self.enter("done", now, "" if outcome in {"closed", "already_closed"} else outcome)
        gap, verified = self.gap, self.verified
        since, live_at = gap.since, self.live_at
        return ResyncReport(
            resync_id=gap.resync_id,
            venue=gap.venue,
            product=gap.product,
            feed=gap.feed,
            shard=gap.shard,
            reason=gap.reason,
            outcome=outcome,
            sentence=sentence,
            after=gap.after,
            before=gap.before,
            lost=lost_prints(gap),
            fetched=self.fetched,
            filled=verified.filled,
            replayed=verified.replayed,
            discarded=self._discarded(outcome),
            markers=self.markers,
            links=verified.links,
            rounds=self.rounds,
            attempts=self.attempts,
            too_old=self.too_old,
            seconds=round(now - self.began, 6),
            gap_seconds=None if since is None or live_at is None else live_at - since / 1e6,
            steps=self.steps,
        )

    def _discarded(self, outcome: Outcome) -> int:
        """Count what was fetched for nothing: prints known already, books that came too late."""
        if self.gap.feed != "trades":
            return self.too_old + (outcome == "already_closed")
        if outcome == "closed":
            return max(0, self.fetched - self.verified.filled - self.verified.replayed)
        return self.fetched

    def closed_by(self, answer: Answer) -> bool:
        """Tell whether this recovery has closed a gap, or begun a chain as it was ordered to."""
        by_hand = MANUAL in self.gap.resync_id
        verified = self.verified
        return answer.gap_closed or verified.snapshots > 0 or (by_hand and verified.closed > 0)

    def sentence(self) -> str:
        """Say what a recovery that closed a gap has done."""
        gap, verified = self.gap, self.verified
        did = "a new chain began with the venue's own state"
        if gap.feed == "trades":
            did = f"{verified.filled or self.fetched:,} prints filled in"
            if verified.snapshots:
                did = "what the venue does not have any more was given up, a new chain began"
        links = f"{verified.links:,} links verified"
        return f"{did}, {verified.replayed:,} ticks followed at once, {links}"
