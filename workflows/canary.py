"""Judges a candidate build by the past: the same raw messages must give the archived ticks.

Decides only. The range is cut into slices that stand alone; whoever serves the candidate's queue
takes them, in any order, any number at once, and one whose worker was killed is judged anew.
docs/runbooks/replay.md is for the person who looks at it.
"""

import asyncio
from collections.abc import Iterable
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, TimeoutType
from temporalio.exceptions import TimeoutError as ActivityTimeoutError

with workflow.unsafe.imports_passed_through():
    from activities.canary import CanaryActivities
    from activities.candidate import CandidateActivities
    from activities.heartbeats import HEARTBEAT_WITHIN_S
    from models.canary import (
        CANARY,
        CANARY_FAILED,
        CanaryInput,
        CanaryPlan,
        CanaryProgress,
        CanaryReport,
        Candidate,
        Counts,
        FeedCount,
        SliceInput,
        SliceResult,
        State,
        Verdict,
    )
    from workflows import attributes

AT_ONCE = 64
"""Slices that wait for a candidate, or are judged, at the same time."""

HEARTBEAT = timedelta(seconds=HEARTBEAT_WITHIN_S)
RETRY = RetryPolicy(
    initial_interval=timedelta(seconds=0.2),
    maximum_interval=timedelta(seconds=10),
    maximum_attempts=200,
)
"""What may pass is waited for, and shows under Pending Activities; a gate needs an end, though."""

_WITHIN = timedelta(hours=1)
_NOBODY = timedelta(hours=1)
"""A slice that nobody takes for so long ends the canary: the candidate has gone."""


@workflow.defn(name=CANARY)
class CanaryReplayWorkflow:
    """One canary."""

    @workflow.init
    def __init__(self, wanted: CanaryInput) -> None:
        self._input = wanted
        self._plan: CanaryPlan | None = None
        self._candidate: Candidate | None = None
        self._results: dict[int, SliceResult] = {}
        self._state: State = "planning"
        self._reason = ""
        self._began_s = workflow.now().timestamp()

    @workflow.run
    async def run(self, wanted: CanaryInput) -> CanaryReport:
        """Plan, find the candidate, judge every slice, and report, whatever the verdict.

        Raises:
            ApplicationError: of type `CanaryFailedError`, with the report in its details: it could
                not be judged.
        """
        if workflow.info().typed_search_attributes.get(attributes.VENUE) is None:
            workflow.upsert_search_attributes(attributes.introduce("ticks", wanted.venue))
        try:
            plan = self._plan = await self._make_plan()
            self._enter("awaiting a candidate")
            self._candidate = await self._find_candidate()
            self._enter("comparing")
            await self._judge(plan)
        except ActivityError as error:
            cause = error.cause
            self._reason = cause.type or "" if isinstance(cause, ApplicationError) else ""
            return await self._end(None, self._why(error))
        return await self._end(*self._verdict())

    @workflow.query
    def progress(self) -> CanaryProgress:
        """Tell how far it has come."""
        total = self._total()
        plan = self._plan
        return CanaryProgress(
            state=self._state,
            slices=0 if plan is None else len(plan.slices),
            slices_done=len(self._results),
            frames=sum(one.frames for one in self._results.values()),
            frames_total=0 if plan is None else plan.frames,
            compared=total.compared,
            differences=total.differences,
            seconds=workflow.now().timestamp() - self._began_s,
        )

    async def _make_plan(self) -> CanaryPlan:
        return await workflow.execute_activity_method(
            CanaryActivities.plan_canary,
            self._input,
            start_to_close_timeout=_WITHIN,
            heartbeat_timeout=HEARTBEAT,
            retry_policy=RETRY,
            summary="which slices there are",
        )

    async def _find_candidate(self) -> Candidate:
        """Find out that somebody serves the queue before any slice waits in it."""
        return await workflow.execute_activity_method(
            CandidateActivities.introduce,
            task_queue=self._input.candidate_queue,
            schedule_to_start_timeout=timedelta(seconds=self._input.start_within_s),
            start_to_close_timeout=timedelta(seconds=10),
            retry_policy=RETRY,
            summary="who is the candidate",
        )

    async def _judge(self, plan: CanaryPlan) -> None:
        """Have all slices judged, a bounded number at once."""
        room = asyncio.Semaphore(AT_ONCE)
        info = workflow.info()
        folder = f"canary/{info.workflow_id}/{info.run_id}/"

        async def judge(one: SliceInput) -> None:
            async with room:
                result = await self._judge_slice(one.model_copy(update={"folder": folder}))
                self._results[result.number] = result
                workflow.set_current_details(self._details())

        tasks = [asyncio.create_task(judge(one)) for one in plan.slices]
        try:
            await asyncio.gather(*tasks)
        except ActivityError:
            for task in tasks:
                task.cancel()
            await workflow.wait(tasks)
            raise

    async def _judge_slice(self, one: SliceInput) -> SliceResult:
        return await workflow.execute_activity_method(
            CandidateActivities.judge_slice,
            one,
            task_queue=self._input.candidate_queue,
            schedule_to_start_timeout=_NOBODY,
            start_to_close_timeout=_WITHIN,
            heartbeat_timeout=HEARTBEAT,
            retry_policy=RETRY,
            summary=f"slice {one.number}: {len(one.parts)} products, {one.frames:,} frames",
        )

    def _why(self, error: ActivityError) -> str:
        """Return the sentence of what could not be done."""
        cause = error.cause
        if isinstance(cause, ActivityTimeoutError) and cause.type == TimeoutType.SCHEDULE_TO_START:
            queue = self._input.candidate_queue
            return (
                f"nobody serves the task queue {queue!r}: run `python -m workers.candidate --queue "
                f"{queue}` from the candidate's build, and start the canary again"
            )
        return cause.message if isinstance(cause, ApplicationError) else str(cause)

    def _total(self) -> FeedCount:
        return _sum(count for feeds in self._counts().values() for count in feeds.values())

    def _counts(self) -> Counts:
        """Return the counts of all slices that are done, by product and feed."""
        counts: Counts = {}
        for _, result in sorted(self._results.items()):
            for product, feeds in result.counts.items():
                mine = counts.setdefault(product, {})
                for feed, count in feeds.items():
                    mine[feed] = mine.get(feed, FeedCount()).plus(count)
        return counts

    def _verdict(self) -> tuple[Verdict | None, str]:
        """Return what all slices together say."""
        total = self._total()
        if total.differences:
            return "diverges", (
                f"{total.differences:,} of {total.compared:,} canonical messages differ: "
                f"{total.changed:,} changed, {total.missing:,} missing, {total.extra:,} extra"
            )
        if not total.equal:
            return None, "nothing could be compared: no archived message belongs to this range"
        return "agrees", f"all {total.equal:,} canonical messages are as they were archived"

    async def _end(self, verdict: Verdict | None, sentence: str) -> CanaryReport:
        """Tell the metrics, show the outcome in the list.

        Raises:
            ApplicationError: there is no verdict.
        """
        report = self._report(verdict, sentence)
        self._state = "done"
        outcome = verdict or "failed"
        workflow.upsert_search_attributes([attributes.OUTCOME.value_set(outcome)])
        workflow.upsert_memo({attributes.REPORT_MEMO: _brief(report)})
        workflow.set_current_details(f"**{outcome}**: {sentence}\n\n{self._details()}")
        await workflow.execute_local_activity_method(
            CanaryActivities.note_canary,
            args=[self._input.candidate_queue, _brief(report)],
            start_to_close_timeout=timedelta(seconds=10),
        )
        if verdict is None:
            raise ApplicationError(sentence, report, type=CANARY_FAILED, non_retryable=True)
        return report

    def _report(self, verdict: Verdict | None, sentence: str) -> CanaryReport:
        plan, results = self._plan, [one for _, one in sorted(self._results.items())]
        counts = self._counts()
        firsts = [one.first for one in results if one.first is not None]
        first = min(firsts, key=lambda one: (one.position, one.line), default=None)
        names = sorted({feed for each in counts.values() for feed in each})
        feeds = {
            feed: _sum(each[feed] for each in counts.values() if feed in each) for feed in names
        }
        return CanaryReport(
            verdict=verdict,
            sentence=sentence if first is None else f"{sentence}; first: {first.sentence()}",
            venue=self._input.venue,
            reason=self._reason,
            since_us=0 if plan is None else plan.since_us,
            until_us=0 if plan is None else plan.until_us,
            first_position=0 if plan is None else plan.first,
            last_position=0 if plan is None else plan.last,
            frames=sum(one.frames for one in results),
            slices=0 if plan is None else len(plan.slices),
            slices_done=len(results),
            candidate=self._candidate,
            counts=counts,
            feeds=feeds,
            total=self._total(),
            first=first,
            objects=[one.object_ for one in results if one.object_],
            kept=sum(one.kept for one in results),
            seconds=workflow.now().timestamp() - self._began_s,
            cpu_s=sum(one.cpu_s for one in results),
        )

    def _enter(self, state: State) -> None:
        self._state = state
        workflow.set_current_details(self._details())

    def _details(self) -> str:
        """Return where things stand, as Markdown."""
        told, who = self.progress(), self._candidate
        rows = [
            ("candidate", "not heard of yet" if who is None else f"version {who.version}"),
            ("slices", f"{told.slices_done:,} of {told.slices:,}"),
            ("raw frames", f"{told.frames:,} of {told.frames_total:,}"),
            ("messages compared", f"{told.compared:,}"),
            ("differences", f"{told.differences:,}"),
        ]
        table = [f"| {name} | {value} |" for name, value in rows]
        return "\n".join([f"canary: {self._state}", "", "| | |", "| --- | ---: |", *table])


def _sum(counts: Iterable[FeedCount]) -> FeedCount:
    total = FeedCount()
    for count in counts:
        total = total.plus(count)
    return total


def _brief(report: CanaryReport) -> CanaryReport:
    """Return the report without what grows with the products and the slices."""
    return report.model_copy(update={"counts": {}, "objects": []})
