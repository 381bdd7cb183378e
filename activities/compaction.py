"""Merges an hour's small objects, and deletes those that were replaced. May be repeated."""

import asyncio
import time

from temporalio import activity

from activities.heartbeats import heartbeating
from activities.lake_errors import lake_errors
from models.archiving import Compacted, CompactHour, CompactInput, LaneHour
from storage.errors import DamagedError
from storage.lake import Lake
from storage.layout import Hour, Lane
from storage.manifest import Entry, compactable
from storage.parcel import Parcel, merge
from storage.parquet import NotALakeObjectError

_HOUR_S = 3600


def lane_of(where: LaneHour) -> tuple[Lane, Hour]:
    """Return the lane and the hour as the lake knows them."""
    return Lane(where.stream, where.venue, where.shard, where.epoch), Hour(where.hour)


def lane_hour(lane: Lane, hour: Hour) -> LaneHour:
    """Return them as Temporal knows them."""
    return LaneHour(
        stream=lane.stream,
        venue=lane.venue,
        shard=lane.shard,
        epoch=lane.epoch,
        hour=hour.number,
    )


class CompactionActivities:
    """Activities of the `lake` task queue that change which objects an hour has, not its rows."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        # One object is decoded at a time: several would not fit into memory.
        self._room = asyncio.Semaphore(1)

    @activity.defn
    async def find_hours(self, wanted: CompactInput) -> list[LaneHour]:
        """Return the hours that are over and have objects worth merging, oldest first."""
        now_s = time.time()
        last = Hour(int((now_s - wanted.settled_s) // _HOUR_S) - 1)
        since = Hour(int(now_s // _HOUR_S) - wanted.hours)
        found = []
        async with heartbeating():
            with lake_errors("looking for hours to compact"):
                for hour, lane in await self._lake.hours(
                    wanted.stream, wanted.venue, since=since, until=last
                ):
                    manifest = await self._lake.manifest(lane, hour)
                    if compactable(manifest, wanted.max_rows, wanted.max_text_bytes):
                        found.append(lane_hour(lane, hour))
        return found

    @activity.defn
    async def compact_hour(self, wanted: CompactHour) -> Compacted:
        """Put merged objects in the place of small ones; those stay until they are swept.

        Raises:
            ApplicationError: one of the objects is damaged; an audit can mend that.
        """
        lane, hour = lane_of(wanted.where)
        done = Compacted()
        async with heartbeating(), self._room:
            with lake_errors(f"compacting {hour}"):
                manifest = await self._lake.manifest(lane, hour)
                for group in compactable(manifest, wanted.max_rows, wanted.max_text_bytes):
                    rows = await self._merge(lane, hour, group)
                    done = Compacted(
                        merged=done.merged + len(group), into=done.into + 1, rows=done.rows + rows
                    )
        return done

    @activity.defn
    async def sweep_hour(self, where: LaneHour) -> int:
        """Delete the objects that were replaced; return how many."""
        lane, hour = lane_of(where)
        async with heartbeating():
            with lake_errors(f"sweeping {hour}"):
                return len(await self._lake.sweep(lane, hour))

    async def _merge(self, lane: Lane, hour: Hour, group: list[Entry]) -> int:
        parcels = [Parcel(await self._lake.fetch(lane, hour, one), one) for one in group]
        try:
            merged = await asyncio.to_thread(merge, lane, parcels)
        except NotALakeObjectError as error:
            where = f"{lane.folder(hour)}{group[0].first}-{group[-1].last}"
            raise DamagedError(where, f"{error}; run `ledgerflux audit`") from error
        await self._lake.replace(lane, hour, group, merged)
        return merged.entry.rows
