"""`ledgerflux archive` tells how far each lane is archived; `ledgerflux audit` recounts the lake.

Speak to Temporal only; the archive worker does the work. The runbooks archive-behind,
archive-hole and audit-failed in docs/runbooks tell when.
"""

import json
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Annotated, Literal

import typer
from rich.table import Table
from temporalio.client import (
    Client,
    ScheduleActionExecutionStartWorkflow,
    WorkflowFailureError,
    WorkflowQueryFailedError,
)
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError

from cli.temporal import EXIT_FAILED, console, known_settings, run, say
from models.archiving import (
    LAKE_AUDIT,
    LAKE_QUEUE,
    ArchiveProgress,
    AuditInput,
    AuditReport,
)
from models.recovery import Payload
from models.settings import Settings
from workflows import attributes
from workflows.connect import connect, leave, ui_link

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]

_LANES = "archive/"
_ANSWER = timedelta(seconds=3)


class LaneRow(Payload):
    """A lane in the list.

    `state`: running, paused, or how its last run ended. `error`: why it does not get on.
    """

    schedule: str
    state: str
    progress: ArchiveProgress | None
    error: str
    workflow_id: str
    link: str


def archive(as_json: Json = False) -> None:
    """List the lanes: how far each is archived, what was lost, and what is in the way."""
    settings = known_settings()
    leave(run(_archive(settings, as_json=as_json), settings))


def audit(
    stream: Annotated[
        Literal["ticks", "raw"], typer.Option(help="Canonical lines, or raw ones.")
    ] = "ticks",
    venue: Annotated[str | None, typer.Option(help="Venue; default from INGEST_VENUE.")] = None,
    since: Annotated[
        str | None, typer.Option(help="From this hour UTC on, such as 2026-11-20T10.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Up to this hour UTC, itself included.")] = None,
    hours: Annotated[int, typer.Option(min=1, help="Without --since: so many hours back.")] = 26,
    repair: Annotated[bool, typer.Option(help="Archive again what is missing or damaged.")] = True,
    accept_loss: Annotated[
        bool,
        typer.Option("--accept-loss", help="What the log has no more is a hole from now on."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Recount the lake, follow its chains, compare it with the log, and mend what can be mended.

    Exit status 1 means that damage stays, or that the lake cannot be read.
    """
    if accept_loss and not repair:
        raise typer.BadParameter("--accept-loss changes the lake: give it without --no-repair")
    settings = known_settings()
    wanted = AuditInput(
        stream=stream,
        venue=venue or settings.ingest_venue,
        since=since,
        until=until,
        hours=hours,
        repair=repair,
        accept_loss=accept_loss,
    )
    leave(run(_audit(settings, wanted, as_json=as_json), settings))


async def _archive(settings: Settings, *, as_json: bool) -> int:
    client = await connect(settings)
    rows = [row async for row in lane_rows(client, settings)]
    if as_json:
        for row in rows:
            typer.echo(row.model_dump_json())
    elif rows:
        console().print(_table(rows))
    else:
        say("nothing is archived here: start an archive worker (`make run-archive`)")
    return 0 if rows else EXIT_FAILED


async def lane_rows(client: Client, settings: Settings) -> AsyncIterator[LaneRow]:
    """Iterate over the lanes that have a schedule, by name.

    Raises:
        RPCError: the server does not answer.
    """
    names = [one.id async for one in await client.list_schedules() if one.id.startswith(_LANES)]
    for name in sorted(names):
        yield await _row(client, settings, name)


async def _row(client: Client, settings: Settings, name: str) -> LaneRow:
    schedule = await client.get_schedule_handle(name).describe()
    actions = [one.action for one in schedule.info.recent_actions]
    started = [
        one
        for one in [*actions, *schedule.info.running_actions]
        if isinstance(one, ScheduleActionExecutionStartWorkflow)
    ]
    state = "paused" if schedule.schedule.state.paused else "not started yet"
    if not started:
        return LaneRow(schedule=name, state=state, progress=None, error="", workflow_id="", link="")
    handle = client.get_workflow_handle(started[-1].workflow_id)
    shown = await handle.describe()
    if shown.status is not None and not schedule.schedule.state.paused:
        state = shown.status.name.lower()
    progress, error = None, ""
    pending = [one.last_failure.message for one in shown.raw_description.pending_activities]
    try:
        progress = await handle.query("progress", result_type=ArchiveProgress, rpc_timeout=_ANSWER)
    except (RPCError, WorkflowQueryFailedError):
        error = "no archive worker answers"
    known = shown.typed_search_attributes.get(attributes.OUTCOME)
    return LaneRow(
        schedule=name,
        state=state if known is None else f"{state}, {known}",
        progress=progress,
        error=next(filter(None, pending), error),
        workflow_id=shown.id,
        link=ui_link(settings, shown.id, shown.run_id),
    )


def _table(rows: list[LaneRow]) -> Table:
    table = Table(title="Archive", title_justify="left")
    table.add_column("lane", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for name in ("archived up to", "newest", "objects", "rows", "holes"):
        table.add_column(name, justify="right")
    table.add_column("what is in the way", ratio=1)
    for row in rows:
        told = row.progress
        counts = ["?"] * 5
        if told is not None and told.position is not None:
            numbers = (told.position, told.newest, told.objects, told.rows, told.holes)
            counts = [f"{number:,}" for number in numbers]
        table.add_row(row.schedule.removeprefix(_LANES), row.state, *counts, row.error)
    return table


async def _audit(settings: Settings, wanted: AuditInput, *, as_json: bool) -> int:
    client = await connect(settings)
    handle = await client.start_workflow(
        LAKE_AUDIT,
        wanted,
        id=f"audit/{wanted.stream}/{wanted.venue}/by-hand-{time.time_ns() // 1000}",
        task_queue=LAKE_QUEUE,
        result_type=AuditReport,
        search_attributes=attributes.of_archive(wanted.stream, wanted.venue),
        static_summary=f"{wanted.venue} {wanted.stream}: recount the lake, by hand",
    )
    say(f"started {handle.id}\n{ui_link(settings, handle.id, handle.first_execution_run_id)}")
    try:
        report = await handle.result()
    except WorkflowFailureError as error:
        cause = error.cause
        if not isinstance(cause, ApplicationError) or not cause.details:
            say(f"the audit failed: {cause}")
            return EXIT_FAILED
        report = AuditReport.model_validate(cause.details[0])
    _show(report, as_json=as_json)
    return EXIT_FAILED if report.outcome == "damaged" else 0


def _show(report: AuditReport, *, as_json: bool) -> None:
    """Print a report, for a person or a program."""
    if as_json:
        typer.echo(json.dumps(report.model_dump()))
        return
    typer.echo(f"{report.outcome}: {report.sentence}")
    for one in report.findings:
        typer.echo(f"  {'mended' if one.repaired else 'OPEN  '} {one.kind:10} {one.where}")
        typer.echo(f"         {one.sentence}")
    for hole in report.holes:
        typer.echo(f"  hole   {hole}")
