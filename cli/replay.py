"""`ledgerflux replay`: start a replay of the lake, watch it, steer it, delete what it has filled.

Speaks to Temporal only; the replay worker does the work. `docs/runbooks/replay.md` tells when.
"""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from temporalio.client import (
    Client,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowQueryFailedError,
)
from temporalio.exceptions import ActivityError, ApplicationError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from cli.temporal import EXIT_FAILED, console, known_settings, run, say
from models.dbn import Kind
from models.replaying import (
    FORGET_REPLAY,
    REPLAY,
    REPLAY_QUEUE,
    BadReplayError,
    ForgetInput,
    Forgotten,
    ReplayInput,
    ReplayProgress,
    ReplayReport,
    forget_id,
    namespace_of,
    replay_id,
)
from models.settings import Settings
from models.subjects import SubjectError
from workflows import attributes
from workflows.connect import connect, leave, ui_link

EXIT_WRONG_QUESTION = 2

_LOOK_EVERY_S = 0.5
_LISTED = 20

Name = Annotated[str, typer.Argument(help="Name of the replay, or the id of its workflow.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]
Reason = Annotated[str, typer.Option(help="Why, for whoever looks at it.")]
Moment = Annotated[
    str | None, typer.Option(help="Such as 2026-11-20T10 or 2026-11-20T10:15:30, UTC.")
]

app = typer.Typer(no_args_is_help=True, help="Replay an archived range into its own namespace.")


@app.command()
def start(  # noqa: PLR0913, PLR0917 - one parameter per option
    name: Annotated[str, typer.Argument(help="The namespace becomes replay-NAME.")] = "",
    since: Moment = None,
    until: Moment = None,
    product: Annotated[list[str] | None, typer.Option(help="Only this; may be repeated.")] = None,
    feed: Annotated[list[str] | None, typer.Option(help="Only this; may be repeated.")] = None,
    shard: Annotated[list[int] | None, typer.Option(help="Only this; may be repeated.")] = None,
    venue: Annotated[str | None, typer.Option(help="Venue; default from INGEST_VENUE.")] = None,
    epoch: Annotated[int | None, typer.Option(help="Where the range has several.")] = None,
    speed: Annotated[
        float | None, typer.Option(help="1 as it happened, 0 as fast as it goes; REPLAY_SPEED.")
    ] = None,
    normalize: Annotated[bool, typer.Option(help="Canonical messages too.")] = True,
    keep_minutes: Annotated[float, typer.Option(help="Keep the namespace so long.")] = 60.0,
    dbn: Annotated[
        list[str] | None,
        typer.Option(help="Databento file instead of the lake, or s3://…; may be repeated."),
    ] = None,
    dbn_kind: Annotated[
        Kind | None, typer.Option(help="What is in DBN files that have no definitions.")
    ] = None,
    wait: Annotated[bool, typer.Option(help="Wait for the end and report.")] = True,
    as_json: Json = False,
) -> None:
    """Start a replay, and watch it to its end; Ctrl-C leaves it running.

    Exit status 1 means that it failed or was aborted, 2 that it cannot be meant.
    """
    settings = known_settings()
    wanted = ReplayInput(
        name=name or datetime.now(UTC).strftime("%Y%m%d-%H%M%S"),
        venue=venue or settings.ingest_venue,
        shards=shard or None,
        products=product or None,
        feeds=feed or None,
        since=since,
        until=until,
        epoch=epoch,
        speed=settings.replay_speed if speed is None else speed,
        normalize=normalize,
        keep_minutes=keep_minutes,
        dbn=[_absolute(file) for file in dbn] if dbn else None,
        dbn_kind=dbn_kind,
    )
    leave(run(_start(settings, _checked(wanted), wait=wait, as_json=as_json), settings))


@app.command()
def status(
    name: Annotated[str, typer.Argument(help="Name; none lists the newest replays.")] = "",
    as_json: Json = False,
) -> None:
    """Tell how far a replay is, or list the newest ones."""
    settings = known_settings()
    leave(run(_status(settings, name, as_json=as_json), settings))


@app.command()
def pause(name: Name, reason: Reason = "by hand") -> None:
    """Stop at an exact record, until it is resumed."""
    _signal(name, "pause", reason)


@app.command()
def resume(
    name: Name,
    speed: Annotated[float | None, typer.Option(min=0, help="Another speed from now on.")] = None,
) -> None:
    """Go on behind the newest record."""
    _signal(name, "resume", speed)


@app.command()
def abort(name: Name, reason: Reason = "by hand") -> None:
    """End it; what it has filled stays for its time."""
    _signal(name, "abort", reason)


@app.command()
def forget(name: Name) -> None:
    """Delete what a replay has filled, now."""
    settings = known_settings()
    leave(run(_forget(settings, _namespace(name)), settings))


def _absolute(file: str) -> str:
    """Return a path that a worker of this machine can open, wherever it was started."""
    return file if file.startswith("s3://") else str(Path(file).absolute())


async def _start(settings: Settings, wanted: ReplayInput, *, wait: bool, as_json: bool) -> int:
    client = await connect(settings)
    namespace = namespace_of(wanted.name)
    try:
        handle = await client.start_workflow(
            REPLAY,
            wanted,
            id=replay_id(namespace),
            task_queue=REPLAY_QUEUE,
            result_type=ReplayReport,
            search_attributes=attributes.of_archive("raw", wanted.venue),
            static_summary=f"{wanted.venue} into {namespace}, {attributes.speed(wanted.speed)}",
        )
    except WorkflowAlreadyStartedError:
        say(f"{replay_id(namespace)} is running: `ledgerflux replay status {wanted.name}`")
        return EXIT_WRONG_QUESTION
    link = ui_link(settings, handle.id, handle.first_execution_run_id)
    say(f"started {handle.id} into {namespace}\n{link}")
    return await _follow(client, handle, as_json=as_json) if wait else 0


async def _follow(
    client: Client, handle: WorkflowHandle[Any, ReplayReport], *, as_json: bool
) -> int:
    """Show the progress until the end, or until Ctrl-C."""
    detach, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, detach.set)
    ending, leaving = asyncio.create_task(handle.result()), asyncio.create_task(detach.wait())
    page = console()
    bar = _bar() if page.is_terminal and not as_json else None
    with bar or nullcontext():
        shown = None if bar is None else bar.add_task("starting", total=1.0, rate="")
        while not ending.done() and not leaving.done():
            await asyncio.wait(
                [ending, leaving], timeout=_LOOK_EVERY_S, return_when=asyncio.FIRST_COMPLETED
            )
            told = None if bar is None else await _progress(client, handle)
            if bar is not None and shown is not None and told is not None:
                rate = f"{told.rate:,.0f} frames/s"
                bar.update(shown, completed=told.fraction, description=told.state, rate=rate)
    if not ending.done():
        ending.cancel()
        say(f"{handle.id} goes on; `ledgerflux replay status {handle.id}` tells how far it is")
        return 0
    leaving.cancel()
    try:
        report = ending.result()
    except WorkflowFailureError as error:
        cause = error.cause
        say(cause.message if isinstance(cause, ApplicationError) else str(cause))
        return EXIT_FAILED
    typer.echo(report.model_dump_json() if as_json else f"{report.outcome}: {report.sentence}")
    return 0 if report.outcome == "complete" else EXIT_FAILED


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=console(),
    )


async def _progress(
    client: Client, handle: WorkflowHandle[Any, ReplayReport]
) -> ReplayProgress | None:
    """Return the newest that is known: the activity's heartbeat, or else the workflow's answer."""
    try:
        shown = await handle.describe()
        for pending in shown.raw_description.pending_activities:
            payloads = pending.heartbeat_details.payloads
            if pending.activity_type.name == "replay" and payloads:
                (told,) = await client.data_converter.decode(payloads)
                return ReplayProgress.model_validate(told)
        answer: ReplayProgress = await handle.query("progress", result_type=ReplayProgress)
    except (RPCError, WorkflowQueryFailedError):
        return None  # no worker answers at this moment
    return answer


async def _status(settings: Settings, name: str, *, as_json: bool) -> int:
    client = await connect(settings)
    if name:
        handle = client.get_workflow_handle(_id(name), result_type=ReplayReport)
        told = await _told_or_report(client, handle)
        found = [] if told is None else [told]
        if not found:
            say(f"there is no {handle.id}, or no replay worker answers (`make run-replay`)")
    else:
        found = [told async for told in _newest(client)]
    if as_json:
        for one in found:
            typer.echo(one.model_dump_json())
    elif found:
        console().print(_table(found))
    return EXIT_WRONG_QUESTION if name and not found else 0


async def _newest(client: Client) -> AsyncIterator[ReplayProgress]:
    async for execution in client.list_workflows(f"WorkflowType='{REPLAY}'", limit=_LISTED):
        handle = client.get_workflow_handle(
            execution.id, run_id=execution.run_id, result_type=ReplayReport
        )
        told = await _told_or_report(client, handle)
        if told is not None:
            yield told


async def _told_or_report(
    client: Client, handle: WorkflowHandle[Any, ReplayReport]
) -> ReplayProgress | None:
    """Return a replay's progress, or its report once it has ended; none if there is no such."""
    try:
        shown = await handle.describe()
    except RPCError as error:
        if error.status == RPCStatusCode.NOT_FOUND:
            return None
        raise
    if shown.status == WorkflowExecutionStatus.RUNNING:
        return await _progress(client, handle)
    if attributes.REPORT_MEMO in await shown.memo():
        report: ReplayReport = await shown.memo_value(
            attributes.REPORT_MEMO, type_hint=ReplayReport
        )
        return report
    return None  # it was terminated


def _table(found: list[ReplayProgress]) -> Table:
    table = Table(title="Replays", title_justify="left")
    for name in ("namespace", "state"):
        table.add_column(name, no_wrap=True)
    for name in ("done", "speed", "position", "frames", "frames/s", "seconds left"):
        table.add_column(name, justify="right")
    table.add_column("what happened", ratio=1)
    for told in found:
        table.add_row(
            told.namespace,
            told.state,
            f"{told.fraction:.1%}",
            f"{told.speed:g}",
            f"{told.position:,}",
            f"{told.frames:,}",
            f"{told.rate:,.0f}",
            "" if told.eta_s is None else f"{told.eta_s:,.0f}",
            told.sentence if isinstance(told, ReplayReport) else "",
        )
    return table


def _signal(name: str, what: str, argument: object) -> None:
    settings = known_settings()
    leave(run(_send(settings, _id(name), what, argument), settings))


async def _send(settings: Settings, workflow_id: str, what: str, argument: object) -> int:
    client = await connect(settings)
    try:
        await client.get_workflow_handle(workflow_id).signal(what, argument)
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise
        say(f"{workflow_id} does not run: `ledgerflux replay status` lists what there is")
        return EXIT_WRONG_QUESTION
    say(f"told {workflow_id} to {what}")
    return 0


async def _forget(settings: Settings, namespace: str) -> int:
    client = await connect(settings)
    handle = await client.start_workflow(
        FORGET_REPLAY,
        ForgetInput(namespace=namespace),
        id=forget_id(namespace),
        task_queue=REPLAY_QUEUE,
        result_type=Forgotten,
        # The one that waits for the end of its time does it now.
        start_signal="now",
        static_summary=f"{namespace}: delete it, by hand",
    )
    try:
        forgotten = await handle.result()
    except WorkflowFailureError as error:
        inner = error.cause.cause if isinstance(error.cause, ActivityError) else error.cause
        say(f"not deleted: {inner.message if isinstance(inner, ApplicationError) else inner}")
        return EXIT_FAILED
    typer.echo(f"deleted: {', '.join(forgotten.streams) or 'there was nothing'}")
    return 0


def _checked(wanted: ReplayInput) -> ReplayInput:
    try:
        wanted.check()
        namespace_of(wanted.name)
    except (BadReplayError, SubjectError) as error:
        raise typer.BadParameter(str(error)) from error
    return wanted


def _namespace(name: str) -> str:
    try:
        return namespace_of(name.removeprefix("replay/"))
    except SubjectError as error:
        raise typer.BadParameter(str(error)) from error


def _id(name: str) -> str:
    return name if "/" in name else replay_id(_namespace(name))
