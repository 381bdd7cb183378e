"""What a replay can be made of: a stretch of the lake, or anything else that gives records.

A source is asked for its records again after any of them, by whoever, and gives the same ones: so
a replay that was killed goes on at the exact record.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import NamedTuple, Protocol

from models.dbn import Kind
from models.replaying import FOR_EVER_US
from models.subjects import Streams, raw_subject
from storage import dbn
from storage.history import LaneRange, read
from storage.lake import Lake
from storage.layout import ingest_time
from storage.objects import ObjectStore


class Record(NamedTuple):
    """One message to be published, verbatim.

    `position`: in the source, growing from record to record, above 0. `time_us`: when it was
    received; it may go back a little.
    """

    position: int
    subject: str
    payload: bytes
    time_us: int


class Source(Protocol):
    """Something that gives records.

    Attributes: stream, which takes all of them, and exists; is_shared, whether it may also hold
    those of replays that have ended; since_us, from when on they are paced (what comes before goes
    as fast as it can); until_us, when they end.
    """

    stream: str
    is_shared: bool
    since_us: int
    until_us: int

    def records(self, after: int) -> AsyncGenerator[Sequence[Record], None]:
        """Iterate over the records with a position above `after`, in order, some at a time."""


class LakeSource:
    """Raw messages of the lake, as they were archived, under the subjects of a replay.

    `after`: by product, the position of the checkpoint that the replay begins with; where there is
    none it begins with the range.
    """

    is_shared = False

    def __init__(
        self,
        lake: Lake,
        ranges: Sequence[LaneRange],
        after: Mapping[str, int],
        products: Sequence[str] | None,
        streams: Streams,
        since_us: int,
    ) -> None:
        self._lake, self._ranges, self._products = lake, ranges, products
        self._after, self._root = after, streams.root
        self._having: dict[str, list[LaneRange]] = {}
        for one in ranges:
            for product in one.products:
                self._having.setdefault(product, []).append(one)
        self.stream, self.since_us = streams.raw, since_us
        self.until_us = max(one.objects[-1].entry.until_us for one in ranges)

    async def records(self, after: int) -> AsyncGenerator[Sequence[Record], None]:
        """Iterate; see `Source.records`.

        Raises:
            DamagedError: an object is not what it should be; what came before it was right.
        """
        left = [_behind(one, after) for one in self._ranges]
        begin = {
            product: max(after, self._after.get(product, one.first - 1))
            for one in left
            for product in one.products
        }
        time_us = 0
        reading = read(self._lake, left, after=begin, products=self._products)
        async with aclosing(reading) as batches:
            async for batch in batches:
                records: list[Record] = []
                for position, product, payload in batch:
                    time_us = ingest_time(payload) or time_us
                    subject = self._subject(product, position)
                    records.append(Record(position, subject, payload, time_us))
                yield records

    def _subject(self, product: str, position: int) -> str:
        """Return a message's subject, in the shard from which it was archived."""
        having = self._having[product]
        if len(having) > 1:  # SHARD_COUNT was changed
            having = [one for one in having if _has(one, product, position)] or having
        lane = having[0].lane
        return raw_subject(lane.shard, lane.venue, product, self._root)


class DbnSource:
    """Records of Databento files as canonical ticks, a message each; see `storage.dbn`.

    `until_us` is known with the first of them.
    """

    is_shared = True

    def __init__(
        self, names: Sequence[str], store: ObjectStore, kind: Kind | None, streams: Streams
    ) -> None:
        self._names, self._store, self._kind, self._root = names, store, kind, streams.root
        self.stream, self.since_us, self.until_us = streams.derivatives, 0, FOR_EVER_US

    async def records(self, after: int) -> AsyncGenerator[Sequence[Record], None]:
        """Iterate; see `Source.records`.

        Raises:
            DbnError: a file cannot be read to its end; everything before that has been given.
        """
        opened = dbn.opened(self._names, self._store, kind=self._kind, root=self._root)
        async with opened as files, aclosing(files.messages(after)) as batches:
            self.until_us = files.until_us or FOR_EVER_US
            async for batch in batches:
                yield [Record(*one) for one in batch]


def _behind(within: LaneRange, after: int) -> LaneRange:
    """Leave out the objects that end at or before a position."""
    objects = tuple(one for one in within.objects if one.entry.last > after)
    return within._replace(objects=objects)


def _has(within: LaneRange, product: str, position: int) -> bool:
    return any(
        span.first <= position <= span.last
        for one in within.objects
        for span in one.entry.spans.get(product, {}).values()
    )
