"""A stretch of the past out of the lake: which objects hold it, and their messages in order.

Replays and canaries read by this. A range of time is made exact once, as positions: of each lane
it has everything from the first message that was received at its beginning or later up to the
first one that was received at its end or later. So ranges that follow one another by time do so
by messages. What is not whole is refused, never read as far as it goes.

PastError
├── NothingThereError    the lake has nothing of that
├── SeveralEpochsError   the log was made anew within the range; one of them must be chosen
├── IncompleteError      a part of the range is not in the lake
└── UnknownProductError  the range has nothing of a product
"""

import asyncio
import contextlib
from bisect import bisect_left, bisect_right
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from models.replaying import FOR_EVER_US
from storage.errors import DamagedError, ObjectMissingError, StorageError
from storage.lake import Found, Lake
from storage.layout import Hour, Lane
from storage.manifest import Entry, Manifest, gaps
from storage.parquet import NotALakeObjectError, read_parquet
from storage.rows import Message
from storage.schema import FORMATS, Stream

_AROUND_HOURS = 24
"""So far beside the range it is looked for what a lane had before and after it."""

_NAMED = 8
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


class PastError(StorageError):
    """The lake cannot give what was asked for, and asking again is no cure."""

    is_final = True


class NothingThereError(PastError):
    """The lake has nothing of that."""


class SeveralEpochsError(PastError):
    """The log was made anew within the range. Attributes: epochs, in µs, oldest first."""

    def __init__(self, place: str, message: str, epochs: Sequence[int]) -> None:
        super().__init__(place, message)
        self.epochs = tuple(epochs)


class IncompleteError(PastError):
    """A part of the range is not in the lake. Attributes: first, last, positions missing."""

    def __init__(self, place: str, message: str, first: int, last: int) -> None:
        super().__init__(place, message)
        self.first, self.last = first, last


class UnknownProductError(PastError):
    """The range has nothing of a product. Attributes: product."""

    def __init__(self, place: str, message: str, product: str) -> None:
        super().__init__(place, message)
        self.product = product


@dataclass(frozen=True, slots=True)
class Past:
    """What to read: a venue's stream from `since_us` up to, and without, `until_us`.

    `products`: none means all. `epoch`: when the log was made, µs; needed only where the range
    has several.
    """

    stream: Stream
    venue: str
    since_us: int
    until_us: int
    products: tuple[str, ...] | None = None
    epoch: int | None = None

    def __str__(self) -> str:
        since = "its beginning" if self.since_us <= 0 else text_of(self.since_us)
        until = "its end" if self.until_us >= FOR_EVER_US else text_of(self.until_us)
        return f"{self.stream} of {self.venue} from {since} to {until}"


class LaneRange(NamedTuple):
    """What a lane has of the past: positions `first` to `last`, all of them in these objects.

    The objects are in order of position; the first and the last may reach beyond the range.
    Where more was asked for (`after`), they begin before it.
    """

    lane: Lane
    objects: tuple[Found, ...]
    first: int
    last: int

    @property
    def products(self) -> frozenset[str]:
        """Those that the objects have anything of."""
        return frozenset(product for one in self.objects for product in one.entry.spans)


def text_of(time_us: int) -> str:
    """Return a time for people, to the second or as exact as it is."""
    moment = _BEGINNING + timedelta(microseconds=time_us)
    return moment.isoformat().replace("+00:00", "Z")


async def lanes(
    lake: Lake, past: Past, *, after: Mapping[str, int] | None = None
) -> list[LaneRange]:
    """Return what each lane has of a range of time; lanes that were quiet in it are left out.

    `after`: where a product has a position here, the objects go back to it, as far as they have
    anything of that product: so what follows a checkpoint from before the range can be read too.

    Raises:
        PastError: it is not there, not whole, not one log's, or has nothing of a product.
        DamagedError: an object at the edge of the range is damaged.
        StorageError: the store cannot be read.
    """
    if past.until_us <= past.since_us:
        raise NothingThereError(str(past), "the range is empty: it must end after its beginning")
    shelves = await _shelves(lake, past)
    ranges: list[LaneRange] = []
    for shelf in _of_one_epoch(shelves, past):
        found = await _range(lake, shelf, past)
        if found is not None:
            ranges.append(await _reaching_back(lake, shelf, found, past, after or {}))
    if not ranges:
        raise NothingThereError(str(past), _what_there_is(shelves))
    _check_products(ranges, past)
    return ranges


async def read(
    lake: Lake,
    ranges: Sequence[LaneRange],
    *,
    after: Mapping[str, int] | None = None,
    products: Collection[str] | None = None,
) -> AsyncGenerator[list[Message], None]:
    """Yield the messages of ranges in order of position, some at a time, byte for byte.

    A product begins behind its position in `after`, and at the beginning of its range where it
    has none there. `products`: none means all. At most two objects of each lane are in memory;
    each is held against its digest before anything of it is yielded.

    Raises:
        DamagedError: an object is not what its manifest says; what was yielded before it is right.
        StorageError: the store cannot be read.
    """
    wanted = _Wanted(after or {}, products)
    sources = [_objects(lake, one, wanted) for one in ranges]
    async with contextlib.AsyncExitStack() as stack:
        for source in sources:
            await stack.enter_async_context(contextlib.aclosing(source))
        heads = [head for head in map(_Head, sources) if await head.refill()]
        while heads:
            # Beyond this position a lane may have more that is not read yet.
            upto = min(head.upto for head in heads)
            messages = sorted(message for head in heads for message in head.take(upto))
            if messages:
                yield messages
            heads = [head for head in heads if head.upto > upto or await head.refill()]


class _Shelf:
    """The hours of a lane that are near the range. Attributes: lane; hours, in order."""

    def __init__(self, lane: Lane, hours: Sequence[Hour]) -> None:
        self.lane, self.hours = lane, list(hours)
        self._manifests: dict[Hour, Manifest] = {}

    async def load(self, lake: Lake, hours: Iterable[Hour]) -> None:
        """Load the manifests of hours."""
        for hour in hours:
            self._manifests[hour] = await lake.manifest(self.lane, hour)

    async def load_earlier(self, lake: Lake) -> bool:
        """Load the hour before the oldest one that is loaded; return false if there is none."""
        earlier = [hour for hour in self.hours if hour < min(self._manifests)]
        await self.load(lake, earlier[-1:])
        return bool(earlier)

    @property
    def objects(self) -> list[Found]:
        """The loaded objects, in order of position."""
        found = [
            Found(hour, entry)
            for hour, manifest in self._manifests.items()
            for entry in manifest.entries
        ]
        return sorted(found, key=lambda one: one.entry.first)

    def refuse_missing(self, past: Past, above: int, below: int | None) -> None:
        """Refuse a range, exclusive bounds, of which anything is missing.

        Raises:
            IncompleteError: names the first positions that are missing, the hour, and why.
        """
        manifests = list(self._manifests.values())
        lost = [(one.first, one.last, one.reason) for each in manifests for one in each.holes]
        lost += [(*one, "nothing in the lake accounts for them") for one in gaps(manifests)]
        inside = [one for one in lost if one[1] > above and (below is None or one[0] < below)]
        if inside:
            first, last, why = min(inside)
            hours = [one.hour for one in self.objects if one.entry.last < first]
            raise IncompleteError(
                str(past),
                f"positions {first} to {last} of shard {self.lane.shard} are missing "
                f"({hours[-1] if hours else self.hours[0]}): {why}; choose a range without them, "
                "or see docs/runbooks/archive-hole.md",
                first,
                last,
            )


async def _shelves(lake: Lake, past: Past) -> list[_Shelf]:
    """Return the lanes near a range, with the manifests loaded that tell what is in it."""
    first, last = Hour.of(past.since_us), Hour.of(past.until_us - 1)
    around = (Hour(first.number - _AROUND_HOURS), Hour(last.number + _AROUND_HOURS))
    hours: dict[Lane, list[Hour]] = {}
    for hour, lane in await lake.hours(past.stream, past.venue, *around):
        if past.epoch in {None, lane.epoch}:
            hours.setdefault(lane, []).append(hour)
    shelves = [_Shelf(lane, hours[lane]) for lane in sorted(hours, key=_order)]
    for shelf in shelves:
        # A message may be an hour off where clocks differ; neighbours tell what lies between.
        start = bisect_left(shelf.hours, Hour(first.number - 1))
        end = bisect_right(shelf.hours, Hour(last.number + 1))
        await shelf.load(lake, shelf.hours[max(start - 1, 0) : end + 1])
    return shelves


def _order(lane: Lane) -> tuple[int, int]:
    return lane.epoch, lane.shard


def _of_one_epoch(shelves: Sequence[_Shelf], past: Past) -> list[_Shelf]:
    """Return the shelves of the one log that has anything in the range.

    Raises:
        SeveralEpochsError: several have.
    """
    having = [
        shelf
        for shelf in shelves
        if any(
            one.entry.since_us < past.until_us and past.since_us <= one.entry.until_us
            for one in shelf.objects
        )
    ]
    epochs = sorted({shelf.lane.epoch for shelf in having})
    if len(epochs) > 1:
        named = ", ".join(f"{epoch} (made {text_of(epoch)})" for epoch in epochs)
        raise SeveralEpochsError(
            str(past),
            "the log was made anew in this range, so its positions begin again; there are the "
            f"epochs {named}: choose one with --epoch",
            epochs,
        )
    return [shelf for shelf in shelves if shelf.lane.epoch in epochs]


async def _range(lake: Lake, shelf: _Shelf, past: Past) -> LaneRange | None:
    """Return what a lane has of the range, or none where it was quiet.

    Raises:
        IncompleteError: something that may belong to it is missing.
    """
    objects = shelf.objects
    if not objects:
        return None
    first = await _first_at(lake, shelf.lane, objects, past.since_us)
    end = await _first_at(lake, shelf.lane, objects, past.until_us)
    before = [one.entry for one in objects if first is None or one.entry.first <= first]
    newest = before[-1]
    if first is None or 0 < newest.since_us < past.since_us:
        above = newest.last if first is None else newest.first
    else:  # the range begins with an object: what lies before that one may belong to it, too
        above = before[-2].last if len(before) > 1 else 0
    shelf.refuse_missing(past, above, end)
    last = objects[-1].entry.last if end is None else end - 1
    if first is None or first > last:
        return None
    inside = [one for one in objects if first <= one.entry.last and one.entry.first <= last]
    return LaneRange(shelf.lane, tuple(inside), first, last)


async def _first_at(lake: Lake, lane: Lane, objects: Iterable[Found], time_us: int) -> int | None:
    """Return the position of the first message that was received at a time or later, if any."""
    for found in objects:
        entry = found.entry
        if entry.until_us < time_us:
            continue
        if entry.since_us >= time_us:
            return min(span.first for spans in entry.spans.values() for span in spans.values())
        position = await asyncio.to_thread(
            _search, lane, found, await lake.fetch(lane, found.hour, entry), time_us
        )
        if position is not None:
            return position
    return None


def _search(lane: Lane, found: Found, data: bytes, time_us: int) -> int | None:
    """Return the position of the object's first message whose first line is not before a time."""
    try:
        rows, _ = read_parquet(FORMATS[lane.stream], data)
    except NotALakeObjectError as error:
        raise _damaged(lane, found, error) from error
    times = rows.column("ts_ingest").cast(pa.int64())
    if "ts_event" in rows.column_names:  # statuses and snapshots have no other
        times = pc.coalesce(times, rows.column("ts_event").cast(pa.int64()))
    begins = pc.and_(pc.equal(rows.column("line"), 0), pc.greater_equal(times, time_us))
    position = pc.min(rows.column("position").filter(begins)).as_py()
    return None if position is None else int(position)


async def _reaching_back(
    lake: Lake, shelf: _Shelf, found: LaneRange, past: Past, after: Mapping[str, int]
) -> LaneRange:
    """Return the range with the objects before it that have what follows older positions."""
    back = {name: after[name] for name in found.products & after.keys()}
    start = min(back.values(), default=found.first)
    if start + 1 >= found.first:
        return found
    while shelf.objects[0].entry.first > start + 1 and await shelf.load_earlier(lake):
        pass
    oldest = shelf.objects[0].entry.first
    if oldest > start + 1:
        raise IncompleteError(
            str(past),
            f"what follows the checkpoint at position {start} is needed, and positions "
            f"{start + 1} to {oldest - 1} of shard {shelf.lane.shard} are not in the lake",
            start + 1,
            oldest - 1,
        )
    shelf.refuse_missing(past, start, found.first)
    earlier = [
        one
        for one in shelf.objects
        if one.entry.last < found.objects[0].entry.first
        and any(_last_of(one.entry, name) > position for name, position in back.items())
    ]
    return found._replace(objects=(*earlier, *found.objects))


def _last_of(entry: Entry, product: str) -> int:
    """Return the position of an object's last message of a product; 0 if there is none."""
    return max((span.last for span in entry.spans.get(product, {}).values()), default=0)


def _what_there_is(shelves: Sequence[_Shelf]) -> str:
    """Return a sentence about what is near a range that has nothing."""
    objects = [one.entry for shelf in shelves for one in shelf.objects if one.entry.until_us]
    if not objects:
        return (
            f"the lake has nothing of that, nor within {_AROUND_HOURS} hours of it; "
            "`ledgerflux lake ls` lists what it has"
        )
    since, until = min(one.since_us for one in objects), max(one.until_us for one in objects)
    return (
        f"the lake has nothing of that; near it, it has {text_of(since)} to {text_of(until)} "
        "(`ledgerflux lake ls` lists all)"
    )


def _check_products(ranges: Sequence[LaneRange], past: Past) -> None:
    """Refuse a product that the range has nothing of.

    Raises:
        UnknownProductError: names it, and some that are there.
    """
    known = sorted(set().union(*(one.products for one in ranges)))
    for product in past.products or ():
        if product not in known:
            more = ", …" if len(known) > _NAMED else ""
            raise UnknownProductError(
                str(past),
                f"nothing of product {product}; there are {', '.join(known[:_NAMED])}{more}",
                product,
            )


class _Wanted(NamedTuple):
    """Which messages of a range are read."""

    after: Mapping[str, int]
    products: Collection[str] | None

    def of(self, messages: Iterable[Message], within: LaneRange) -> list[Message]:
        """Return those of the messages that are wanted."""
        start, last, after, products = within.first - 1, within.last, self.after, self.products
        return [
            one
            for one in messages
            if after.get(one.product, start) < one.position <= last
            and (products is None or one.product in products)
        ]

    def wants(self, entry: Entry) -> bool:
        """Tell whether an object may have any of it."""
        return self.products is None or not entry.spans.keys().isdisjoint(self.products)


class _Head:
    """What of a lane has been read and not been yielded. Attributes: upto, its last position."""

    def __init__(self, source: AsyncIterator[tuple[int, list[Message]]]) -> None:
        self._source = source
        self._messages: list[Message] = []
        self.upto = 0

    async def refill(self) -> bool:
        """Read the next object; return false when there is none."""
        found = await anext(self._source, None)
        if found is None:
            return False
        self.upto, self._messages = found
        return True

    def take(self, upto: int) -> list[Message]:
        """Return, once, what there is up to a position."""
        end = bisect_right(self._messages, upto, key=attrgetter("position"))
        taken, self._messages = self._messages[:end], self._messages[end:]
        return taken


async def _objects(
    lake: Lake, within: LaneRange, wanted: _Wanted
) -> AsyncGenerator[tuple[int, list[Message]], None]:
    """Yield the last position and the messages of each object; fetch the next one meanwhile."""
    objects = [one for one in within.objects if wanted.wants(one.entry)]
    ahead: asyncio.Task[list[Message]] | None = None
    try:
        for number, found in enumerate(objects):
            task = ahead or asyncio.create_task(_load(lake, within.lane, found))
            ahead = None
            messages = await task
            if number + 1 < len(objects):
                ahead = asyncio.create_task(_load(lake, within.lane, objects[number + 1]))
            yield found.entry.last, wanted.of(messages, within)
    finally:
        if ahead is not None:
            ahead.cancel()
            await asyncio.gather(ahead, return_exceptions=True)


async def _load(lake: Lake, lane: Lane, found: Found) -> list[Message]:
    """Return an object's messages; those of the one that it was merged into if it is gone."""
    try:
        return await lake.messages(lane, found.hour, found.entry)
    except ObjectMissingError:
        first, last = found.entry.first, found.entry.last
        for entry in (await lake.manifest(lane, found.hour)).entries:
            if entry.first <= first and last <= entry.last and entry != found.entry:
                messages = await lake.messages(lane, found.hour, entry)
                return [one for one in messages if first <= one.position <= last]
        raise


def _damaged(lane: Lane, found: Found, error: Exception) -> DamagedError:
    return DamagedError(lane.key(found.hour, found.entry.first, found.entry.last), str(error))
