"""Schedules of the archive: which workflow runs when, made or brought up to date at a start.

A schedule's id is what a person pauses, triggers and describes: `archive/<stream>/<venue>/<shard>`,
`compact/<stream>/<venue>` and `audit/<stream>/<venue>`. Each never has two runs at once.
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Literal, get_args

from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleUpdate,
    ScheduleUpdateInput,
)

from models.archiving import (
    ARCHIVE,
    ARCHIVE_QUEUE,
    COMPACT,
    LAKE_AUDIT,
    LAKE_QUEUE,
    ArchiveInput,
    AuditInput,
    CompactInput,
    LaneName,
    Stream,
)
from models.settings import Settings
from workflows import attributes

STREAMS: tuple[Stream, ...] = get_args(Stream)
"""What is archived."""

Kind = Literal["archive", "compact", "audit"]

_COMPACT_EVERY = timedelta(hours=1)
_COMPACT_AT = timedelta(minutes=15)
_AUDIT_EVERY = timedelta(days=1)
_AUDIT_AT = timedelta(hours=3, minutes=30)
_CATCH_UP = timedelta(minutes=10)
"""A start that was missed while Temporal was away is made up for within this time."""


def lanes_of(settings: Settings, subjects: Iterable[str]) -> list[LaneName]:
    """Return the lanes to archive: those of the settings, and what else the log has.

    `subjects`: of the log; after a change of SHARD_COUNT they still name the shards of before.
    """
    found = {
        LaneName(stream, settings.ingest_venue, shard)
        for stream in STREAMS
        for shard in range(settings.shard_count)
    }
    for subject in subjects:
        _, kind, shard, venue, _ = subject.split(".")
        found |= {LaneName(stream, venue, int(shard)) for stream in STREAMS if stream == kind}
    return sorted(found)


def archive_id(lane: LaneName) -> str:
    """Return the id of a lane's schedule; its workflows' ids begin with it."""
    return f"archive/{lane}"


def schedule_ids(lanes: Iterable[LaneName]) -> list[str]:
    """Return the ids of all schedules that these lanes need."""
    lanes = list(lanes)
    more = sorted({f"{lane.stream}/{lane.venue}" for lane in lanes})
    return [
        *map(archive_id, lanes),
        *(f"{kind}/{name}" for kind in ("compact", "audit") for name in more),
    ]


async def ensure_schedules(client: Client, settings: Settings, lanes: Iterable[LaneName]) -> None:
    """Create what is missing, bring the rest up to date, and start the archive of each lane.

    What a person has paused stays paused.
    """
    lanes = list(lanes)
    for lane in lanes:
        await _ensure(client, archive_id(lane), _archive(settings, lane), at_once=True)
    for stream, venue in sorted({(lane.stream, lane.venue) for lane in lanes}):
        await _ensure(client, f"compact/{stream}/{venue}", _compact(stream, venue))
        await _ensure(client, f"audit/{stream}/{venue}", _audit(stream, venue))


async def _ensure(client: Client, name: str, wanted: Schedule, *, at_once: bool = False) -> None:
    async def update(known: ScheduleUpdateInput) -> ScheduleUpdate:
        return ScheduleUpdate(replace(wanted, state=known.description.schedule.state))

    try:
        await client.create_schedule(name, wanted, trigger_immediately=at_once)
    except ScheduleAlreadyRunningError:
        handle = client.get_schedule_handle(name)
        await handle.update(update)
        if at_once and not (await handle.describe()).schedule.state.paused:
            await handle.trigger(overlap=ScheduleOverlapPolicy.SKIP)


def _archive(settings: Settings, lane: LaneName) -> Schedule:
    wanted = ArchiveInput(
        stream=lane.stream,
        venue=lane.venue,
        shard=lane.shard,
        flush_s=settings.archive_flush_s,
        flush_bytes=settings.archive_flush_bytes,
    )
    return Schedule(
        action=ScheduleActionStartWorkflow(
            ARCHIVE,
            wanted,
            id=archive_id(lane),
            task_queue=ARCHIVE_QUEUE,
            typed_search_attributes=attributes.of_archive(lane.stream, lane.venue),
            static_summary=f"{lane.venue} {lane.stream}, shard {lane.shard}, to the lake",
        ),
        spec=_every(timedelta(seconds=settings.archive_every_s)),
        policy=_POLICY,
    )


def _compact(stream: Stream, venue: str) -> Schedule:
    return Schedule(
        action=ScheduleActionStartWorkflow(
            COMPACT,
            CompactInput(stream=stream, venue=venue),
            id=f"compact/{stream}/{venue}",
            task_queue=LAKE_QUEUE,
            typed_search_attributes=attributes.of_archive(stream, venue),
            static_summary=f"{venue} {stream}: small objects of an hour into one",
        ),
        spec=_every(_COMPACT_EVERY, _COMPACT_AT),
        policy=_POLICY,
    )


def _audit(stream: Stream, venue: str) -> Schedule:
    return Schedule(
        action=ScheduleActionStartWorkflow(
            LAKE_AUDIT,
            AuditInput(stream=stream, venue=venue),
            id=f"audit/{stream}/{venue}",
            task_queue=LAKE_QUEUE,
            typed_search_attributes=attributes.of_archive(stream, venue),
            static_summary=f"{venue} {stream}: recount the lake of the last day",
        ),
        spec=_every(_AUDIT_EVERY, _AUDIT_AT),
        policy=_POLICY,
    )


def _every(interval: timedelta, offset: timedelta | None = None) -> ScheduleSpec:
    return ScheduleSpec(intervals=[ScheduleIntervalSpec(every=interval, offset=offset)])


_POLICY = SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=_CATCH_UP)
