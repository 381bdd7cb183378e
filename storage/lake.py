"""The lake: ranges of the log as Parquet objects, verified, listed in manifests, found again.

Everything here may be repeated: an object is stored under the name of its range only if there is
none, a repeat finds it and verifies it, and an entry that a manifest has already is not added
again. Nothing is believed: what was stored is read back and compared by count and digest.

Who reads while hours are compacted loads a manifest first and then its objects; should one be
gone by then (`ObjectMissingError`), the manifest has changed: load it anew.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from models.decoding import UNREADABLE
from storage.errors import ConflictError, ContendedError, DamagedError, ObjectMissingError
from storage.layout import Hour, Lane, Piece, hour_of, range_of, venue_folder, version_of
from storage.manifest import Entry, Hole, Manifest, decode_manifest, encode_manifest
from storage.objects import ObjectStore
from storage.parcel import Parcel, decode, encode, opened, verify
from storage.parquet import NotALakeObjectError
from storage.rows import Message
from storage.schema import Stream

MAX_OBJECT_ROWS = 1_000_000
"""Rows that compaction puts into one object at most: 10 to 20 MB of ticks."""

MAX_OBJECT_TEXT_BYTES = 256 * 1024**2
"""Bytes of text, likewise: verifying an object takes some times as much memory."""

_KEPT_VERSIONS = 3
_ATTEMPTS = 10
_PAUSE_S = 0.1


class Found(NamedTuple):
    """A listed object, and the hour in which it is."""

    hour: Hour
    entry: Entry


class Lake:
    """The lake in one bucket. Every call raises a `StorageError` when it fails."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    @property
    def store(self) -> ObjectStore:
        """The bucket; what is not Parquet there has modules of its own."""
        return self._store

    async def put(self, lane: Lane, piece: Piece) -> Entry:
        """Store a piece of the log, verify it, and list it; a repeat changes nothing.

        Raises:
            ConflictError: the range is stored already, wholly or in part, with other content.
            DamagedError: what was read back is not what was written.
        """
        made = await asyncio.to_thread(encode, lane, piece.first, piece.last, piece.messages)
        known = await self.manifest(lane, piece.hour)
        if known.covers(made.entry.first, made.entry.last):
            return await self._known(lane, piece.hour, known, made.entry)
        entry = await self._store_verified(lane, piece.hour, made)
        await self._change(lane, piece.hour, lambda manifest: _with(manifest, entry))
        return entry

    async def replace(self, lane: Lane, hour: Hour, parts: Sequence[Entry], parcel: Parcel) -> None:
        """Store an object that is merged of others, and list it in their place, in one step.

        The others stay until they are swept; a repeat changes nothing.

        Raises:
            ConflictError: the manifest does not list those others.
        """
        entry = await self._store_verified(lane, hour, parcel)

        def swap(manifest: Manifest) -> Manifest:
            if entry in manifest.entries:
                return manifest
            if not set(map(_range, parts)) <= set(map(_range, manifest.entries)):
                raise ConflictError(lane.folder(hour), "the objects to replace are not listed")
            gone = set(map(_range, parts))
            kept = [one for one in manifest.entries if _range(one) not in gone]
            return _listing(manifest, [*kept, entry])

        await self._change(lane, hour, swap)

    async def sweep(self, lane: Lane, hour: Hour) -> list[str]:
        """Delete the objects that were replaced; return their names.

        Give readers of the manifest before some minutes to finish. Objects that no listed one
        covers stay: they may be about to be listed.
        """
        manifest = await self.manifest(lane, hour)
        listed = set(map(_range, manifest.entries))
        gone = []
        async for info in self._store.keys(lane.folder(hour)):
            found = range_of(info.key)
            if found is not None and found not in listed and manifest.covers(*found):
                gone.append(info.key)
        for key in gone:
            await self._store.delete(key)
        return gone

    async def note_hole(self, lane: Lane, hour: Hour, hole: Hole) -> None:
        """Put down for good that a range was lost before it could be archived."""

        def add(manifest: Manifest) -> Manifest:
            if any(_range(one) == _range(hole) for one in manifest.holes):
                return manifest
            if manifest.overlaps(hole.first, hole.last):
                raise ConflictError(
                    lane.folder(hour), f"{hole.first}-{hole.last} is no hole: some of it is stored"
                )
            return msgspec.structs.replace(manifest, holes=(*manifest.holes, hole))

        await self._change(lane, hour, add)

    async def give_up(self, lane: Lane, hour: Hour, entry: Entry, hole: Hole) -> None:
        """Put a hole of the same range in the place of a listed object that is lost for good.

        What may be left of the object is deleted; a repeat changes nothing.
        """

        def swap(manifest: Manifest) -> Manifest:
            kept = [one for one in manifest.entries if _range(one) != _range(entry)]
            if len(kept) == len(manifest.entries):
                return manifest
            return msgspec.structs.replace(_listing(manifest, kept), holes=(*manifest.holes, hole))

        await self._change(lane, hour, swap)
        await self._store.delete(lane.key(hour, entry.first, entry.last))

    async def restore(
        self, lane: Lane, hour: Hour, entry: Entry, messages: Sequence[Message]
    ) -> None:
        """Store a listed object anew, in place of one that is damaged or gone.

        For a moment there is none; who reads then tries again, as after a compaction.

        Raises:
            ConflictError: these messages are not those of the entry.
        """
        made = await asyncio.to_thread(encode, lane, entry.first, entry.last, messages)
        key = lane.key(hour, entry.first, entry.last)
        if made.entry.digest != entry.digest:
            raise ConflictError(key, "the manifest lists other content than was given")
        await self._store.delete(key)
        stored = await self._store_verified(lane, hour, made)

        def swap(manifest: Manifest) -> Manifest:
            kept = [one for one in manifest.entries if _range(one) != _range(entry)]
            return _listing(manifest, [*kept, stored])

        await self._change(lane, hour, swap)

    async def adopt(self, lane: Lane, hour: Hour, first: int, last: int) -> Entry:
        """List an object that was stored, but whose archiver died before it could list it.

        Raises:
            DamagedError: it is no object of the lake.
            ConflictError: a part of its range is listed in another object.
        """
        key = lane.key(hour, first, last)
        try:
            messages = await asyncio.to_thread(decode, lane.stream, await self._store.get(key))
        except NotALakeObjectError as error:
            raise DamagedError(key, str(error)) from error
        return await self.put(lane, Piece(hour, first, last, messages))

    async def discard(self, lane: Lane, hour: Hour, first: int, last: int) -> bool:
        """Delete the object of a range unless it is listed: nobody can have read it.

        Tell whether there was one.
        """
        listed = (await self.manifest(lane, hour)).ranges()
        if (first, last) in listed or (first, last) not in await self.objects(lane, hour):
            return False
        await self._store.delete(lane.key(hour, first, last))
        return True

    async def discard_manifest(self, key: str) -> None:
        """Delete a version of a manifest that is damaged: the one before counts again."""
        if version_of(f"/{key.rpartition('/')[2]}") is not None:
            await self._store.delete(key)

    async def objects(self, lane: Lane, hour: Hour) -> list[tuple[int, int]]:
        """Return the ranges of all objects of an hour, listed or not, in order."""
        keys = [info.key async for info in self._store.keys(lane.folder(hour))]
        return sorted(found for key in keys if (found := range_of(key)) is not None)

    async def newest_hour(self, lane: Lane) -> Hour | None:
        """Return the newest hour of a lane in which anything is listed."""
        for date in reversed(await self._store.folders(venue_folder(lane.stream, lane.venue))):
            for folder in reversed(await self._store.folders(date)):
                hour = hour_of(folder)
                if hour is not None and (await self.manifest(lane, hour)).ranges():
                    return hour
        return None

    async def manifest(self, lane: Lane, hour: Hour) -> Manifest:
        """Return the newest manifest of an hour; one without entries if there is none yet.

        A version that cannot be read was never finished, as where a store keeps what it got of a
        connection that was cut; the one before counts, and before the very first one there is none.

        Raises:
            DamagedError: there are versions, but none can be read.
        """
        return (await self._newest(lane, hour))[0]

    async def _newest(self, lane: Lane, hour: Hour) -> tuple[Manifest, int]:
        """Return the newest manifest that can be read, and the newest version there is."""
        prefix = f"{lane.folder(hour)}manifest-"
        for _ in range(_ATTEMPTS):
            keys = sorted([info.key async for info in self._store.keys(prefix)], reverse=True)
            if not keys:
                return Manifest(), 0
            try:
                for key in keys:
                    manifest = _decoded(await self._store.get(key))
                    if manifest is not None:
                        return manifest, version_of(keys[0]) or 0
                if [version_of(key) for key in keys] == [1]:
                    return Manifest(), 1
            except ObjectMissingError:
                continue  # a newer one has come meanwhile
            raise DamagedError(keys[0], "is no manifest of the lake, nor is any older one")
        raise ContendedError(prefix, "changed faster than it could be read; try again")

    async def hours(
        self, stream: Stream, venue: str, since: Hour | None = None, until: Hour | None = None
    ) -> list[tuple[Hour, Lane]]:
        """Return the hours, and the lanes in them, that the lake has of a venue, oldest first."""
        found: list[tuple[Hour, Lane]] = []
        first, last = (str(hour).partition("/")[0] if hour else None for hour in (since, until))
        for date in await self._store.folders(venue_folder(stream, venue)):
            day = date.rstrip("/").rpartition("/")[2]
            if (first and day < first) or (last and day > last):
                continue
            for folder in await self._store.folders(date):
                hour = hour_of(folder)
                if hour is None or (since and hour < since) or (until and hour > until):
                    continue
                for shard in await self._store.folders(folder):
                    epochs = await self._store.folders(shard)
                    found += [(hour, _lane(stream, venue, shard, epoch)) for epoch in epochs]
        return found

    async def fetch(self, lane: Lane, hour: Hour, entry: Entry) -> bytes:
        """Return the bytes of an object; `storage.parcel` and `storage.excerpt` read them."""
        return await self._store.get(lane.key(hour, entry.first, entry.last))

    async def messages(self, lane: Lane, hour: Hour, entry: Entry) -> list[Message]:
        """Return the messages of an object once they are known to be those of its entry.

        Raises:
            DamagedError: they are not.
        """
        data = await self.fetch(lane, hour, entry)
        try:
            return await asyncio.to_thread(opened, lane.stream, data, entry)
        except NotALakeObjectError as error:
            raise DamagedError(lane.key(hour, entry.first, entry.last), str(error)) from error

    async def _known(self, lane: Lane, hour: Hour, known: Manifest, entry: Entry) -> Entry:
        """Return the entry of what is stored already, if it is the same."""
        for one in known.entries:
            if _range(one) == _range(entry) and one.digest != entry.digest:
                raise ConflictError(
                    lane.key(hour, entry.first, entry.last), "is stored with other content"
                )
        return entry

    async def _store_verified(self, lane: Lane, hour: Hour, parcel: Parcel) -> Entry:
        """Store an object, or find it stored; return its entry once it has been read back."""
        entry = parcel.entry
        key = lane.key(hour, entry.first, entry.last)
        is_new = await self._store.put_new(key, parcel.data)
        data = await self._store.get(key)
        try:
            await asyncio.to_thread(verify, lane.stream, data, entry)
        except NotALakeObjectError as error:
            kind = DamagedError if is_new else ConflictError
            raise kind(key, str(error)) from error
        return msgspec.structs.replace(entry, size_bytes=len(data))

    async def _change(self, lane: Lane, hour: Hour, change: Callable[[Manifest], Manifest]) -> None:
        """Apply a change to an hour's manifest; several may do so at once.

        The next version is stored only if nobody else has stored it. Then it is looked at again,
        because a version so old that it was deleted could have been stored once more.
        """
        for attempt in range(_ATTEMPTS):
            manifest, newest = await self._newest(lane, hour)
            changed = change(manifest)
            if changed == manifest:
                await self._forget(lane, hour, manifest.version)
                return
            version = newest + 1
            data = encode_manifest(msgspec.structs.replace(changed, version=version))
            await self._store.put_new(lane.manifest_key(hour, version), data)
            if attempt:
                await asyncio.sleep(random.uniform(0, _PAUSE_S * 2**attempt))  # noqa: S311 (jitter)
        raise ContendedError(lane.folder(hour), "others kept changing its manifest; try again")

    async def _forget(self, lane: Lane, hour: Hour, version: int) -> None:
        """Delete all but the newest versions of a manifest."""
        async for info in self._store.keys(f"{lane.folder(hour)}manifest-"):
            if (version_of(info.key) or version) <= version - _KEPT_VERSIONS:
                await self._store.delete(info.key)


def _decoded(data: bytes) -> Manifest | None:
    """Return a manifest, or none if it cannot be read."""
    try:
        return decode_manifest(data)
    except UNREADABLE:
        return None


def _first(entry: Entry) -> int:
    return entry.first


def _range(one: Entry | Hole) -> tuple[int, int]:
    return one.first, one.last


def _with(manifest: Manifest, entry: Entry) -> Manifest:
    """Add an entry, unless an object has all of its range."""
    if manifest.covers(entry.first, entry.last):
        return manifest
    if manifest.overlaps(entry.first, entry.last):
        raise ConflictError(
            f"{entry.first}-{entry.last}", "a part of this range is stored in another object"
        )
    return _listing(manifest, [*manifest.entries, entry])


def _listing(manifest: Manifest, entries: Sequence[Entry]) -> Manifest:
    return msgspec.structs.replace(manifest, entries=tuple(sorted(entries, key=_first)))


def _lane(stream: Stream, venue: str, shard: str, epoch: str) -> Lane:
    """Return the lane of two folders' names."""
    number, made = (folder.rstrip("/").rpartition("=")[2] for folder in (shard, epoch))
    return Lane(stream, venue, int(number), int(made))
