"""Recovers one gap: fetch, publish the marker, await the gate, verify the chain, report.

Decides only; every side effect is an activity. The venue's answers go from the activity into
the log and never through here. docs/runbooks/gap-resync.md is for the person who looks at it.
"""

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError
from temporalio.exceptions import TimeoutError as TimedOutError

with workflow.unsafe.imports_passed_through():
    from activities.chain import ChainActivities
    from activities.giving_up import GivingUpActivities
    from activities.heartbeats import HEARTBEAT_WITHIN_S
    from activities.outcome import OutcomeActivities
    from activities.venue import VenueActivities
    from models.recovery import (
        BY_TRADE_ID,
        FINAL_ERRORS,
        GAP_RESYNC,
        NOT_RECOVERED,
        RESYNC_FAILED,
        VENUE_QUEUE,
        Answer,
        Await,
        Fetch,
        Fetched,
        GiveUp,
        Noted,
        Outcome,
        Progress,
        ResyncInput,
        ResyncReport,
        Step,
        Verify,
    )
    from models.resync import MANUAL
    from workflows import attributes
    from workflows.journal import Journal

Ending = tuple[Outcome, str]
"""The outcome, and a sentence about it."""

STALE_WHEN_GIVEN_UP = "stale-when-given-up"
"""Patch: since then a recovery that fails tells the normalizer."""

_SECOND = timedelta(seconds=1)
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 3.0
_HEARTBEAT = timedelta(seconds=HEARTBEAT_WITHIN_S)
_RETRY = RetryPolicy(
    initial_interval=timedelta(seconds=_FIRST_PAUSE_S),
    maximum_interval=timedelta(seconds=10),
    non_retryable_error_types=FINAL_ERRORS,
)


@workflow.defn(name=GAP_RESYNC)
class GapResyncWorkflow:
    """One gap of one feed of one product."""

    @workflow.init
    def __init__(self, gap: ResyncInput) -> None:
        """Give a resync by hand the id that tells the normalizer that it is one."""
        if not gap.resync_id:
            now_us = int(workflow.now().timestamp() * 1e6)
            name = f"resync/{gap.venue}/{gap.product}/{gap.feed}{MANUAL}{now_us}"
            gap = gap.model_copy(update={"resync_id": name})
        self._gap = gap
        self._journal = Journal(gap, _now())
        self._abort: str | None = None
        self._stopping = False

    @workflow.run
    async def run(self, _: ResyncInput) -> ResyncReport:
        """Recover, and report.

        Raises:
            ApplicationError: of type `ResyncFailedError`, with the report in its details.
        """
        self._introduce()
        recovery = asyncio.create_task(self._recover())
        try:
            await workflow.wait_condition(lambda: recovery.done() or self._abort is not None)
            ended = await recovery if recovery.done() else await self._stop(recovery)
            return await self._end(*(ended or ("aborted", f"aborted: {self._abort}")))
        except ActivityError as error:
            report = await self._fail(_why(error))
        except ApplicationError as error:
            report = await self._fail(error.message)
        except asyncio.CancelledError:
            await self._stop(recovery)
            await self._end("aborted", "the workflow was cancelled")
            raise
        raise ApplicationError(
            f"{report.product} {report.feed} was not recovered: {report.sentence}",
            report,
            type=RESYNC_FAILED,
            non_retryable=True,
        )

    @workflow.query
    def progress(self) -> Progress:
        """Tell how far it has come."""
        return self._journal.progress(_now())

    @workflow.signal
    def abort(self, reason: str = "no reason given") -> None:
        """Stop; the gap stays open, and the next request for it starts anew."""
        self._abort = reason

    def _introduce(self) -> None:
        """Show in the list what a starter by hand has left out."""
        gap = self._gap
        if workflow.info().typed_search_attributes.get(attributes.PRODUCT) is None:
            workflow.upsert_search_attributes(
                [
                    attributes.VENUE.value_set(gap.venue),
                    attributes.PRODUCT.value_set(gap.product),
                    attributes.FEED.value_set(gap.feed),
                ]
            )
        workflow.set_current_details(attributes.details(gap))

    async def _stop(self, recovery: asyncio.Task[Ending]) -> Ending | None:
        """Cancel what it is doing and wait; return how it ended, if it was faster."""
        self._stopping = True
        recovery.cancel()
        await workflow.wait([recovery])
        if recovery.cancelled() or recovery.exception() is not None:
            return None
        return recovery.result()

    def _enter(self, step: Step, note: str = "") -> None:
        """Begin a step, unless the order to stop got lost in an activity that ended with it."""
        if self._stopping:
            raise asyncio.CancelledError
        self._journal.enter(step, _now(), note)

    async def _recover(self) -> Ending:
        noted = await self._note()
        journal, gap = self._journal, self._gap
        pause_s, position = _FIRST_PAUSE_S, noted.newest
        while journal.rounds < gap.max_rounds:
            journal.rounds += 1
            self._enter("fetching")
            fetched = await self._fetch(noted)
            if fetched.marker is not None:
                self._enter("awaiting", f"reaches to {fetched.newest}")
                answer = await self._await(fetched.marker, position)
                if answer.state == "live":
                    return await self._verify(noted, answer)
                position = answer.position
            too_old = fetched.too_old or "the normalizer found that it does not reach past the gap"
            self._enter("too_old", too_old)
            await workflow.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        raise ApplicationError(
            f"after {journal.rounds} fetches the venue's answer still did not reach past the gap: "
            f"{journal.steps[-1].note or 'too old'}",
            type=NOT_RECOVERED,
        )

    async def _note(self) -> Noted:
        """Note the position first: what is published after it cannot be missed."""
        return await workflow.execute_local_activity_method(
            ChainActivities.note_position,
            self._gap,
            start_to_close_timeout=10 * _SECOND,
            schedule_to_close_timeout=timedelta(seconds=self._gap.give_up_after_s),
            retry_policy=_RETRY,
        )

    async def _fetch(self, noted: Noted) -> Fetched:
        """Get what is missing into the log, in as many requests as it takes."""
        gap = self._gap
        after = gap.after if gap.reason in BY_TRADE_ID else noted.last_trade_id
        fetch = Fetch(
            gap=gap,
            run=workflow.info().run_id[:13],
            round_=self._journal.rounds,
            after=after if gap.feed == "trades" else None,
        )
        fetched = await self._request(fetch)
        while fetched.more is not None and not self._stopping:
            fetched = await self._request(fetched.more)
        return fetched

    async def _request(self, fetch: Fetch) -> Fetched:
        gap = self._gap
        fetched = await workflow.execute_activity_method(
            VenueActivities.fetch_and_publish,
            fetch,
            task_queue=VENUE_QUEUE,
            start_to_close_timeout=60 * _SECOND,
            schedule_to_close_timeout=timedelta(seconds=gap.give_up_after_s),
            heartbeat_timeout=_HEARTBEAT,
            retry_policy=_RETRY,
            summary=f"{gap.feed} of {gap.product}, newer than {fetch.after or 'the gap'}",
        )
        self._journal.note_fetched(fetched)
        return fetched

    async def _await(self, marker: int, after: int) -> Answer:
        """Wait for the normalizer, however often the worker that waits is replaced."""
        gap = self._gap
        return await workflow.execute_activity_method(
            ChainActivities.await_reopening,
            Await(
                venue=gap.venue,
                product=gap.product,
                feed=gap.feed,
                resync_id=gap.resync_id,
                marker=marker,
                after=after,
            ),
            schedule_to_close_timeout=timedelta(seconds=gap.give_up_after_s),
            heartbeat_timeout=_HEARTBEAT,
            retry_policy=_RETRY,
            summary=f"the normalizer's answer to MD_RAW {marker}",
        )

    async def _verify(self, noted: Noted, answer: Answer) -> Ending:
        """Read the chain back across the gap; completeness is shown, not believed."""
        gap, journal = self._gap, self._journal
        self._enter("verifying", "live")
        journal.live_at = _now()
        known = gap.reason in BY_TRADE_ID
        journal.verified = await workflow.execute_activity_method(
            ChainActivities.verify_chain,
            Verify(
                venue=gap.venue,
                product=gap.product,
                feed=gap.feed,
                resync_id=gap.resync_id,
                first=noted.announced,
                last=answer.position,
                after=gap.after if known else None,
                before=gap.before if known else None,
            ),
            start_to_close_timeout=600 * _SECOND,
            schedule_to_close_timeout=timedelta(seconds=gap.give_up_after_s),
            heartbeat_timeout=_HEARTBEAT,
            retry_policy=_RETRY,
            summary=f"MD_TICKS {noted.announced + 1} to {answer.position}",
        )
        if journal.closed_by(answer):
            return "closed", journal.sentence()
        return "already_closed", f"no gap was open; {journal.verified.links:,} links verified"

    async def _fail(self, sentence: str) -> ResyncReport:
        """Have the feed announced as stale, as far as that is possible, and end."""
        if workflow.patched(STALE_WHEN_GIVEN_UP):
            gap = self._gap
            try:
                await workflow.execute_activity_method(
                    GivingUpActivities.give_up,
                    GiveUp(
                        venue=gap.venue,
                        product=gap.product,
                        feed=gap.feed,
                        resync_id=gap.resync_id,
                        run=workflow.info().run_id[:13],
                        sentence=sentence,
                    ),
                    start_to_close_timeout=10 * _SECOND,
                    schedule_to_close_timeout=60 * _SECOND,
                    retry_policy=_RETRY,
                )
            except ActivityError as error:  # the gap's age will make it stale as well
                workflow.logger.warning("could not tell the normalizer: %s", error.cause)
        return await self._end("failed", sentence)

    async def _end(self, outcome: Outcome, sentence: str) -> ResyncReport:
        """Show the outcome in the list and count it."""
        report = self._journal.report(outcome, sentence, _now())
        workflow.upsert_search_attributes([attributes.OUTCOME.value_set(outcome)])
        workflow.upsert_memo({attributes.REPORT_MEMO: report})
        workflow.set_current_details(attributes.ending(report))
        await workflow.execute_local_activity_method(
            OutcomeActivities.note_outcome,
            report,
            start_to_close_timeout=10 * _SECOND,
            retry_policy=_RETRY,
        )
        return report


def _now() -> float:
    return workflow.now().timestamp()


def _why(error: ActivityError) -> str:
    """Say what an activity failed of, for a person; a time-out hides the last error beneath it."""
    cause: BaseException | None = error.cause
    while isinstance(cause, TimedOutError) and cause.cause is not None:
        cause = cause.cause
    if isinstance(cause, ApplicationError):
        final = cause.non_retryable or cause.type in FINAL_ERRORS
        return cause.message if final else f"given up: {cause.message}"
    if error.activity_type == "await_reopening":
        return "the normalizer has not answered: check that the one of this shard runs"
    return f"{error.activity_type}: {cause or error.message}"
