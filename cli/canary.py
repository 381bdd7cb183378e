"""`ledgerflux canary` judges a candidate build by the past, and ends as a rollout gate needs it.

Speaks to Temporal only: the replay worker plans, and candidates (`python -m workers.candidate`,
run from the build to be judged) compare. docs/runbooks/replay.md tells what to do with a verdict.
"""

import asyncio
import time
from contextlib import suppress
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle, WorkflowQueryFailedError
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError

from cli.temporal import console, known_settings, say
from models.canary import (
    BAD_CANARY,
    CANARY,
    CANDIDATE_QUEUE,
    CanaryInput,
    CanaryProgress,
    CanaryReport,
    NormalizerSettings,
)
from models.replaying import REPLAY_QUEUE, BadReplayError
from models.settings import Settings
from models.subjects import SubjectError
from workflows import attributes
from workflows.connect import connect, leave, ui_link

EXIT_DIVERGES = 1
EXIT_WRONG_QUESTION = 2
EXIT_NOT_JUDGED = 3

_LOOK_EVERY_S = 0.5
_SHOWN_CHARS = 600
_WRONG_QUESTIONS = (
    BAD_CANARY, "NothingThereError", "UnknownProductError", "SeveralEpochsError", "TooMuchError",
)  # fmt: skip


def canary(  # noqa: PLR0913, PLR0917 - one parameter per option
    since: Annotated[
        str | None, typer.Option(help="From then on, UTC: 2026-11-20T10 or 2026-11-20T10:15:30.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Up to then, itself not included.")] = None,
    product: Annotated[list[str] | None, typer.Option(help="Only this product; repeat.")] = None,
    feed: Annotated[list[str] | None, typer.Option(help="Only this feed; repeat.")] = None,
    venue: Annotated[str | None, typer.Option(help="Venue; default from INGEST_VENUE.")] = None,
    queue: Annotated[
        str, typer.Option(help="Task queue that the candidate serves.")
    ] = CANDIDATE_QUEUE,
    epoch: Annotated[
        int | None, typer.Option(help="Of the raw log, where it was made anew in the range.")
    ] = None,
    ticks_epoch: Annotated[int | None, typer.Option(help="Likewise of the canonical log.")] = None,
    max_queue_ms: Annotated[
        int | None, typer.Option(help="RESYNC_MAX_QUEUE_MS of the archived ticks' normalizer.")
    ] = None,
    stale_ms: Annotated[int | None, typer.Option(help="RESYNC_STALE_MS, likewise.")] = None,
    ticker_watermark: Annotated[
        bool | None, typer.Option(help="Whether it had the ticker channel, not only ticker_batch.")
    ] = None,
    wait_s: Annotated[
        float, typer.Option(help="So long a candidate may take to turn up, in seconds.", min=0.1)
    ] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Judge a candidate: the past through its normalizer, against the ticks that are archived.

    Exit status: 0 it agrees, 1 it diverges, 2 the question is wrong, 3 it could not be judged.
    """
    settings = known_settings()
    wanted = CanaryInput(
        venue=venue or settings.ingest_venue,
        since=since,
        until=until,
        products=product or None,
        feeds=feed or None,
        epoch=epoch,
        ticks_epoch=ticks_epoch,
        candidate_queue=queue,
        settings=NormalizerSettings(
            resync_max_queue_ms=max_queue_ms,
            resync_stale_ms=stale_ms,
            ticker_watermark=ticker_watermark,
        ),
        start_within_s=wait_s,
    )
    try:
        wanted.range_us()
    except (BadReplayError, SubjectError) as error:
        say(str(error))
        raise typer.Exit(EXIT_WRONG_QUESTION) from error
    leave(_run(settings, wanted, as_json=as_json))


def _run(settings: Settings, wanted: CanaryInput, *, as_json: bool) -> int:
    """Return the exit status; a server that is away is no verdict."""
    try:
        return asyncio.run(_canary(settings, wanted, as_json=as_json))
    except KeyboardInterrupt:
        say("the canary goes on without you; its page tells the verdict")
        return EXIT_NOT_JUDGED
    except (RuntimeError, RPCError) as error:
        say(
            f"Temporal at {settings.temporal_address}: {error}; start it (`ledgerflux up`), or set "
            "TEMPORAL_ADDRESS and TEMPORAL_NAMESPACE"
        )
        return EXIT_NOT_JUDGED


async def _canary(settings: Settings, wanted: CanaryInput, *, as_json: bool) -> int:
    client = await connect(settings)
    handle = await client.start_workflow(
        CANARY,
        wanted,
        id=f"canary/{wanted.venue}/by-hand-{time.time_ns() // 1000}",
        task_queue=REPLAY_QUEUE,
        result_type=CanaryReport,
        search_attributes=attributes.of_archive("ticks", wanted.venue),
        static_summary=f"{wanted.venue}: judge the candidate of queue {wanted.candidate_queue}",
    )
    say(f"started {handle.id}\n{ui_link(settings, handle.id, handle.first_execution_run_id)}")
    watching = asyncio.create_task(_watch(client, handle))
    try:
        report = await handle.result()
    except WorkflowFailureError as error:
        return _not_judged(error, as_json=as_json)
    finally:
        watching.cancel()
        await asyncio.wait([watching])
    _show(report, as_json=as_json)
    return 0 if report.verdict == "agrees" else EXIT_DIVERGES


async def _watch(client: Client, handle: WorkflowHandle[Any, CanaryReport]) -> None:
    """Show how far it has come, on a terminal."""
    err = Console(stderr=True)
    if not err.is_terminal:
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(),
        TextColumn("{task.fields[told]}"), TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("planning", total=None, told="")
        while True:
            with suppress(RPCError, WorkflowQueryFailedError):
                told = await handle.query("progress", result_type=CanaryProgress)
                frames = told.frames + await _underway(client, handle.id)
                bar.update(
                    task,
                    description=told.state,
                    total=told.frames_total or None,
                    completed=min(frames, told.frames_total),
                    told=f"{frames:,} frames, {told.differences:,} differences",
                )
            await asyncio.sleep(_LOOK_EVERY_S)


async def _underway(client: Client, workflow_id: str) -> int:
    """Return the frames of slices that are not done yet, as their heartbeats tell."""
    shown = await client.get_workflow_handle(workflow_id).describe()
    frames = 0
    for one in shown.raw_description.pending_activities:
        for payload in one.heartbeat_details.payloads:
            frames += msgspec.json.decode(payload.data, type=int)
    return frames


def _not_judged(error: WorkflowFailureError, *, as_json: bool) -> int:
    cause = error.cause
    if not isinstance(cause, ApplicationError) or not cause.details:
        say(f"could not be judged: {cause}")
        return EXIT_NOT_JUDGED
    report = CanaryReport.model_validate(cause.details[0])
    if as_json:
        typer.echo(report.model_dump_json())
    say(f"could not be judged: {report.sentence}")
    if report.slices:
        say(f"judged before that: {report.slices_done:,} of {report.slices:,} slices")
    return EXIT_WRONG_QUESTION if report.reason in _WRONG_QUESTIONS else EXIT_NOT_JUDGED


def _show(report: CanaryReport, *, as_json: bool) -> None:
    """Print a report, for a person or a program."""
    if as_json:
        typer.echo(report.model_dump_json())
        return
    out = console()
    out.print(_table(report))
    typer.echo(f"{report.verdict}: {report.sentence}")
    first = report.first
    if first is not None:
        for name, text in (
            ("archived", first.expected),
            ("candidate", first.actual),
            ("raw", first.raw),
        ):
            typer.echo(f"  {name:9} {'-' if text is None else text[:_SHOWN_CHARS]}")
    for key in report.objects:
        typer.echo(f"  differences: {key}")
    if report.kept < report.total.differences:
        typer.echo(f"  {report.kept:,} differences are kept there; the others are only counted")


def _table(report: CanaryReport) -> Table:
    table = Table(
        title=f"{report.frames:,} raw frames in {report.slices:,} slices, {report.seconds:.1f} s",
        title_justify="left",
    )
    table.add_column("feed", no_wrap=True)
    for name in ("compared", "equal", "changed", "missing", "extra", "unjudged"):
        table.add_column(name, justify="right")
    for feed, count in [*report.feeds.items(), ("all", report.total)]:
        numbers = (
            *(count.compared, count.equal, count.changed),
            *(count.missing, count.extra, count.unjudged),
        )
        table.add_row(feed, *(f"{number:,}" for number in numbers))
    return table
