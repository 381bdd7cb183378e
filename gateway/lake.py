"""The lake as the farthest rung of the resume ladder: what MD_TICKS does not keep any more.

Objects say which range of the log they cover, so their end is known even where a product has been
quiet; from there the log goes on, or refuses if it does not reach back so far. Memory is bounded:
some objects as they are stored, and of each only a part unpacked. Proves nothing: the merge does.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import structlog

from gateway.product import FEED_OF_BIT, Batch, Product, read_batch
from gateway.protocol import Source
from models.canonical import Feed
from models.decoding import UNREADABLE
from models.settings import Settings
from models.subjects import ticks_subject
from storage.errors import StorageError
from storage.excerpt import Excerpt
from storage.lake import Found, Lake
from storage.layout import Hour, Lane
from storage.manifest import Manifest, gaps
from storage.objects import ObjectStore
from storage.parquet import NotALakeObjectError
from streaming.broker.log import Log, LogMessage
from streaming.core.resume import UnrecoverableError

PAGE_LINES = 1024
"""Lines in a page, about."""

WITHIN_S = 15.0
"""An object store that needs longer for a page, or for its manifests, counts as away."""

AWAY_S = 10.0
"""So long nobody waits for a store that has failed: all are refused at once."""

LISTED_S = 10.0
"""Manifests are kept so long: whoever resumes meanwhile shares them."""

KEPT_BYTES = 64 * 1024**2
"""Objects that are kept, as they are stored."""

KEPT_EXCERPTS = 4
"""Opened objects that are kept, each with at most one row group of one feed unpacked."""

_MINUTE_US = 60_000_000
_log = structlog.get_logger(__name__)


class LakeRung:
    """Reads a product's past from the lake."""

    source: Source = "lake"

    def __init__(self, lake: Lake, log: Log, stream: str, *, max_minutes: int) -> None:
        """Read what the lake has of a stream of the log, about as far back as `max_minutes`."""
        self._lake = lake
        self._log = log
        self._stream = stream
        self._max_us = max_minutes * _MINUTE_US
        # One page at a time: the next one mostly wants what this one has fetched.
        self._turn = asyncio.Lock()
        self._away_until_s = 0.0
        self._lanes: dict[str, dict[Lane, list[Found]]] = {}
        self._objects: OrderedDict[str, bytes] = OrderedDict()
        self._excerpts: OrderedDict[tuple[str, str, Feed], Excerpt] = OrderedDict()

    async def locate(self, product: Product, bit: int, seq: int, upto: int) -> tuple[int, bool]:
        """Return a position to read after, and whether the feed's oldest message links to `seq`.

        Raises:
            UnrecoverableError: `too_old`: the lake does not have it, or does not answer.
        """
        del upto  # the lake ends where it ends
        async with self._answering(product):
            lane, objects = await self._lane(product)
            place = _holding(objects, product.name, FEED_OF_BIT[bit], seq)
            if place is None:
                raise UnrecoverableError("too_old")
            found, linked = place
            if (await self._log.extent(self._stream)).first > objects[-1].entry.last + 1:
                raise UnrecoverableError("too_old")  # between lake and log something is missing
            if linked:
                return found.entry.first - 1, True
            excerpt = await self._excerpt(lane, found, product.name, FEED_OF_BIT[bit])
            position = await asyncio.to_thread(excerpt.before, seq)
            return found.entry.first - 1 if position is None else position, False

    async def end(self) -> int:
        """Return the position of the newest message that the log has stored by now."""
        return await self._log.end(self._stream)

    async def page(self, product: Product, bit: int, after: int) -> list[Batch]:
        """Return the next messages of a feed above a position, in order; none at the lake's end.

        Where an object has no more, its end comes as an empty batch.

        Raises:
            UnrecoverableError: `too_old`: the lake does not answer.
        """
        async with self._answering(product):
            lane, objects = await self._lane(product)
            found = next((one for one in objects if one.entry.last > after), None)
            if found is None or found.entry.first > after + 1:
                return []
            span = found.entry.spans.get(product.name, {}).get(FEED_OF_BIT[bit])
            batches: list[Batch] = []
            if span is not None and span.last > after:
                excerpt = await self._excerpt(lane, found, product.name, FEED_OF_BIT[bit])
                batches = await asyncio.to_thread(_read, excerpt, product, found, after)
            return batches or [Batch(found.entry.last, 0, 0, (), (), (), 0)]

    @asynccontextmanager
    async def _answering(self, product: Product) -> AsyncIterator[None]:
        """Take a turn; what goes wrong in it is one client's refusal, and never the gateway's end.

        Raises:
            UnrecoverableError: `too_old`.
        """
        loop = asyncio.get_running_loop()
        try:
            async with self._turn, asyncio.timeout(WITHIN_S):
                if loop.time() < self._away_until_s:
                    raise UnrecoverableError("too_old")
                yield
        except (StorageError, NotALakeObjectError, TimeoutError, *UNREADABLE) as error:
            self._lanes.pop(product.venue, None)
            self._away_until_s = loop.time() + AWAY_S
            reason = str(error) or f"no answer within {WITHIN_S} s"
            _log.warning("cannot read the lake", product=product.name, error=reason)
            raise UnrecoverableError("too_old") from error

    async def _lane(self, product: Product) -> tuple[Lane, list[Found]]:
        """Return the lane that has a product, and its objects in order.

        Raises:
            UnrecoverableError: `too_old`: none, or several: then the shards have been changed, and
                the end of one's object says nothing about the other.
        """
        lanes = self._lanes.get(product.venue)
        if lanes is None:
            lanes = self._lanes[product.venue] = await self._list(product.venue)
            # Forgotten then, so that they are neither old nor kept for nobody.
            loop = asyncio.get_running_loop()
            loop.call_later(LISTED_S, self._lanes.pop, product.venue, None)
        having = [
            lane
            for lane, objects in lanes.items()
            if any(product.name in one.entry.spans for one in objects)
        ]
        if len(having) != 1:
            raise UnrecoverableError("too_old")
        return having[0], lanes[having[0]]

    async def _list(self, venue: str) -> dict[Lane, list[Found]]:
        """Return the objects of a venue's lanes that may matter, in order."""
        # An hour more: the number itself may be older than what follows it.
        since = Hour(Hour.of(time.time_ns() // 1000 - self._max_us).number - 1)
        epoch = (await self._log.extent(self._stream)).created_us
        lanes: dict[Lane, list[Found]] = {}
        for hour, lane in await self._lake.hours("ticks", venue, since):
            if lane.epoch == epoch:
                manifest = await self._lake.manifest(lane, hour)
                lanes.setdefault(lane, []).extend(Found(hour, one) for one in manifest.entries)
        for objects in lanes.values():
            objects.sort(key=lambda found: found.entry.first)
        return lanes

    async def _excerpt(self, lane: Lane, found: Found, product: str, feed: Feed) -> Excerpt:
        """Return an opened object."""
        key = lane.key(found.hour, found.entry.first, found.entry.last)
        excerpt = self._excerpts.get((key, product, feed))
        if excerpt is None:
            data = await self._object(key, lane, found)
            excerpt = await asyncio.to_thread(Excerpt, data, product, feed)
            self._excerpts[key, product, feed] = excerpt
            if len(self._excerpts) > KEPT_EXCERPTS:
                self._excerpts.popitem(last=False)
        self._excerpts.move_to_end((key, product, feed))
        return excerpt

    async def _object(self, key: str, lane: Lane, found: Found) -> bytes:
        data = self._objects.get(key)
        if data is None:
            data = self._objects[key] = await self._lake.fetch(lane, found.hour, found.entry)
            while sum(map(len, self._objects.values())) > KEPT_BYTES and len(self._objects) > 1:
                self._objects.popitem(last=False)
        self._objects.move_to_end(key)
        return data


@asynccontextmanager
async def lake_of(settings: Settings) -> AsyncIterator[Lake]:
    """Give the lake of the settings; nothing is asked of it yet."""
    async with ObjectStore.connect(settings) as store:
        yield Lake(store)


def _holding(
    objects: Sequence[Found], product: str, feed: Feed, seq: int
) -> tuple[Found, bool] | None:
    """Return the newest object that may have a number, or else the one that links to it.

    The flag tells the latter. None: there is neither, or ranges are missing after it.
    """
    holders, links = [], []
    for number, found in enumerate(objects):
        span = found.entry.spans.get(product, {}).get(feed)
        if span is not None and span.low_seq is not None and span.high_seq is not None:
            if span.low_seq <= seq <= span.high_seq:
                holders.append(number)
            if span.links_to == seq:
                links.append(number)
    if not holders and not links:
        return None
    # Its own object first: statuses may have come between it and what links to it.
    number = (holders or links)[-1]
    later = tuple(one.entry for one in objects[number:])
    return None if gaps([Manifest(entries=later)]) else (objects[number], not holders)


def _read(excerpt: Excerpt, product: Product, found: Found, after: int) -> list[Batch]:
    """Return the next messages of an object as batches."""
    subject = ticks_subject("0", product.venue, product.name)
    # Statuses and snapshots do not tell when they were received: before what came after them.
    time_us = found.entry.until_us
    batches = []
    for message in reversed(excerpt.after(after, PAGE_LINES)):
        time_us = message.time_us or time_us
        stored = LogMessage(subject, message.position, message.payload, {}, time_us)
        batches.append(read_batch(stored)[0])
    return batches[::-1]
