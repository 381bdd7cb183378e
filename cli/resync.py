"""`ledgerflux resync` starts a recovery by hand; `ledgerflux resyncs` lists what has been.

Speaks to Temporal only; the workers do the work. `docs/runbooks/gap-resync.md` tells when.
"""

import json
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from typing import Annotated

import typer
from rich.table import Table
from temporalio.client import (
    Client,
    WorkflowExecution,
    WorkflowExecutionStatus,
    WorkflowFailureError,
)
from temporalio.exceptions import ApplicationError

from cli.temporal import console, known_settings, run, say
from models.canonical import FEEDS, Feed
from models.recovery import GAP_RESYNC, RESYNC_FAILED, ResyncInput, ResyncReport
from models.resync import MANUAL
from models.settings import Settings
from models.subjects import SubjectError, shard_of, token
from workflows import attributes
from workflows.connect import connect, leave, ui_link
from workflows.starting import start_resync

EXIT_NOT_RECOVERED = 1

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]


@dataclass(frozen=True)
class Row:
    """One resync in the list; `gap` in words, `seconds` none while it runs."""

    started: str
    product: str
    feed: str
    gap: str
    seconds: float | None
    outcome: str
    sentence: str
    workflow_id: str
    link: str


def resync(
    product: Annotated[str, typer.Argument(help="Product, such as BTC-USD.")],
    feed: Annotated[str, typer.Option(help="Feed: ticker, trades or book.")] = "book",
    venue: Annotated[
        str | None, typer.Option(help="Venue of the product; default from INGEST_VENUE.")
    ] = None,
    accept_loss: Annotated[
        bool,
        typer.Option("--accept-loss", help="Give up trades that the venue does not have any more."),
    ] = False,
    wait: Annotated[bool, typer.Option(help="Wait for the end and report.")] = True,
    as_json: Json = False,
) -> None:
    """Recover one feed of one product by hand, whether or not it has a gap.

    Exit status 1 means that it was not recovered.
    """
    settings = known_settings()
    gap = _by_hand(
        venue or settings.ingest_venue,
        product,
        _feed(feed),
        settings.shard_count,
        accept_loss=accept_loss,
    )
    leave(run(_resync(settings, gap, wait=wait, as_json=as_json), settings))


def resyncs(
    product: Annotated[str | None, typer.Option(help="Only this product.")] = None,
    outcome: Annotated[
        str | None, typer.Option(help="Only closed, already_closed, aborted, failed or running.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most, newest first.")] = 20,
    as_json: Json = False,
) -> None:
    """List recoveries: when, what, how large a gap, how long it took, and how it ended."""
    settings = known_settings()
    query = _query(product, outcome)
    leave(run(_resyncs(settings, query, limit, as_json=as_json), settings))


async def _resync(settings: Settings, gap: ResyncInput, *, wait: bool, as_json: bool) -> int:
    handle = await start_resync(await connect(settings), gap)
    say(f"started {handle.id}\n{ui_link(settings, handle.id, handle.first_execution_run_id)}")
    if not wait:
        return 0
    try:
        report = await handle.result()
    except WorkflowFailureError as error:
        say(f"not recovered: {_reason(error)}")
        return EXIT_NOT_RECOVERED
    if as_json:
        typer.echo(report.model_dump_json())
    else:
        _show(report)
    return 0 if report.outcome in {"closed", "already_closed"} else EXIT_NOT_RECOVERED


async def _resyncs(settings: Settings, query: str, limit: int, *, as_json: bool) -> int:
    client = await connect(settings)
    rows = [row async for row in _rows(client, settings, query, limit)]
    if as_json:
        for row in rows:
            typer.echo(json.dumps(asdict(row)))
        return 0
    page = console()
    page.print(_table(rows, links=page.is_terminal))
    return 0


async def _rows(client: Client, settings: Settings, query: str, limit: int) -> AsyncIterator[Row]:
    async for execution in client.list_workflows(query, limit=limit):
        yield await _row(execution, settings)


async def _row(execution: WorkflowExecution, settings: Settings) -> Row:
    known = execution.typed_search_attributes
    memo = await _report(execution)
    status = execution.status or WorkflowExecutionStatus.RUNNING
    seconds = None
    if execution.close_time is not None:
        seconds = (execution.close_time - execution.start_time).total_seconds()
    return Row(
        started=execution.start_time.isoformat(timespec="milliseconds"),
        product=known.get(attributes.PRODUCT) or "",
        feed=known.get(attributes.FEED) or "",
        gap=_gap(execution.id, memo),
        seconds=seconds,
        outcome=known.get(attributes.OUTCOME) or status.name.lower(),
        sentence="" if memo is None else memo.sentence,
        workflow_id=execution.id,
        link=ui_link(settings, execution.id, execution.run_id),
    )


async def _report(execution: WorkflowExecution) -> ResyncReport | None:
    """Return the report of a resync that has ended; one that was killed has none."""
    if attributes.REPORT_MEMO not in await execution.memo():
        return None
    return await execution.memo_value(attributes.REPORT_MEMO, type_hint=ResyncReport)


def _gap(workflow_id: str, report: ResyncReport | None) -> str:
    """Return the size of the gap, or its bounds where the prints cannot be counted."""
    if report is not None and report.lost is not None:
        return f"{report.lost:,} prints"
    name = workflow_id.rpartition("/")[2]
    return "by hand" if MANUAL in workflow_id else name


def _query(product: str | None, outcome: str | None) -> str:
    terms = [f"WorkflowType='{GAP_RESYNC}'"]
    if product is not None:
        terms.append(f"Product='{_token(product)}'")
    if outcome == "running":
        terms.append("ExecutionStatus='Running'")
    elif outcome is not None:
        terms.append(f"Outcome='{_token(outcome)}'")
    return " AND ".join(terms)


def _table(rows: list[Row], *, links: bool) -> Table:
    table = Table(title="Recoveries, newest first", title_justify="left")
    for name in ("started (UTC)", "product", "feed", "gap"):
        table.add_column(name, no_wrap=True)
    table.add_column("seconds", justify="right")
    table.add_column("outcome", no_wrap=True)
    table.add_column("what happened", ratio=1)
    table.add_column("link")
    for row in rows:
        seconds = "" if row.seconds is None else f"{row.seconds:.3f}"
        link = f"[link={row.link}]UI[/link]" if links else row.link
        gap, told = row.gap, row.sentence
        table.add_row(
            row.started[:23], row.product, row.feed, gap, seconds, row.outcome, told, link
        )
    return table


def _show(report: ResyncReport) -> None:
    """Print a report for a person."""
    typer.echo(f"{report.outcome}: {report.sentence}")
    for step in report.steps:
        typer.echo(f"  {step.step:10} {step.seconds:8.3f} s  {step.note}")


def _by_hand(
    venue: str, product: str, feed: Feed, shards: int, *, accept_loss: bool
) -> ResyncInput:
    name = f"resync/{_token(venue)}/{_token(product)}/{feed}{MANUAL}{time.time_ns() // 1000}"
    return ResyncInput(
        venue=venue,
        product=product,
        feed=feed,
        resync_id=name,
        accept_loss=accept_loss,
        shard=shard_of(venue, product, shards),
    )


def _feed(text: str) -> Feed:
    for feed in FEEDS:
        if feed == text:
            return feed
    raise typer.BadParameter(f"choose from {', '.join(FEEDS)}", param_hint="--feed")


def _token(text: str) -> str:
    try:
        return token(text)
    except SubjectError as error:
        raise typer.BadParameter(str(error)) from error


def _reason(error: WorkflowFailureError) -> str:
    cause = error.cause
    if isinstance(cause, ApplicationError) and cause.type == RESYNC_FAILED:
        return cause.message
    return str(cause)
