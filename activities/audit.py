"""Audits an hour of the lake: recounts, follows ranges and chains, compares with the log, mends.

Nothing is believed: each object is read and held against its entry by count and digest, and
against the log for as long as that has the same positions. What is missing or damaged and still
in the log is archived again; what an archiver has left unlisted is listed.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.archive import lane_subjects, stream_name
from activities.compaction import lane_hour, lane_of
from activities.heartbeats import heartbeating
from activities.lake_errors import lake_errors
from models.archiving import (
    MAX_TOLD,
    AuditCarry,
    AuditCount,
    AuditedHour,
    AuditHour,
    AuditInput,
    Finding,
    FindingKind,
    LaneHour,
    LaneName,
)
from models.subjects import Streams
from storage.digest import digest, joined
from storage.errors import ConflictError, DamagedError, ObjectMissingError
from storage.lake import Lake
from storage.layout import Hour, Lane, cut
from storage.manifest import Entry, Hole, Manifest, Span
from storage.parcel import verify
from storage.parquet import NotALakeObjectError
from storage.rows import Message, messages_of
from streaming.broker.jetstream import JetStreamLog
from streaming.broker.pages import Pages

MAX_HOURS = 10_000
"""Hours of lanes that one audit takes: Temporal carries their list."""

BAD_HOUR = "BadHourError"
"""Type of the error of an hour that cannot be read, or of too many of them."""

_SETTLE_S = 2.0
"""An object may be stored for so long before it is listed."""

_HOUR_S = 3600
_VERSIONS = 5
_log = structlog.get_logger(__name__)


@dataclass
class _Findings:
    """What one hour has brought to light so far."""

    lane: Lane
    hour: Hour
    carry: AuditCarry
    repair: bool
    accept_loss: bool
    objects: int = 0
    messages: int = 0
    rows: int = 0
    bytes_: int = 0
    compared: int = 0
    links: int = 0
    holes: list[str] = field(default_factory=list)
    found: list[Finding] = field(default_factory=list)

    def say(self, kind: FindingKind, where: str, sentence: str, *, repaired: bool) -> None:
        """Note one finding."""
        _log.warning("audit of the lake", kind=kind, where=where, told=sentence, repaired=repaired)
        self.found.append(Finding(kind=kind, where=where, sentence=sentence, repaired=repaired))

    def result(self) -> AuditedHour:
        """Return it as Temporal knows it."""
        return AuditedHour(
            carry=self.carry,
            count=AuditCount(
                hours=1,
                objects=self.objects,
                messages=self.messages,
                rows=self.rows,
                bytes_=self.bytes_,
                compared=self.compared,
                links=self.links,
                holes=len(self.holes),
                findings=len(self.found),
                repaired=sum(one.repaired for one in self.found),
            ),
            findings=self.found[:MAX_TOLD],
            holes=self.holes[:MAX_TOLD],
        )


class AuditActivities:
    """Activities of the `lake` task queue that audit, an hour of a lane at a time."""

    def __init__(self, log: JetStreamLog, streams: Streams, lake: Lake) -> None:
        self._log, self._streams, self._lake = log, streams, lake

    @activity.defn
    async def list_hours(self, wanted: AuditInput) -> list[LaneHour]:
        """Return the hours to audit, lane by lane, oldest first.

        Raises:
            ApplicationError: an hour cannot be read, or there are too many.
        """
        now = Hour(int(time.time() // _HOUR_S))
        since = _hour(wanted.since) if wanted.since else Hour(now.number - wanted.hours)
        until = _hour(wanted.until) if wanted.until else None
        async with heartbeating():
            with lake_errors("listing the lake"):
                found = await self._lake.hours(
                    wanted.stream, wanted.venue, since=since, until=until
                )
        if len(found) > MAX_HOURS:
            raise ApplicationError(
                f"{len(found):,} hours of shards are too many for one audit: give `since` and "
                f"`until` so that there are {MAX_HOURS:,} at most",
                type=BAD_HOUR,
                non_retryable=True,
            )
        found.sort(key=lambda one: (one[1].epoch, one[1].shard, one[0]))
        return [lane_hour(lane, hour) for hour, lane in found]

    @activity.defn
    async def audit_hour(self, wanted: AuditHour) -> AuditedHour:
        """Audit one hour of a lane, and mend what can be mended if that is wanted."""
        lane, hour = lane_of(wanted.where)
        accept_loss = wanted.repair and wanted.accept_loss
        found = _Findings(lane, hour, wanted.carry, wanted.repair, accept_loss)
        async with heartbeating():
            with lake_errors(f"auditing {hour}"):
                await self._unlisted(found)
                for where, one in await self._ranges(found):
                    await self._follow(found, where, one)
                    if isinstance(one, Hole):
                        _hole(found, one)
                    else:
                        await self._object(found, where, one)
        return found.result()

    async def _ranges(self, found: _Findings) -> list[tuple[Hour, Entry | Hole]]:
        """Return what the hour accounts for, in order.

        With it comes what was archived into the hour before since that was audited: this hour's
        manifest is read first, so that nothing in between can be missed.
        """
        manifests = [(found.hour, await self._manifest(found, found.hour))]
        before = Hour(found.carry.hour)
        if found.carry.last is not None and before != found.hour:
            manifests.insert(0, (before, await self._manifest(found, before)))
        ranges: list[tuple[Hour, Entry | Hole]] = [
            (hour, one)
            for hour, manifest in manifests
            for one in _accounted(manifest)
            if hour == found.hour or one.first > (found.carry.last or 0)
        ]
        return sorted(ranges, key=lambda one: (one[1].first, one[1].last))

    async def _manifest(self, found: _Findings, hour: Hour) -> Manifest:
        """Return a manifest; one that is damaged gives way to the version before it."""
        for _ in range(_VERSIONS):
            try:
                return await self._lake.manifest(found.lane, hour)
            except DamagedError as error:
                found.say("manifest", error.place, str(error), repaired=found.repair)
                if not found.repair:
                    return Manifest()
                await self._lake.discard_manifest(error.place)
        return Manifest()

    async def _unlisted(self, found: _Findings) -> None:
        """List what an archiver has stored but not listed; what is of no use is deleted."""
        lane, hour = found.lane, found.hour
        objects = await self._lake.objects(lane, hour)
        manifest = await self._manifest(found, hour)
        if any(_is_strange(manifest, one) for one in objects):
            await asyncio.sleep(_SETTLE_S)
            manifest = await self._manifest(found, hour)
        for first, last in objects:
            if not _is_strange(manifest, (first, last)):
                continue
            key, repaired = lane.key(hour, first, last), False
            told = "it is stored, but no manifest lists it"
            if found.repair:
                try:
                    if manifest.overlaps(first, last):
                        await self._lake.discard(lane, hour, first, last)
                    else:
                        await self._lake.adopt(lane, hour, first, last)
                    repaired = True
                except (DamagedError, ConflictError) as error:
                    told = f"{told}, and it is of no use: {error}"
                    await self._lake.discard(lane, hour, first, last)
            found.say("unlisted", key, told, repaired=repaired)
            manifest = await self._manifest(found, hour)

    async def _follow(self, found: _Findings, hour: Hour, one: Entry | Hole) -> None:
        """See that a range begins where the one before it ended."""
        carry = found.carry
        if carry.last is not None and one.first > carry.last + 1:
            await self._gap(found, hour, carry.last + 1, one.first - 1)
        elif carry.last is not None and one.first <= carry.last:
            where = found.lane.key(hour, one.first, one.last)
            sentence = f"positions {one.first} to {carry.last} are in another range as well"
            found.say("overlap", where, sentence, repaired=False)
        found.carry = found.carry.model_copy(
            update={"last": max(one.last, carry.last or 0), "hour": hour.number}
        )

    async def _gap(self, found: _Findings, hour: Hour, first: int, last: int) -> None:
        """Archive what no range accounts for, if the log still has it."""
        lane, where = found.lane, f"{found.lane.folder(hour)}{first}-{last}"
        messages = await self._from_log(lane, first, last)
        if messages is None:
            told = "neither an object nor a hole accounts for it, and the log has it no more"
            found.carry = found.carry.model_copy(update={"seqs": {}})
            if found.accept_loss:
                hole = _accepted(first, last)
                await self._lake.note_hole(lane, hour, hole)
                _hole(found, hole)
                told = f"{told}; {hole.reason}"
            found.say("gap", where, told, repaired=found.accept_loss)
        elif messages:
            told = f"{len(messages):,} messages of the log were in no object"
            if found.repair:
                floor = Hour(found.carry.hour)
                for piece in cut(first, last, messages):
                    placed = replace(piece, hour=min(max(piece.hour, floor), hour))
                    entry = await self._lake.put(lane, placed)
                    _chain(found, lane.key(placed.hour, entry.first, entry.last), entry)
            found.say("gap", where, told, repaired=found.repair)

    async def _object(self, found: _Findings, hour: Hour, entry: Entry) -> None:
        """Recount an object, and compare it with the log; store it anew where it is not whole."""
        key = found.lane.key(hour, entry.first, entry.last)
        try:
            await self._verify(found.lane, hour, entry)
        except (ObjectMissingError, NotALakeObjectError) as error:
            if await self._is_replaced(found, hour, entry):
                return
            kind: FindingKind = "missing" if isinstance(error, ObjectMissingError) else "damaged"
            if found.accept_loss and not await self._has(found.lane, entry.first):
                hole = _accepted(entry.first, entry.last)
                await self._lake.give_up(found.lane, hour, entry, hole)
                _hole(found, hole)
                found.say(kind, key, f"{error}; {hole.reason}", repaired=True)
                return
            repaired, told = await self._restore(found, hour, entry)
            found.say(kind, key, f"{error}; {told}", repaired=repaired)
        else:
            await self._compare(found, key, entry)
        found.objects += 1
        found.messages += entry.messages
        found.rows += entry.rows
        found.bytes_ += entry.size_bytes
        _chain(found, key, entry)

    async def _verify(self, lane: Lane, hour: Hour, entry: Entry) -> None:
        data = await self._lake.fetch(lane, hour, entry)
        await asyncio.to_thread(verify, lane.stream, data, entry)

    async def _is_replaced(self, found: _Findings, hour: Hour, entry: Entry) -> bool:
        """Tell whether compaction has put another object in the place of this one meanwhile."""
        manifest = await self._manifest(found, hour)
        whole = [one for one in manifest.entries if one.first <= entry.first <= one.last]
        if not whole or whole == [entry]:
            return False
        await self._verify(found.lane, hour, whole[0])
        found.objects += 1
        found.messages += entry.messages
        found.rows += entry.rows
        _chain(found, found.lane.key(hour, entry.first, entry.last), entry)
        return True

    async def _restore(self, found: _Findings, hour: Hour, entry: Entry) -> tuple[bool, str]:
        if not found.repair:
            return False, "nothing was done, as it was ordered"
        messages = await self._from_log(found.lane, entry.first, entry.last)
        if messages is None:
            return False, "the log does not have these messages any more"
        try:
            await self._lake.restore(found.lane, hour, entry, messages)
        except (ConflictError, ValueError) as error:
            return False, f"the log has other messages there: {error}"
        return True, "stored anew from the log"

    async def _compare(self, found: _Findings, key: str, entry: Entry) -> None:
        """Hold an object against the log, page by page, while the log has all of it."""
        name = LaneName(found.lane.stream, found.lane.venue, found.lane.shard)
        stream = stream_name(self._streams, name)
        if not await self._has(found.lane, entry.first):
            return
        pages = Pages(self._log, stream, lane_subjects(name), after=entry.first - 1)
        digests, messages = [], 0
        while pages.cursor < entry.last:
            page = [one for one in await pages.next() if one.seq <= entry.last]
            digests.append(digest(messages_of(page)))
            messages += len(page)
            if pages.at_end:
                break
        if not await self._has(found.lane, entry.first):
            return
        found.compared += messages
        if joined(digests) != entry.digest:
            told = f"the log has {messages:,} messages there that are not the same"
            found.say("differs", key, told, repaired=False)

    async def _from_log(self, lane: Lane, first: int, last: int) -> list[Message] | None:
        """Return the messages of a range, or none if the log has not all of it any more."""
        if not await self._has(lane, first):
            return None
        name = LaneName(lane.stream, lane.venue, lane.shard)
        stream = stream_name(self._streams, name)
        pages = Pages(self._log, stream, lane_subjects(name), after=first - 1)
        messages = messages_of(await pages.upto(last))
        return messages if await self._has(lane, first) else None

    async def _has(self, lane: Lane, first: int) -> bool:
        name = stream_name(self._streams, LaneName(lane.stream, lane.venue, lane.shard))
        extent = await self._log.extent(name)
        # Objects of lanes that began empty may begin at 0, where no message can be.
        return extent.created_us == lane.epoch and extent.first <= max(1, first)


def _accounted(manifest: Manifest) -> list[Entry | Hole]:
    return [*manifest.entries, *manifest.holes]


def _is_strange(manifest: Manifest, one: tuple[int, int]) -> bool:
    """Tell whether an object is neither listed nor waiting to be swept."""
    return not manifest.covers(*one)


def _accepted(first: int, last: int) -> Hole:
    """Return the hole of a loss that a person has accepted."""
    return Hole(first, last, time.time_ns() // 1000, "accepted as lost for good in an audit")


def _hole(found: _Findings, hole: Hole) -> None:
    """Name a hole; chains cannot be followed over it."""
    where = f"{found.lane.folder(found.hour)}{hole.first}-{hole.last}"
    found.holes.append(f"{where}: {hole.reason}")
    found.carry = found.carry.model_copy(update={"seqs": {}})


def _chain(found: _Findings, key: str, entry: Entry) -> None:
    """Follow each product's chains over the border of two objects."""
    seqs = {product: dict(feeds) for product, feeds in found.carry.seqs.items()}
    for product, feed, span in _spans(entry):
        if span.breaks:
            told = f"{product} {feed}: {span.breaks:,} ticks in it do not link to the one before"
            found.say("chain", key, told, repaired=False)
        before = seqs.get(product, {}).get(feed)
        if span.links_to is not None and before is not None:
            found.links += 1
            if span.links_to != before:
                told = f"{product} {feed}: it links to {span.links_to}, but {before} came before"
                found.say("chain", key, told, repaired=False)
        if span.last_seq is not None:
            seqs.setdefault(product, {})[feed] = span.last_seq
    found.carry = found.carry.model_copy(update={"seqs": seqs})


def _spans(entry: Entry) -> Sequence[tuple[str, str, Span]]:
    return [
        (product, feed, span)
        for product, feeds in entry.spans.items()
        for feed, span in feeds.items()
    ]


def _hour(text: str) -> Hour:
    """Read an hour such as 2026-11-20T10.

    Raises:
        ApplicationError: it is none.
    """
    try:
        moment = datetime.strptime(text, "%Y-%m-%dT%H").replace(tzinfo=UTC)
    except ValueError as error:
        raise ApplicationError(
            f"{text!r} is no hour; give one such as 2026-11-20T10, in UTC",
            type=BAD_HOUR,
            non_retryable=True,
        ) from error
    return Hour.of(int(moment.timestamp()) * 1_000_000)
