"""Audits the lake of a venue's stream, an hour of a lane at a time, and reports.

Each hour is an activity that is told how far the hours before it had come, so that an audit which
is interrupted goes on where it was. docs/runbooks/audit-failed.md is for the person who looks.
"""

from datetime import timedelta
from typing import Literal

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.audit import AuditActivities
    from models.archiving import (
        LAKE_AUDIT,
        LAKE_DAMAGED,
        MAX_TOLD,
        AuditCarry,
        AuditCount,
        AuditedHour,
        AuditHour,
        AuditInput,
        AuditProgress,
        AuditReport,
        LaneHour,
    )
    from workflows import attributes
    from workflows.archive import HEARTBEAT, RETRY

_WITHIN = timedelta(hours=1)


@workflow.defn(name=LAKE_AUDIT)
class LakeAuditWorkflow:
    """One audit."""

    @workflow.init
    def __init__(self, wanted: AuditInput) -> None:
        self._input = wanted
        self._waiting = list(wanted.waiting or [])
        self._carry = wanted.carry
        self._count = wanted.count or AuditCount()
        self._findings, self._holes = list(wanted.findings), list(wanted.holes)
        self._began_s = wanted.began_s or workflow.now().timestamp()

    @workflow.run
    async def run(self, wanted: AuditInput) -> AuditReport:
        """Audit every hour, and report.

        Raises:
            ApplicationError: of type `LakeDamagedError`, with the report in its details, if damage
                stays; of the storage error's type if the lake cannot be read.
        """
        if workflow.info().typed_search_attributes.get(attributes.STREAM) is None:
            workflow.upsert_search_attributes(attributes.introduce(wanted.stream, wanted.venue))
        try:
            if wanted.waiting is None:
                self._waiting = await self._list()
            while self._waiting:
                self._take(await self._audit(self._waiting[0]))
                if self._waiting and workflow.info().is_continue_as_new_suggested():
                    workflow.continue_as_new(self._next_run())
        except ActivityError as error:
            cause = error.cause
            said = cause.message if isinstance(cause, ApplicationError) else str(cause)
            self._end("damaged", f"the audit could not go on: {said}")
        return self._end(self._outcome(), self._sentence())

    @workflow.query
    def progress(self) -> AuditProgress:
        """Tell how far it has come."""
        return AuditProgress(count=self._count, waiting=len(self._waiting), findings=self._findings)

    async def _list(self) -> list[LaneHour]:
        return await workflow.execute_activity_method(
            AuditActivities.list_hours,
            self._input,
            start_to_close_timeout=_WITHIN,
            heartbeat_timeout=HEARTBEAT,
            retry_policy=RETRY,
        )

    async def _audit(self, where: LaneHour) -> AuditedHour:
        carry = self._carry
        if carry is None or (carry.shard, carry.epoch) != (where.shard, where.epoch):
            carry = AuditCarry(shard=where.shard, epoch=where.epoch)
            self._count = self._count.plus(AuditCount(lanes=1))
        return await workflow.execute_activity_method(
            AuditActivities.audit_hour,
            AuditHour(
                where=where,
                carry=carry,
                repair=self._input.repair,
                accept_loss=self._input.accept_loss,
            ),
            start_to_close_timeout=_WITHIN,
            heartbeat_timeout=HEARTBEAT,
            retry_policy=RETRY,
            summary=f"shard {where.shard}, hour {where.hour}",
        )

    def _take(self, audited: AuditedHour) -> None:
        self._waiting.pop(0)
        self._carry = audited.carry
        self._count = self._count.plus(audited.count)
        self._findings = [*self._findings, *audited.findings][:MAX_TOLD]
        self._holes = [*self._holes, *audited.holes][:MAX_TOLD]
        workflow.set_current_details(self._details())

    def _next_run(self) -> AuditInput:
        return self._input.model_copy(
            update={
                "waiting": self._waiting,
                "carry": self._carry,
                "count": self._count,
                "findings": self._findings,
                "holes": self._holes,
                "began_s": self._began_s,
            }
        )

    def _outcome(self) -> Literal["clean", "repaired", "damaged"]:
        count = self._count
        if count.findings > count.repaired:
            return "damaged"
        return "repaired" if count.findings else "clean"

    def _sentence(self) -> str:
        count = self._count
        told = (
            f"{count.rows:,} rows in {count.objects:,} objects of {count.hours:,} hours recounted, "
            f"{count.links:,} links followed, {count.compared:,} messages compared with the log"
        )
        if count.holes:
            told += f"; {count.holes:,} known holes"
        if count.findings:
            told += f"; {count.findings:,} findings, {count.repaired:,} of them mended"
        stays = [one for one in self._findings if not one.repaired]
        return f"{told}; {stays[0].where}: {stays[0].sentence}" if stays else told

    def _end(self, outcome: Literal["clean", "repaired", "damaged"], sentence: str) -> AuditReport:
        """Show the outcome in the list.

        Raises:
            ApplicationError: damage stays.
        """
        report = AuditReport(
            stream=self._input.stream,
            venue=self._input.venue,
            outcome=outcome,
            sentence=sentence,
            count=self._count,
            findings=self._findings,
            holes=self._holes,
            seconds=workflow.now().timestamp() - self._began_s,
        )
        workflow.upsert_search_attributes([attributes.OUTCOME.value_set(outcome)])
        workflow.upsert_memo({attributes.REPORT_MEMO: report})
        workflow.set_current_details(f"**{outcome}**: {sentence}\n\n{self._details()}")
        if outcome == "damaged":
            raise ApplicationError(sentence, report, type=LAKE_DAMAGED, non_retryable=True)
        return report

    def _details(self) -> str:
        """Return where things stand, as Markdown."""
        rows = [f"| {name.strip('_')} | {value:,} |" for name, value in self._count]
        found = [
            f"- {'mended' if one.repaired else '**open**'} {one.kind} `{one.where}`: {one.sentence}"
            for one in self._findings
        ]
        holes = [f"- hole {one}" for one in self._holes]
        return "\n".join(["| | |", "| --- | ---: |", *rows, "", *found, *holes])
