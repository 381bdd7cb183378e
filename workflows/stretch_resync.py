"""One lost stretch of a connection: the parent of a recovery for each gap that it has opened.

Where a venue counts all frames of a connection, a loss may have hit any product on it, and every
one asks for recovery. The parent collects these requests (signal `add`), runs a child for each,
a bounded number at once, and reports on the stretch as a whole.
"""

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import (
    ApplicationError,
    ChildWorkflowError,
    WorkflowAlreadyStartedError,
)
from temporalio.exceptions import CancelledError as CancelledChildError
from temporalio.workflow import ParentClosePolicy

with workflow.unsafe.imports_passed_through():
    from models.recovery import (
        RESYNC_FAILED,
        RESYNC_QUEUE,
        STRETCH_RESYNC,
        Outcome,
        ResyncInput,
        StretchInput,
        StretchProgress,
        StretchReport,
    )
    from workflows import attributes
    from workflows.gap_resync import GapResyncWorkflow

AT_ONCE = 100
"""Children that run at the same time; the server's own limit is far above it."""

LINGER = timedelta(seconds=2)
"""How long it waits for one more request when all are done; later ones go their own way."""

_FAILURES = 100


@workflow.defn(name=STRETCH_RESYNC)
class StretchResyncWorkflow:
    """Recovers everything that one lost stretch has hit."""

    @workflow.init
    def __init__(self, stretch: StretchInput) -> None:
        self._stretch = stretch
        self._waiting = list(stretch.waiting)
        self._count = stretch.count
        self._failures = list(stretch.failures)
        self._open: dict[str, asyncio.Task[None]] = {}
        self._known: set[str] = {gap.resync_id for gap in stretch.waiting}
        self._taken = 0
        self._abort: str | None = None
        self._began = workflow.now()

    @workflow.run
    async def run(self, _: StretchInput) -> StretchReport:
        """Recover all gaps of the stretch, and report.

        Raises:
            ApplicationError: of type `ResyncFailedError` if any was not recovered; the report is
                in its details.
        """
        workflow.set_current_details(self._details())
        try:
            while await self._next():
                self._start(self._waiting.pop(0))
            await workflow.wait_condition(lambda: not self._open)
        except asyncio.CancelledError:
            await self._stop("the workflow was cancelled")
            self._end()
            raise
        if self._waiting and self._abort is None:
            workflow.continue_as_new(
                StretchInput(
                    venue=self._stretch.venue,
                    stretch=self._stretch.stretch,
                    one_run=self._stretch.one_run,
                    waiting=self._waiting,
                    count=self._count,
                    failures=self._failures,
                )
            )
        report = self._end()
        if report.outcome == "failed":
            raise ApplicationError(report.sentence, report, type=RESYNC_FAILED, non_retryable=True)
        return report

    @workflow.signal
    def add(self, gap: ResyncInput) -> None:
        """Take one more gap of this stretch; a repeat changes nothing."""
        if gap.resync_id not in self._known:
            self._known.add(gap.resync_id)
            self._waiting.append(gap)

    @workflow.signal
    async def abort(self, reason: str = "no reason given") -> None:
        """Stop all children; their gaps stay open."""
        await self._stop(reason)

    @workflow.query
    def progress(self) -> StretchProgress:
        """Tell how far it has come."""
        return StretchProgress(
            stretch=self._stretch.stretch,
            waiting=len(self._waiting),
            open=list(self._open),
            count=self._count,
        )

    async def _next(self) -> bool:
        """Wait for a gap to recover and for room; return false when there will be none."""
        while self._abort is None and self._taken < self._stretch.one_run:
            if self._waiting:
                await workflow.wait_condition(lambda: len(self._open) < AT_ONCE)
                return self._abort is None
            try:
                await workflow.wait_condition(
                    lambda: bool(self._waiting) or self._abort is not None, timeout=LINGER
                )
            except TimeoutError:
                if not self._open and not self._waiting:
                    return False
                await workflow.wait_condition(lambda: bool(self._waiting) or not self._open)
        return False

    def _start(self, gap: ResyncInput) -> None:
        self._taken += 1
        self._open[gap.resync_id] = asyncio.create_task(self._recover(gap))

    async def _recover(self, gap: ResyncInput) -> None:
        """Run one child to its end and note how it ended."""
        try:
            report = await workflow.execute_child_workflow(
                GapResyncWorkflow.run,
                gap,
                id=gap.resync_id,
                task_queue=RESYNC_QUEUE,
                parent_close_policy=ParentClosePolicy.ABANDON,
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY,
                search_attributes=attributes.search_attributes(gap),
                static_summary=attributes.summary(gap),
                static_details=attributes.details(gap),
            )
            self._note(report.outcome)
        except WorkflowAlreadyStartedError:
            self._count = self._count.model_copy(update={"elsewhere": self._count.elsewhere + 1})
        except asyncio.CancelledError:
            self._note("aborted")
        except ChildWorkflowError as error:
            if isinstance(error.cause, CancelledChildError):
                self._note("aborted")
            else:
                self._note("failed")
                self._failures = [*self._failures, str(error.cause)][:_FAILURES]
        finally:
            del self._open[gap.resync_id]
            workflow.set_current_details(self._details())

    def _note(self, outcome: Outcome) -> None:
        known = getattr(self._count, outcome)
        self._count = self._count.model_copy(update={outcome: known + 1})

    async def _stop(self, reason: str) -> None:
        self._abort = reason
        for task in self._open.values():
            task.cancel()
        await workflow.wait_condition(lambda: not self._open)

    def _end(self) -> StretchReport:
        """Show the outcome in the list."""
        count, waiting = self._count, len(self._waiting)
        outcome: Outcome = "closed" if count.closed else "already_closed"
        if self._abort is not None or count.aborted or waiting:
            outcome = "aborted"
        if count.failed:
            outcome = "failed"
        told = [f"{number:,} {word.replace('_', ' ')}" for word, number in count if number]
        told += [f"{waiting:,} not begun"] if waiting else []
        sentence = f"{count.total + waiting:,} gaps: {', '.join(told) or 'none was left to do'}"
        report = StretchReport(
            venue=self._stretch.venue,
            stretch=self._stretch.stretch,
            outcome=outcome,
            sentence=sentence if self._abort is None else f"{sentence}; {self._abort}",
            count=count,
            failures=self._failures,
            seconds=(workflow.now() - self._began).total_seconds(),
        )
        workflow.upsert_search_attributes([attributes.OUTCOME.value_set(outcome)])
        workflow.upsert_memo({attributes.REPORT_MEMO: report})
        workflow.set_current_details(f"**{outcome}**: {report.sentence}\n\n{self._details()}")
        return report

    def _details(self) -> str:
        """Return where things stand, as Markdown."""
        rows = [f"| {word.replace('_', ' ')} | {number} |" for word, number in self._count]
        rows += [f"| open | {len(self._open)} |", f"| waiting | {len(self._waiting)} |"]
        table = ["| gaps | |", "| --- | ---: |", *rows]
        failures = [f"- {sentence}" for sentence in self._failures]
        return "\n".join([f"lost stretch `{self._stretch.stretch}`", "", *table, "", *failures])
