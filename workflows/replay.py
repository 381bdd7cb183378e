"""Replays a stretch of the past into a namespace of its own, and deletes that in the end.

Decides only; `activities.replay` does the work, and goes on at the exact record however often it
is stopped. docs/runbooks/replay.md is for the person who looks at it.
"""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from datetime import timedelta
from typing import Any, Literal, TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    CancelledError,
    WorkflowAlreadyStartedError,
)
from temporalio.exceptions import TimeoutError as TimedOutError

with workflow.unsafe.imports_passed_through():
    from activities.heartbeats import HEARTBEAT_WITHIN_S
    from activities.replay import ReplayActivities
    from models.replaying import (
        BAD_REPLAY,
        FORGET_REPLAY,
        REPLAY,
        REPLAY_FAILED,
        BadReplayError,
        ForgetInput,
        Forgotten,
        Outcome,
        ReplayInput,
        ReplayOpen,
        ReplayPlan,
        ReplayProgress,
        ReplayReport,
        ReplayStep,
        forget_id,
        namespace_of,
    )
    from models.subjects import SubjectError
    from storage.history import text_of
    from workflows import attributes

RETRY = RetryPolicy(initial_interval=timedelta(seconds=0.2), maximum_interval=timedelta(seconds=10))
"""For ever: what may pass is waited for, and shows under Pending Activities meanwhile."""

T = TypeVar("T")
_WAIT = workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED
_HEARTBEAT = timedelta(seconds=HEARTBEAT_WITHIN_S)
_OPENING = timedelta(minutes=30)
_LONGEST = timedelta(days=365)
_DELETING = timedelta(minutes=1)
_DELETE = RetryPolicy(initial_interval=timedelta(seconds=0.2), maximum_attempts=8)

Wish = Literal["run", "pause", "abort"]


@workflow.defn(name=REPLAY)
class ReplayWorkflow:
    """One replay."""

    @workflow.init
    def __init__(self, wanted: ReplayInput) -> None:
        self._input, self._speed = wanted, wanted.speed
        self._wish: Wish = "run"
        self._reason = ""
        self._round = 0
        self._plan = "what is not known yet"
        self._told = ReplayProgress(namespace="", speed=wanted.speed)

    @workflow.run
    async def run(self, _: ReplayInput) -> ReplayReport:
        """Replay to the end, or until told to stop.

        Raises:
            ApplicationError: of type `ReplayFailedError`, with the report in its details, when an
                error is final.
        """
        self._introduce()
        try:
            self._note(namespace=self._checked())
            plan = await self._while("run", "pause", work=self._open())
            while plan is not None and self._wish != "abort" and self._told.state != "complete":
                await self._go(plan)
        except (ActivityError, ApplicationError) as error:
            raise await self._failure(error) from error
        except asyncio.CancelledError:
            await self._end("aborted", "aborted: the workflow was cancelled")
            raise
        if self._told.state == "complete":
            return await self._end("complete", f"replayed {self._so_much()}")
        return await self._end("aborted", f"aborted ({self._reason}): {self._so_much()}")

    @workflow.signal
    def pause(self, reason: str = "no reason given") -> None:
        """Stop publishing at an exact record until `resume`."""
        if self._wish == "run":
            self._wish, self._reason = "pause", reason

    @workflow.signal
    def resume(self, speed: float | None = None) -> None:
        """Go on behind the newest record, at another speed if one is given."""
        if self._wish == "pause":
            self._wish = "run"
            if speed is not None and speed >= 0:
                self._speed = speed

    @workflow.signal
    def abort(self, reason: str = "no reason given") -> None:
        """End with a report of how far it came; the namespace stays for its time."""
        self._wish, self._reason = "abort", reason

    @workflow.signal
    def note(self, told: ReplayProgress) -> None:
        """Take what the activity tells of itself; what it returns in the end counts for more."""
        if self._told.state == "running":
            self._told = told
            workflow.set_current_details(self._details())

    @workflow.query
    def progress(self) -> ReplayProgress:
        """Tell how far it has come."""
        return self._told

    def _introduce(self) -> None:
        """Show in the list what a starter by hand has left out."""
        if workflow.info().typed_search_attributes.get(attributes.VENUE) is None:
            workflow.upsert_search_attributes(attributes.introduce("raw", self._input.venue))

    def _checked(self) -> str:
        """Return the namespace of an input that can be meant.

        Raises:
            ApplicationError: it cannot.
        """
        try:
            self._input.check()
            return namespace_of(self._input.name, workflow.info().workflow_id)
        except (BadReplayError, SubjectError) as error:
            raise ApplicationError(str(error), type=BAD_REPLAY) from error

    async def _open(self) -> ReplayPlan:
        namespace = self._told.namespace
        plan = await workflow.execute_activity_method(
            ReplayActivities.open_replay,
            ReplayOpen(what=self._input, namespace=namespace),
            start_to_close_timeout=_OPENING,
            heartbeat_timeout=_HEARTBEAT,
            retry_policy=RETRY,
            cancellation_type=_WAIT,
            summary=f"finding what to replay into {namespace}",
        )
        self._plan = plan.sentence
        return plan

    async def _go(self, plan: ReplayPlan) -> None:
        """Replay until the end or another order; while paused, wait for one."""
        if self._wish == "pause":
            self._note(state="paused", rate=0.0, eta_s=None)
            await workflow.wait_condition(lambda: self._wish != "pause")
            return
        self._round += 1
        so_far = self._told if self._round > 1 else None
        self._note(state="running", speed=self._speed)
        told = await self._while("run", work=self._replay(plan, so_far))
        if told is not None:
            self._note(**told.model_dump())

    async def _replay(self, plan: ReplayPlan, so_far: ReplayProgress | None) -> ReplayProgress:
        behind = "from the beginning" if so_far is None else f"behind {so_far.position:,}"
        return await workflow.execute_activity_method(
            ReplayActivities.replay,
            ReplayStep(
                what=self._input,
                namespace=self._told.namespace,
                plan=plan,
                speed=self._speed,
                round_=self._round,
                so_far=so_far,
            ),
            start_to_close_timeout=_LONGEST,
            heartbeat_timeout=_HEARTBEAT,
            retry_policy=RETRY,
            cancellation_type=_WAIT,
            summary=f"{behind}, {attributes.speed(self._speed)}",
        )

    async def _while(self, *wishes: Wish, work: Coroutine[Any, Any, T]) -> T | None:
        """Do work while the wish is one of these; return none if that stopped it before its end."""
        task, stopped = asyncio.create_task(work), False
        try:
            await workflow.wait_condition(lambda: task.done() or self._wish not in wishes)
        finally:
            if not task.done():
                stopped = task.cancel()
                await workflow.wait([task])
        if stopped and (task.cancelled() or _was_stopped(task.exception())):
            return None
        return task.result()

    def _note(self, **told: Any) -> None:  # noqa: ANN401  # any of the fields
        self._told = self._told.model_copy(update=told)
        workflow.set_current_details(self._details())

    async def _failure(self, error: ActivityError | ApplicationError) -> ApplicationError:
        """Return how a replay fails, with what was done up to there."""
        cause = error.cause if isinstance(error, ActivityError) else error
        sentence = cause.message if isinstance(cause, ApplicationError) else str(cause)
        if isinstance(cause, ApplicationError) and cause.details:
            self._told = ReplayProgress.model_validate(cause.details[0])
        if self._told.messages:
            sentence = f"{sentence}; up to there: {self._so_much()}"
        report = await self._end("failed", sentence)
        return ApplicationError(
            f"the replay failed: {sentence}", report, type=REPLAY_FAILED, non_retryable=True
        )

    async def _end(self, outcome: Outcome, sentence: str) -> ReplayReport:
        """Show the outcome in the list, and have the namespace deleted when its time is over."""
        told = self._told.model_dump() | {"state": outcome, "eta_s": None}
        seconds = self._told.seconds
        told["rate"] = self._told.frames / seconds if seconds else 0.0
        report = ReplayReport(**told, outcome=outcome, sentence=sentence)
        self._told = ReplayProgress(**told)
        workflow.upsert_search_attributes([attributes.OUTCOME.value_set(outcome)])
        workflow.upsert_memo({attributes.REPORT_MEMO: report})
        workflow.set_current_details(f"**{outcome}**: {sentence}\n\n{self._details()}")
        if self._told.namespace:
            await self._have_it_forgotten()
        return report

    async def _have_it_forgotten(self) -> None:
        namespace = self._told.namespace
        with suppress(WorkflowAlreadyStartedError):  # by hand, a moment ago
            await workflow.start_child_workflow(
                FORGET_REPLAY,
                ForgetInput(
                    namespace=namespace,
                    keep_minutes=self._input.keep_minutes,
                    owner=workflow.info().run_id,
                ),
                id=forget_id(namespace),
                parent_close_policy=workflow.ParentClosePolicy.ABANDON,
                static_summary=f"{namespace}: delete it after {self._input.keep_minutes:g} minutes",
            )

    def _so_much(self) -> str:
        told = self._told
        if not told.messages:
            return "nothing was published"
        return (
            f"{told.frames:,} frames in {told.messages:,} messages, up to position "
            f"{told.position:,} of {text_of(told.time_us)}"
        )

    def _details(self) -> str:
        """Return where things stand, as Markdown."""
        told = self._told
        rows = [
            ("namespace", f"`{told.namespace}`"),
            ("state", told.state),
            ("position", f"{told.position:,}"),
            ("time of the record", text_of(told.time_us) if told.time_us else ""),
            ("frames", f"{told.frames:,}"),
            ("done", f"{told.fraction:.1%}"),
            ("frames a second", f"{told.rate:,.0f}"),
            ("speed", attributes.speed(told.speed)),
        ]
        table = [f"| {name} | {value} |" for name, value in rows]
        return "\n".join([f"replay of {self._plan}", "", "| | |", "| --- | ---: |", *table])


@workflow.defn(name=FORGET_REPLAY)
class ForgetReplayWorkflow:
    """Deletes a namespace when it has been kept for long enough."""

    def __init__(self) -> None:
        self._now = False

    @workflow.run
    async def run(self, wanted: ForgetInput) -> Forgotten:
        """Wait, and delete."""
        with suppress(TimeoutError):
            await workflow.wait_condition(
                lambda: self._now, timeout=timedelta(minutes=wanted.keep_minutes)
            )
        return await workflow.execute_activity_method(
            ReplayActivities.forget_replay,
            wanted.model_copy(update={"owner": ""}) if self._now else wanted,
            start_to_close_timeout=_DELETING,
            heartbeat_timeout=_HEARTBEAT,
            retry_policy=_DELETE,
        )

    @workflow.signal
    def now(self) -> None:
        """Wait no longer."""
        self._now = True


def _was_stopped(error: BaseException | None) -> bool:
    """Tell whether work ended because it was told to, or its worker was lost in that moment."""
    stopped = (CancelledError, TimedOutError)
    return isinstance(error, ActivityError) and isinstance(error.cause, stopped)
