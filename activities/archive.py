"""Archives one range of a lane: collect from the log, store in the lake, verify, tell.

Nothing is kept between two steps but what Temporal has, the checkpoint, and what the lake itself
says. So any step may be repeated, by whoever: what a killed archiver has stored is found and
listed before anything else is done, and a range is never stored twice.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import structlog
from temporalio import activity

from activities.heartbeats import Place, heartbeating
from activities.lake_errors import lake_errors
from models.archiving import (
    Archived,
    ArchiveHole,
    ArchiveStep,
    Checkpoint,
    LaneName,
)
from models.checkpoint import decode_checkpoint
from models.decoding import UNREADABLE
from models.subjects import Streams, product_of, token
from storage.errors import ConflictError, DamagedError, UnavailableError
from storage.lake import Lake
from storage.layout import Hour, Lane, Piece, cut, ingest_time
from storage.manifest import Entry, Hole
from storage.rows import messages_of
from storage.state import keep_state, kept_states, stands_alone
from streaming.broker.jetstream import JetStreamLog
from streaming.broker.log import Extent, LogMessage
from streaming.broker.pages import Pages
from streaming.metrics import Counts

_POLL_S = 1.0
_POLLS_PER_FLUSH = 10
_CLOCKS_APART_US = 60_000_000
"""So far ahead of the log's clock may an ingestor's be; a message further ahead is not believed."""

_LABELS = ("stream", "venue", "shard")
_log = structlog.get_logger(__name__)


def stream_name(streams: Streams, lane: LaneName) -> str:
    """Return the log's name of a lane's stream."""
    return streams.raw if lane.stream == "raw" else streams.ticks


def lane_subjects(lane: LaneName) -> str:
    """Return the pattern of a lane's subjects."""
    return f"market.{lane.stream}.{lane.shard}.{token(lane.venue)}.*"


class _Start(NamedTuple):
    """Where a step begins. `holes`: of the lake, noted by a step whose end was never told."""

    at: Checkpoint
    holes: list[ArchiveHole]
    told: str = ""


class _Range(NamedTuple):
    """What was collected: all messages of the lane after the checkpoint, up to `last`."""

    last: int
    messages: Sequence[LogMessage]
    newest: int


class ArchiveActivities:
    """Activity of the `archive` task queue. Attributes: rows, bytes_, holes: the counters."""

    def __init__(self, log: JetStreamLog, streams: Streams, lake: Lake) -> None:
        self._log, self._streams, self._lake = log, streams, lake
        self.rows = Counts("md_archive_rows_total", "Rows that were archived", _LABELS)
        self.bytes_ = Counts("md_archive_bytes_total", "Bytes of the objects stored", _LABELS)
        self.holes = Counts("md_archive_holes_total", "Ranges lost before archiving", _LABELS)

    def expect(self, lanes: Iterable[LaneName]) -> None:
        """Show these lanes' counters from the start."""
        for lane in lanes:
            for counter in (self.rows, self.bytes_, self.holes):
                counter.expect(*_labels(lane))

    @activity.defn
    async def archive(self, step: ArchiveStep) -> Archived:
        """Archive the next range of a lane, when it is large or old enough.

        Returns when a range is stored and verified, a hole is noted, or nothing came for
        `flush_s`. The lane's next step begins at the checkpoint that is returned.

        Raises:
            ApplicationError: typed by the storage error; final ones are not to be repeated.
        """
        place = Place(0 if step.checkpoint is None else step.checkpoint.position)
        async with heartbeating(place):
            with lake_errors(f"archiving {step.lane}"):
                name = stream_name(self._streams, step.lane)
                extent = await self._log.extent(name)
                lane = Lane(step.stream, step.venue, step.shard, extent.created_us)
                start = await self._start(step, lane, extent)
                place.at = start.at.position
                if start.holes or start.told:
                    return _moved(start, extent.last)
                if extent.first > start.at.seen + 1:
                    hole, at = await self._note_hole(step.lane, lane, start.at, extent)
                    return _moved(_Start(at, [hole]), extent.last)
                found = await self._collect(step, lane, start.at, extent, place)
                try:
                    return await self._store(step, lane, start.at, found)
                except ConflictError as error:
                    return await self._somebody_else(step, lane, start.at, found, error)

    async def _start(self, step: ArchiveStep, lane: Lane, extent: Extent) -> _Start:
        """Find out where to begin: at the checkpoint, unless the lake knows better."""
        known = step.checkpoint
        if known is not None and known.epoch == lane.epoch and activity.info().attempt == 1:
            return _Start(known, [])
        mine = known is not None and known.epoch == lane.epoch
        start = await self._look_up(lane, known if mine else None)
        if known is not None and not mine:
            return await self._remade(step, known, start, lane)
        # A lane that was never archived begins at the log's first message; that is no hole.
        before = max(0, extent.first - 1)  # an empty stream's first position is told as 0
        first = Checkpoint(epoch=lane.epoch, position=before, seen=before)
        return start or _Start(first, [])

    async def _look_up(self, lane: Lane, known: Checkpoint | None) -> _Start | None:
        """Return where the lake says that a lane stands, once all that is stored is listed."""
        hour = await self._lake.newest_hour(lane)
        position, holes = (0, []) if hour is None else await self._listed(lane, hour, known)
        floor = Hour(0) if hour is None else hour
        for one, first, last in await self._leftovers(lane, floor, position):
            if first == position + 1 and await self._adopt(lane, one, first, last):
                position, floor = last, one
            else:
                await self._lake.discard(lane, one, first, last)
        if known is not None and known.position >= position:
            return _Start(known, holes)
        if position == 0:
            return None
        at = Checkpoint(epoch=lane.epoch, position=position, seen=position, hour=floor.number)
        return _Start(at, holes)

    async def _listed(
        self, lane: Lane, hour: Hour, known: Checkpoint | None
    ) -> tuple[int, list[ArchiveHole]]:
        """Return up to where an hour goes, and its holes behind what was known."""
        manifest = await self._lake.manifest(lane, hour)
        position = max(last for _, last in manifest.ranges())
        after = position if known is None else known.position
        holes = [one for one in manifest.holes if one.first > after]
        return position, [_as_payload(one) for one in holes]

    async def _leftovers(
        self, lane: Lane, since: Hour, position: int
    ) -> list[tuple[Hour, int, int]]:
        """Return objects behind a position, which nobody has listed; the longest first."""
        found = []
        for hour, one in await self._lake.hours(lane.stream, lane.venue, since=since):
            if one == lane:
                ranges = await self._lake.objects(lane, hour)
                found += [(hour, first, last) for first, last in ranges if first > position]
        return sorted(found, key=lambda one: (one[1], -one[2]))

    async def _adopt(self, lane: Lane, hour: Hour, first: int, last: int) -> bool:
        try:
            await self._lake.adopt(lane, hour, first, last)
        except DamagedError as error:
            _log.warning("discarding an object that was never finished", error=str(error))
            return False
        return True

    async def _remade(
        self, step: ArchiveStep, known: Checkpoint, found: _Start | None, lane: Lane
    ) -> _Start:
        """Begin anew under another epoch; what was not archived of the old one is a hole."""
        name = stream_name(self._streams, step.lane)
        told = f"{name} was made anew: epoch {known.epoch} ended, {lane.epoch} begins"
        at = Checkpoint(epoch=lane.epoch, position=0, seen=0, hour=known.hour)
        if found is not None:
            return found._replace(told=told)
        _log.warning(told, lane=str(step.lane))
        if step.newest <= known.seen:
            return _Start(at, [], told)
        old = Lane(lane.stream, lane.venue, lane.shard, known.epoch)
        hole = _hole(
            known.position + 1, step.newest, f"{name} was made anew before it was archived"
        )
        await self._put_down(step.lane, old, Hour(known.hour), hole)
        return _Start(at, [hole], told)

    async def _note_hole(
        self, name: LaneName, lane: Lane, at: Checkpoint, extent: Extent
    ) -> tuple[ArchiveHole, Checkpoint]:
        """Put down what the log has dropped; return the hole and where to go on behind it."""
        last = extent.first - 1
        stream = stream_name(self._streams, name)
        hole = _hole(at.position + 1, last, f"{stream} dropped it before it was archived")
        behind = await self._log.fetch(
            stream, lane_subjects(name), after=last, limit=1, max_bytes=1
        )
        now = Hour.of(hole.noticed_us)
        times = [Hour.of(ingest_time(one.payload) or one.time_us) for one in behind]
        hour = max(Hour(at.hour), min([now, *times]))
        await self._put_down(name, lane, hour, hole)
        checkpoint = Checkpoint(epoch=lane.epoch, position=last, seen=last, hour=hour.number)
        return hole, checkpoint

    async def _put_down(self, name: LaneName, lane: Lane, hour: Hour, hole: ArchiveHole) -> None:
        kept = Hole(hole.first, hole.last, hole.noticed_us, hole.reason)
        await self._lake.note_hole(lane, hour, kept)
        self.holes.values[_labels(name)] += 1
        _log.error(
            "ArchiveHole: what was in this range is lost for good",
            lane=str(name),
            **hole.model_dump(),
        )

    async def _collect(
        self, step: ArchiveStep, lane: Lane, at: Checkpoint, extent: Extent, place: Place
    ) -> _Range:
        """Read until there is enough, or the oldest message is old enough."""
        name = stream_name(self._streams, step.lane)
        pages = Pages(self._log, name, lane_subjects(step.lane), after=at.seen)
        found: list[LogMessage] = []
        size, began_s = 0, time.monotonic()
        while size < step.flush_bytes:
            before = pages.cursor
            page = await pages.next()
            scanned = extent.last if pages.at_end else 0
            extent = await self._log.extent(name)
            if extent.created_us != lane.epoch or extent.first > before + 1:
                # Retention, or a new stream, has overtaken this page: it may lack messages.
                return _Range(before, found, extent.last)
            pages.cursor = place.at = max(pages.cursor, scanned)
            found += page
            size += sum(len(one.payload) for one in page)
            if pages.at_end and size < step.flush_bytes:
                waited_s = _age_s(found) if found else time.monotonic() - began_s
                if waited_s >= step.flush_s:
                    break
                await asyncio.sleep(min(_POLL_S, step.flush_s / _POLLS_PER_FLUSH))
        return _Range(pages.cursor, found, extent.last)

    async def _store(
        self, step: ArchiveStep, lane: Lane, at: Checkpoint, found: _Range
    ) -> Archived:
        """Store and verify what was collected, an object for each hour."""
        seen = at.model_copy(update={"seen": max(at.seen, found.last)})
        lag_s = _age_s(found.messages)
        if not found.messages:
            return Archived(checkpoint=seen, newest=found.newest)
        entries: list[Entry] = []
        pieces = _placed(Hour(at.hour), at.position + 1, found)
        for piece in pieces:
            if step.stream == "raw":
                # Before the object is listed, because a repeated step would begin behind it.
                await self._keep_states(lane, piece)
            try:
                entries.append(await self._lake.put(lane, piece))
            except DamagedError:
                # Nobody has listed it, so the next attempt may store it anew.
                await self._lake.discard(lane, piece.hour, piece.first, piece.last)
                raise
        self._count(step.lane, entries)
        return Archived(
            checkpoint=Checkpoint(
                epoch=lane.epoch,
                position=found.last,
                seen=found.last,
                hour=pieces[-1].hour.number,
            ),
            newest=found.newest,
            objects=len(entries),
            rows=sum(one.rows for one in entries),
            bytes_=sum(one.size_bytes for one in entries),
            lag_s=lag_s,
        )

    async def _keep_states(self, lane: Lane, piece: Piece) -> None:
        """Store the normalizer's newest checkpoints of products that have none in this hour yet."""
        store, name = self._lake.store, self._streams.state
        pattern = f"{self._streams.root}.state.{lane.shard}.{lane.venue}.*"
        kept = await kept_states(store, lane, piece.hour)
        for subject in await self._log.subjects(name, pattern):
            if product_of(subject)[1] in kept:
                continue
            saved = await self._log.last(name, subject)
            if saved is not None and _is_state(saved, piece.last):
                await keep_state(store, lane, piece.hour, saved.payload, saved.headers)

    async def _somebody_else(
        self, step: ArchiveStep, lane: Lane, at: Checkpoint, found: _Range, error: ConflictError
    ) -> Archived:
        """Go on where another archiver of this lane has come to.

        Raises:
            UnavailableError: there is none; an object that was never finished was in the way.
            ConflictError: nor was that; the lake holds something that the log does not say.
        """
        discarded = [
            await self._lake.discard(lane, piece.hour, piece.first, piece.last)
            for piece in _placed(Hour(at.hour), at.position + 1, found)
        ]
        start = await self._look_up(lane, at)
        if start is None or start.at.position <= at.position:
            if any(discarded):
                raise UnavailableError(
                    error.place, "an unfinished object was in the way, and was deleted"
                ) from error
            raise error
        told = f"another archiver was here: going on behind {start.at.position}"
        _log.warning(told, lane=str(step.lane), error=str(error))
        return _moved(start._replace(told=told), found.newest)

    def _count(self, name: LaneName, entries: Sequence[Entry]) -> None:
        labels = _labels(name)
        self.rows.values[labels] += sum(one.rows for one in entries)
        self.bytes_.values[labels] += sum(one.size_bytes for one in entries)


def _is_state(saved: LogMessage, upto: int) -> bool:
    """Tell whether a checkpoint is worth keeping: not ahead of the archive, and whole by itself."""
    try:
        checkpoint = decode_checkpoint(saved.payload, saved.headers)
        return checkpoint.raw_seq <= upto and stands_alone(checkpoint)
    except UNREADABLE as error:
        # The normalizer does not believe it either.
        _log.warning(
            "leaving out an unreadable checkpoint", subject=saved.subject, error=str(error)
        )
        return False


def _moved(start: _Start, newest: int) -> Archived:
    """Return a step that moved the checkpoint without storing anything."""
    return Archived(checkpoint=start.at, newest=newest, holes=start.holes, told=start.told)


def _placed(floor: Hour, first: int, found: _Range) -> list[Piece]:
    """Cut a range into hours, none before `floor` and none that the log's clock has not reached.

    So the newest hour of a lane always holds its highest positions, however wrong a clock is.
    """
    newest_us = found.messages[-1].time_us + _CLOCKS_APART_US
    ceiling = max(floor, Hour.of(newest_us))
    pieces = cut(first, found.last, messages_of(found.messages))
    return [replace(one, hour=min(max(one.hour, floor), ceiling)) for one in pieces]


def _age_s(messages: Sequence[LogMessage]) -> float:
    """Return how long ago the first one was stored in the log; 0 if there is none."""
    return max(0.0, time.time() - messages[0].time_us / 1e6) if messages else 0.0


def _hole(first: int, last: int, reason: str) -> ArchiveHole:
    return ArchiveHole(first=first, last=last, noticed_us=time.time_ns() // 1000, reason=reason)


def _as_payload(hole: Hole) -> ArchiveHole:
    return ArchiveHole(
        first=hole.first, last=hole.last, noticed_us=hole.noticed_us, reason=hole.reason
    )


def _labels(name: LaneName) -> tuple[str, str, str]:
    return name.stream, name.venue, str(name.shard)
