"""What Temporal tells: workflows that run, workers that poll, and how far each lane is archived."""

import asyncio
from collections import defaultdict
from datetime import timedelta

import msgspec
from temporalio.client import Client

from activities.archive import lane_subjects, stream_name
from cli.archive import LaneRow, lane_rows
from cli.checks.temporal import POLLED_WITHIN_S, QUEUES, poller_ages_s
from models.archiving import LaneName
from models.settings import Settings
from streaming.broker.inspection import Inspector
from workflows import attributes
from workflows.connect import ui_link

MOST_RUNS = 500
"""Running workflows that are listed."""


class RunRow(msgspec.Struct):
    """One workflow that runs. `outcome`: what it has said of itself so far, if anything."""

    type: str
    workflow_id: str
    started_us: int
    outcome: str
    link: str


class WorkerRow(msgspec.Struct):
    """One worker that polls Temporal. `polled_s`: how long ago its last poll began."""

    identity: str
    queues: list[str]
    polled_s: float


class ArchiveRow(msgspec.Struct):
    """One lane of the archive. `lag_s`: age of its oldest message that is not in the lake."""

    lane: str
    state: str
    position: int | None
    lag_s: float | None
    holes: int
    error: str
    link: str


async def runs(client: Client, settings: Settings) -> list[RunRow]:
    """Return the workflows that run, the newest first.

    Raises:
        RPCError: the server does not answer.
    """
    found = client.list_workflows("ExecutionStatus='Running'", limit=MOST_RUNS)
    return [
        RunRow(
            one.workflow_type,
            one.id,
            round(one.start_time.timestamp() * 1e6),
            one.typed_search_attributes.get(attributes.OUTCOME) or "",
            ui_link(settings, one.id, one.run_id),
        )
        async for one in found
    ]


async def workers(client: Client, within_s: float) -> list[WorkerRow]:
    """Return the workers that poll any of our task queues.

    Raises:
        RPCError: the server does not answer.
    """
    within = timedelta(seconds=within_s)
    asked = [(queue, kind) for queue, (kinds, _) in QUEUES.items() for kind in kinds]
    ages = await asyncio.gather(
        *(poller_ages_s(client, queue, kind, within) for queue, kind in asked)
    )
    polled: dict[str, float] = {}
    queues: dict[str, list[str]] = defaultdict(list)
    for (queue, _), told in zip(asked, ages, strict=True):
        for identity, age_s in told.items():
            if age_s <= POLLED_WITHIN_S:
                polled[identity] = min(age_s, polled.get(identity, age_s))
                if queue not in queues[identity]:
                    queues[identity].append(queue)
    return [WorkerRow(name, queues[name], polled[name]) for name in sorted(polled)]


async def lanes(client: Client, settings: Settings) -> list[LaneRow]:
    """Return the lanes as their schedules and workflows tell.

    Raises:
        RPCError: the server does not answer.
    """
    return [row async for row in lane_rows(client, settings)]


async def archive(
    lane: LaneRow, inspector: Inspector | None, settings: Settings, now_us: int
) -> ArchiveRow:
    """Return a lane with the age of what the log has and the lake has not.

    Raises:
        LogError: the log does not answer.
    """
    told = lane.progress
    row = ArchiveRow(
        lane.schedule.partition("/")[2],
        lane.state,
        None if told is None else told.position,
        None,
        0 if told is None else told.holes,
        lane.error,
        lane.link,
    )
    if told is None or told.position is None or inspector is None:
        return row
    name = LaneName(told.stream, told.venue, told.shard)
    stream = stream_name(settings.streams, name)
    facts = await inspector.stream(stream)
    # A position of another stream means nothing: then all is still to be archived.
    same = facts is not None and facts.created_us == told.epoch
    oldest = await inspector.after(stream, lane_subjects(name), told.position if same else 0)
    row.lag_s = 0.0 if oldest is None else max(0.0, (now_us - oldest.time_us) / 1e6)
    return row
