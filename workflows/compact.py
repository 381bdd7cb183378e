"""Makes one object of the many small ones of an hour that is over.

The manifest is swapped in one step; the small objects stay for a while, for readers that have
loaded the manifest before. The wait is durable: whatever is killed meanwhile, they are swept.
"""

from datetime import timedelta
from typing import Literal

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.compaction import CompactionActivities
    from models.archiving import (
        COMPACT,
        COMPACT_FAILED,
        MAX_TOLD,
        CompactHour,
        CompactInput,
        CompactReport,
        LaneHour,
    )
    from workflows import attributes
    from workflows.archive import HEARTBEAT, RETRY

_WITHIN = timedelta(minutes=30)


@workflow.defn(name=COMPACT)
class CompactWorkflow:
    """One round over the hours of a venue's stream."""

    @workflow.run
    async def run(self, wanted: CompactInput) -> CompactReport:
        """Compact, wait for readers, sweep, report.

        Raises:
            ApplicationError: of type `CompactFailedError`, with the report in its details: an
                hour was left as it was, or the lake cannot be read at all.
        """
        if workflow.info().typed_search_attributes.get(attributes.STREAM) is None:
            workflow.upsert_search_attributes(attributes.introduce(wanted.stream, wanted.venue))
        report = CompactReport(
            stream=wanted.stream, venue=wanted.venue, outcome="nothing", sentence=""
        )
        try:
            hours = await workflow.execute_activity_method(
                CompactionActivities.find_hours,
                wanted,
                start_to_close_timeout=_WITHIN,
                heartbeat_timeout=HEARTBEAT,
                retry_policy=RETRY,
            )
            for where in hours:
                report = await self._compact(wanted, where, report)
            if hours:
                await workflow.sleep(timedelta(seconds=wanted.linger_s))
            for where in hours:
                report = report.model_copy(
                    update={"swept": report.swept + await self._sweep(where)}
                )
        except ActivityError as error:
            report = _failed(report, _why(error))
        return self._end(report)

    async def _compact(
        self, wanted: CompactInput, where: LaneHour, report: CompactReport
    ) -> CompactReport:
        """Compact one hour; one that cannot be is told, and does not stop the others."""
        try:
            done = await workflow.execute_activity_method(
                CompactionActivities.compact_hour,
                CompactHour(
                    where=where, max_rows=wanted.max_rows, max_text_bytes=wanted.max_text_bytes
                ),
                start_to_close_timeout=_WITHIN,
                heartbeat_timeout=HEARTBEAT,
                retry_policy=RETRY,
                summary=_named(where),
            )
        except ActivityError as error:
            return _failed(report, f"{_named(where)}: {_why(error)}")
        return report.model_copy(
            update={
                "hours": report.hours + 1,
                "merged": report.merged + done.merged,
                "into": report.into + done.into,
                "rows": report.rows + done.rows,
            }
        )

    async def _sweep(self, where: LaneHour) -> int:
        return await workflow.execute_activity_method(
            CompactionActivities.sweep_hour,
            where,
            start_to_close_timeout=_WITHIN,
            heartbeat_timeout=HEARTBEAT,
            retry_policy=RETRY,
            summary=_named(where),
        )

    def _end(self, report: CompactReport) -> CompactReport:
        """Show the outcome in the list."""
        outcome: Literal["compacted", "nothing", "failed"] = (
            "failed" if report.failures else "compacted" if report.hours else "nothing"
        )
        sentence = f"{report.hours:,} hours: {report.merged:,} objects into {report.into:,}"
        if report.failures:
            sentence += f"; {len(report.failures):,} failures: {report.failures[0]}"
        report = report.model_copy(update={"outcome": outcome, "sentence": sentence})
        workflow.upsert_search_attributes([attributes.OUTCOME.value_set(outcome)])
        workflow.upsert_memo({attributes.REPORT_MEMO: report})
        failures = [f"- {one}" for one in report.failures]
        workflow.set_current_details("\n".join([f"**{outcome}**: {sentence}", "", *failures]))
        if outcome == "failed":
            raise ApplicationError(sentence, report, type=COMPACT_FAILED, non_retryable=True)
        return report


def _failed(report: CompactReport, sentence: str) -> CompactReport:
    return report.model_copy(update={"failures": [*report.failures, sentence][:MAX_TOLD]})


def _named(where: LaneHour) -> str:
    return f"shard {where.shard}, hour {where.hour}"


def _why(error: ActivityError) -> str:
    cause = error.cause
    return cause.message if isinstance(cause, ApplicationError) else str(cause)
