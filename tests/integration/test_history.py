"""The past out of a real object store: exact ranges, and a sentence for what is not there."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from models.records import frame_line
from storage.errors import DamagedError
from storage.history import (
    IncompleteError,
    LaneRange,
    NothingThereError,
    Past,
    SeveralEpochsError,
    UnknownProductError,
    lanes,
    read,
)
from storage.lake import Lake
from storage.layout import Hour, Lane, cut
from storage.manifest import Hole, compactable
from storage.objects import ObjectStore
from storage.parcel import Parcel, merge
from storage.rows import Message
from tests.servers import port_open
from tests.servers_s3 import LocalBucket, store_settings

HOUR_US = 3_600_000_000
START_US = 500_000 * HOUR_US
EPOCH = START_US - HOUR_US
EVERY_US = 60_000_000
"""One message a minute."""


class Shelf:
    """A lake under test. Attributes: lake, store, bucket (its files)."""

    def __init__(self, store: ObjectStore, bucket: LocalBucket) -> None:
        self.store, self.bucket, self.lake = store, bucket, Lake(store)

    async def put(
        self, messages: Sequence[Message], *, shard: int = 0, epoch: int = EPOCH, size: int = 7
    ) -> None:
        """Store messages as an archiver would, some to an object."""
        lane, first = Lane("raw", "coinbase", shard, epoch), messages[0].position
        for start in range(0, len(messages), size):
            some = messages[start : start + size]
            for piece in cut(first, some[-1].position, some):
                await self.lake.put(lane, piece)
            first = some[-1].position + 1

    async def lanes(self, since_us: int, until_us: int, **more: object) -> list[LaneRange]:
        """Look up a range, by default of all products."""
        past = Past("raw", "coinbase", since_us, until_us, **more)  # type: ignore[arg-type]
        return await lanes(self.lake, past)


@pytest.fixture
async def shelf(tmp_path: Path) -> AsyncIterator[Shelf]:
    """Give an empty lake."""
    with LocalBucket(tmp_path / "s3") as server:
        await port_open(server.port)
        async with ObjectStore.connect(store_settings(server.port)) as store:
            await store.create_bucket()
            yield Shelf(store, server)


def message(position: int, time_us: int, product: str = "BTC-USD") -> Message:
    """Return a message of two frames, the second a second later."""
    frames = [
        frame_line(time_us + late, "a-1", position, b'{"at":%d}' % position)
        for late in (0, 1_000_000)
    ]
    return Message(position, product, b"\n".join(frames))


def minutes(
    count: int, *, first: int = 1, step: int = 1, product: str = "BTC-USD", start_us: int = START_US
) -> list[Message]:
    """Return a message a minute."""
    return [
        message(first + number * step, start_us + number * EVERY_US, product)
        for number in range(count)
    ]


async def all_of(
    shelf: Shelf, ranges: Sequence[LaneRange], after: dict[str, int] | None = None
) -> list[Message]:
    """Read ranges to their end."""
    return [one async for some in read(shelf.lake, ranges, after=after) for one in some]


async def test_range_has_exactly_its_messages_and_ranges_tile(shelf: Shelf) -> None:
    """Two ranges that follow one another by time do so by messages, whatever objects hold them."""
    messages = minutes(150)
    await shelf.put(messages, size=40)
    since, middle, until = (START_US + minute * EVERY_US for minute in (20, 65, 110))
    one = await all_of(shelf, await shelf.lanes(since, middle))
    two = await all_of(shelf, await shelf.lanes(middle, until))
    assert one == messages[20:65]
    assert one + two == messages[20:110]


async def test_lanes_are_merged_by_position(shelf: Shelf) -> None:
    """Messages of several shards come in the order of the stream."""
    even = minutes(60, first=2, step=2, product="ETH-USD")
    odd = minutes(60, first=1, step=2)
    await shelf.put(even, shard=1, size=23)
    await shelf.put(odd, shard=0, size=17)
    ranges = await shelf.lanes(START_US, START_US + HOUR_US)
    assert await all_of(shelf, ranges) == sorted(even + odd)
    only = [
        one
        async for some in read(shelf.lake, ranges, products=("ETH-USD",), after={"ETH-USD": 50})
        for one in some
    ]
    assert only == [one for one in even if one.position > 50]


async def test_checkpoint_before_the_range_reaches_back_to_its_messages(shelf: Shelf) -> None:
    """What follows an older position is read as well, however many hours ago it was."""
    quiet = [message(1, START_US, "ETH-USD"), message(2, START_US + 1, "ETH-USD")]
    busy = minutes(300, first=3)
    late = [message(303, START_US + 300 * EVERY_US, "ETH-USD")]
    await shelf.put(quiet + busy + late, size=30)
    past = Past("raw", "coinbase", START_US + 240 * EVERY_US, START_US + 301 * EVERY_US)
    ranges = await lanes(shelf.lake, past, after={"ETH-USD": 1, "BTC-USD": 241})
    found = await all_of(shelf, ranges, after={"ETH-USD": 1, "BTC-USD": 241})
    assert found == [quiet[1], *[one for one in busy if one.position > 241], *late]
    # Only the first object and those of the range: what lies between has nothing of them.
    assert len(ranges[0].objects) <= 6


async def test_compaction_meanwhile_does_not_disturb(shelf: Shelf) -> None:
    """Objects that are merged and swept after they were looked up are found in the merged one."""
    messages = minutes(30)
    await shelf.put(messages)
    ranges = await shelf.lanes(START_US, START_US + HOUR_US)
    lane, hour = ranges[0].lane, ranges[0].objects[0].hour
    manifest = await shelf.lake.manifest(lane, hour)
    group = compactable(manifest, 1_000_000, 1_000_000)[0]
    parcels = [Parcel(await shelf.lake.fetch(lane, hour, one), one) for one in group]
    await shelf.lake.replace(lane, hour, group, merge(lane, parcels))
    assert await shelf.lake.sweep(lane, hour)
    assert await all_of(shelf, ranges) == messages


async def test_hole_or_missing_range_is_refused_with_its_positions(shelf: Shelf) -> None:
    """A noted hole and a range that nothing accounts for are named, and only where they matter."""
    await shelf.put(minutes(20))
    await shelf.put(minutes(20, first=31, start_us=START_US + 30 * EVERY_US))
    with pytest.raises(IncompleteError, match=r"positions 21 to 30 .*hour="):
        await shelf.lanes(START_US, START_US + HOUR_US)
    lane, hour = Lane("raw", "coinbase", 0, EPOCH), Hour.of(START_US)
    await shelf.lake.note_hole(lane, hour, Hole(21, 30, 0, "retention was faster"))
    with pytest.raises(IncompleteError, match="retention was faster") as caught:
        await shelf.lanes(START_US + 5 * EVERY_US, START_US + 25 * EVERY_US)
    assert (caught.value.first, caught.value.last) == (21, 30)
    assert caught.value.is_final
    # Between two messages inside an object nothing can be missing.
    assert await shelf.lanes(START_US, START_US + 18 * EVERY_US)
    assert await shelf.lanes(START_US + 32 * EVERY_US, START_US + HOUR_US)


async def test_nothing_there_tells_what_there_is(shelf: Shelf) -> None:
    """A range without data is an error that names the times that there are."""
    await shelf.put(minutes(20))
    with pytest.raises(NothingThereError, match="2027-01-15T08:00:00Z to 2027-01-15T08:19:01Z"):
        await shelf.lanes(START_US + 2 * HOUR_US, START_US + 3 * HOUR_US)
    with pytest.raises(NothingThereError, match="must end after"):
        await shelf.lanes(START_US, START_US)
    with pytest.raises(NothingThereError, match="lake ls"):
        await shelf.lanes(START_US - 200 * HOUR_US, START_US - 199 * HOUR_US)


async def test_unknown_product_is_named_with_some_that_exist(shelf: Shelf) -> None:
    """A misspelled product does not look like an empty one."""
    await shelf.put(minutes(20))
    with pytest.raises(UnknownProductError, match="nothing of product BTC-EUR; there are BTC-USD"):
        await shelf.lanes(START_US, START_US + HOUR_US, products=("BTC-USD", "BTC-EUR"))


async def test_two_epochs_must_be_chosen_from(shelf: Shelf) -> None:
    """A log that was made anew has positions of its own."""
    await shelf.put(minutes(20))
    later = minutes(20, start_us=START_US + 30 * EVERY_US)
    await shelf.put(later, epoch=EPOCH + 1)
    with pytest.raises(SeveralEpochsError, match="--epoch") as caught:
        await shelf.lanes(START_US, START_US + HOUR_US)
    assert caught.value.epochs == (EPOCH, EPOCH + 1)
    chosen = await shelf.lanes(START_US, START_US + HOUR_US, epoch=EPOCH + 1)
    assert await all_of(shelf, chosen) == later


async def test_damaged_object_is_named_after_what_came_before_it(shelf: Shelf) -> None:
    """What was read before the damage is right; nothing of the damaged object is given."""
    messages = minutes(21)
    await shelf.put(messages)
    ranges = await shelf.lanes(START_US, START_US + HOUR_US)
    found = ranges[0].objects[1]
    key = ranges[0].lane.key(found.hour, found.entry.first, found.entry.last)
    other = await shelf.lake.fetch(ranges[0].lane, found.hour, ranges[0].objects[0].entry)
    await shelf.store.delete(key)
    await shelf.store.put_new(key, other)
    reading = read(shelf.lake, ranges)
    assert await anext(reading) == messages[:7]
    with pytest.raises(DamagedError, match=key):
        await anext(reading)
