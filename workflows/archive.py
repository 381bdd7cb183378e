"""Archives one lane for ever: one shard of one venue in a stream, range after range.

Decides only; `activities.archive` does the work. The checkpoint moves with the success of an
activity, never before. A schedule starts it, and starts it again when it has ended.
docs/runbooks/archive-behind.md is for the person who looks at it.
"""

import asyncio
from datetime import timedelta
from typing import Literal

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.archive import ArchiveActivities
    from activities.heartbeats import HEARTBEAT_WITHIN_S
    from models.archiving import (
        ARCHIVE,
        ARCHIVE_FAILED,
        MAX_TOLD,
        Archived,
        ArchiveInput,
        ArchiveProgress,
        ArchiveReport,
        ArchiveStep,
        Checkpoint,
    )
    from workflows import attributes

RETRY = RetryPolicy(initial_interval=timedelta(seconds=0.2), maximum_interval=timedelta(seconds=10))
"""For ever: what may pass is waited for, and shows under Pending Activities meanwhile."""

HEARTBEAT = timedelta(seconds=HEARTBEAT_WITHIN_S)

STOP_WAITS = "stop-waits-for-its-activity"
"""Patch: a stopped run ends only when its activity has ended, and counts what that has returned.

Before, the activity heard of the stop by its next heartbeat, after the run had ended, and could
store a range after the report.
"""

_WAIT = workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED
_LEAVE = workflow.ActivityCancellationType.TRY_CANCEL

_STORING = timedelta(minutes=10)
"""How long storing one range may take in one attempt, beyond collecting it."""


@workflow.defn(name=ARCHIVE)
class ArchiveWorkflow:
    """One lane."""

    @workflow.init
    def __init__(self, lane: ArchiveInput) -> None:
        self._input = lane
        self._checkpoint: Checkpoint | None = lane.checkpoint
        self._totals, self._holes = lane.totals, list(lane.holes)
        self._newest, self._lag_s, self._told = 0, 0.0, ""
        self._stop: str | None = None

    @workflow.run
    async def run(self, _: ArchiveInput) -> ArchiveReport:
        """Archive until told to stop.

        Raises:
            ApplicationError: of type `ArchiveFailedError`, with the report in its details, when
                an error is final. The schedule tries again with a new run.
        """
        if workflow.info().typed_search_attributes.get(attributes.STREAM) is None:
            workflow.upsert_search_attributes(
                attributes.introduce(self._input.stream, self._input.venue)
            )
        workflow.set_current_details(self._details())
        steps = self._input.steps
        try:
            while await self._step():
                steps -= 1
                if steps <= 0:
                    workflow.continue_as_new(self._next_run())
        except ActivityError as error:
            cause = error.cause
            said = cause.message if isinstance(cause, ApplicationError) else str(cause)
            report = self._end("failed", said)
            raise ApplicationError(
                f"{self._input.lane} is not archived: {said}",
                report,
                type=ARCHIVE_FAILED,
                non_retryable=True,
            ) from error
        return self._end("stopped", f"stopped: {self._stop}")

    @workflow.signal
    def stop(self, reason: str = "no reason given") -> None:
        """End this run; pause its schedule first, or it is started again."""
        self._stop = reason

    @workflow.query
    def progress(self) -> ArchiveProgress:
        """Tell how far it has come."""
        checkpoint, totals = self._checkpoint, self._totals
        return ArchiveProgress(
            stream=self._input.stream,
            venue=self._input.venue,
            shard=self._input.shard,
            epoch=None if checkpoint is None else checkpoint.epoch,
            position=None if checkpoint is None else checkpoint.position,
            newest=self._newest,
            lag_s=self._lag_s,
            objects=totals.objects,
            rows=totals.rows,
            bytes_=totals.bytes_,
            holes=totals.holes,
            last_holes=self._holes,
            told=self._told,
        )

    async def _step(self) -> bool:
        """Archive one range; return false when told to stop."""
        step = asyncio.create_task(self._archive())
        await workflow.wait_condition(lambda: step.done() or self._stop is not None)
        if not step.done():
            step.cancel()
            await workflow.wait([step])
            is_done = not step.cancelled() and step.exception() is None
            if is_done and workflow.patched(STOP_WAITS):
                self._note(step.result())
            return False
        self._note(step.result())
        return self._stop is None

    async def _archive(self) -> Archived:
        lane, at = self._input, self._checkpoint
        return await workflow.execute_activity_method(
            ArchiveActivities.archive,
            ArchiveStep(
                stream=lane.stream,
                venue=lane.venue,
                shard=lane.shard,
                flush_s=lane.flush_s,
                flush_bytes=lane.flush_bytes,
                checkpoint=at,
                newest=self._newest,
            ),
            start_to_close_timeout=timedelta(seconds=lane.flush_s) + _STORING,
            heartbeat_timeout=HEARTBEAT,
            retry_policy=RETRY,
            cancellation_type=_WAIT if workflow.patched(STOP_WAITS) else _LEAVE,
            summary="finding the checkpoint" if at is None else f"behind {at.position}",
        )

    def _note(self, archived: Archived) -> None:
        totals = self._totals
        self._totals = totals.model_copy(
            update={
                "objects": totals.objects + archived.objects,
                "rows": totals.rows + archived.rows,
                "bytes_": totals.bytes_ + archived.bytes_,
                "holes": totals.holes + len(archived.holes),
            }
        )
        self._checkpoint, self._newest = archived.checkpoint, archived.newest
        self._lag_s, self._told = archived.lag_s, archived.told or self._told
        if archived.holes:
            self._holes = [*self._holes, *archived.holes][-MAX_TOLD:]
            workflow.upsert_search_attributes([attributes.OUTCOME.value_set("hole")])
        workflow.set_current_details(self._details())

    def _next_run(self) -> ArchiveInput:
        return self._input.model_copy(
            update={
                "checkpoint": self._checkpoint,
                "totals": self._totals,
                "holes": self._holes,
            }
        )

    def _end(self, outcome: Literal["stopped", "failed"], sentence: str) -> ArchiveReport:
        """Show the outcome in the list."""
        told = self.progress().model_dump()
        report = ArchiveReport(**told, outcome=outcome, sentence=sentence)
        workflow.upsert_search_attributes([attributes.OUTCOME.value_set(outcome)])
        workflow.upsert_memo({attributes.REPORT_MEMO: report})
        workflow.set_current_details(f"**{outcome}**: {sentence}\n\n{self._details()}")
        return report

    def _details(self) -> str:
        """Return where things stand, as Markdown."""
        at, totals = self._checkpoint, self._totals
        rows = [
            ("archived up to", "not known yet" if at is None else f"{at.position:,}"),
            ("newest in the log", f"{self._newest:,}"),
            ("objects", f"{totals.objects:,}"),
            ("rows", f"{totals.rows:,}"),
            ("bytes", f"{totals.bytes_:,}"),
            ("holes", f"{totals.holes:,}"),
        ]
        table = [f"| {name} | {value} |" for name, value in rows]
        holes = [f"- **lost**: {one.first:,} to {one.last:,}: {one.reason}" for one in self._holes]
        told = [self._told] if self._told else []
        heading = f"archive of `{self._input.lane}`"
        return "\n".join([heading, "", "| | |", "| --- | ---: |", *table, "", *told, *holes])
