"""The normalizer's checkpoints in the lake, so that any hour can be normalized again by itself.

    state/venue=<venue>/date=YYYY-MM-DD/hour=HH/shard=<shard>/epoch=<epoch>/
        <raw position>-<product>.json          a checkpoint as MD_STATE had it
        <raw position>-<product>.json.zlib     likewise, compressed

`epoch` is that of the raw stream. Each product has one an hour, unless it is quiet or its state
could not stand alone. The checkpoint of position c and everything of the product in MD_RAW after
c give again what the normalizer has said since.
"""

import re
from collections.abc import AsyncIterator, Collection, Mapping, Sequence

import msgspec

from models.checkpoint import ENCODING_HEADER, Checkpoint, decode_checkpoint
from models.decoding import UNREADABLE
from models.subjects import META_PRODUCT, token
from storage.errors import DamagedError, UnavailableError
from storage.history import LaneRange, Past, PastError, lanes, text_of
from storage.lake import Lake
from storage.layout import Hour, Lane, hour_of
from storage.manifest import Manifest, gaps
from storage.objects import ObjectStore

ROOT = "state"
"""Beside the layers of the data."""

_DIGITS = 20
_FIRST_POSITION = 1
_name_in = re.compile(r"/([0-9]{20})-([A-Za-z0-9_-]{1,64})\.json(\.zlib)?$").search


class NoStateError(PastError):
    """What a product was like at the beginning of a range is not known. Attributes: product."""

    def __init__(self, place: str, message: str, product: str) -> None:
        super().__init__(place, message)
        self.product = product


class _Cursor(msgspec.Struct):
    """Of a feed's cursor: where the log must be read again from, once its gate opens."""

    overflow_from: int | None = None


class _Cursors(msgspec.Struct):
    trades: _Cursor
    book: _Cursor


_decode_cursors = msgspec.json.Decoder(_Cursors).decode


def stands_alone(checkpoint: Checkpoint) -> bool:
    """Tell whether nothing before a checkpoint is needed to go on from it.

    While a gate has let go what it held, that has to be read again, from before the checkpoint.
    """
    cursors = _decode_cursors(checkpoint.cursors)
    return cursors.trades.overflow_from is None and cursors.book.overflow_from is None


async def keep_state(
    store: ObjectStore, lane: Lane, hour: Hour, payload: bytes, headers: Mapping[str, str]
) -> None:
    """Store a checkpoint as MD_STATE has it, and verify it; a repeat changes nothing.

    Raises:
        msgspec.DecodeError: it is no checkpoint.
        UnavailableError: what is there was never finished; it was deleted, so try again.
        StorageError: the store failed.
    """
    checkpoint = decode_checkpoint(payload, headers)
    ending = ".json.zlib" if headers.get(ENCODING_HEADER) == "zlib" else ".json"
    name = f"{checkpoint.raw_seq:0{_DIGITS}d}-{token(checkpoint.product)}{ending}"
    key = f"{_folder(lane, hour)}{name}"
    await store.put_new(key, payload)
    try:
        # One that is there already may be spelled otherwise: it says the same.
        await _read(store, key)
    except DamagedError as error:
        await store.delete(key)
        raise UnavailableError(error.place, "was cut on its way, and was deleted") from error


async def kept_states(store: ObjectStore, lane: Lane, hour: Hour) -> dict[str, int]:
    """Return the products that have a state in an hour's folder, and its newest raw position."""
    found: dict[str, int] = {}
    async for _, position, product in _states(store, lane, hour):
        found[product] = max(position, found.get(product, 0))
    return found


async def states_before(
    lake: Lake, past: Past, ranges: Sequence[LaneRange] | None = None
) -> dict[str, Checkpoint]:
    """Return the newest checkpoint of each product at or before the beginning of a raw range.

    A product that is not in the result has nothing in the lake before the range: it begins with
    nothing known, which is exact as well. `ranges`: what `lanes` gives for `past`, if it is known.

    Raises:
        NoStateError: a product was there before, but no state of it; tells from when on one is.
        PastError: see `lanes`.
        DamagedError: a stored state cannot be read.
    """
    found: dict[str, Checkpoint] = {}
    for one in await lanes(lake, past) if ranges is None else ranges:
        found |= await lane_states(lake, one, past.products)
    return found


async def lane_states(
    lake: Lake, past: LaneRange, products: Collection[str] | None = None
) -> dict[str, Checkpoint]:
    """Return the same for one lane."""
    wanted = {name for name in past.products - {META_PRODUCT} if _is_in(past, name)}
    if products is not None:
        wanted &= set(products)
    found: dict[str, Checkpoint] = {}
    for hour in reversed(await _hours(lake.store, past.lane)):
        missing = wanted - set(found)
        if missing and hour <= past.objects[0].hour:
            found |= await _newest(lake.store, past, hour, missing)
    if wanted - found.keys():
        manifests = await _manifests_before(lake, past)
        for product in sorted(wanted - found.keys()):
            await _check_beginning(lake, past, product, manifests)
    return found


async def states_at(
    store: ObjectStore, lane: Lane, positions: Mapping[str, int], until: Hour
) -> dict[str, Checkpoint]:
    """Return the checkpoints that products have at known positions, stored up to an hour.

    Raises:
        NoStateError: one of them is not there.
        DamagedError: one of them cannot be read.
    """
    found: dict[str, Checkpoint] = {}
    for hour in reversed(await _hours(store, lane)):
        if hour > until or found.keys() == positions.keys():
            continue
        async for key, position, product in _states(store, lane, hour):
            if product not in found and positions.get(product) == position:
                found[product] = await _read(store, key)
    for product in positions.keys() - found.keys():
        raise NoStateError(
            f"{lane.stream}/{lane.venue}/{lane.shard}",
            f"the state of {product} at position {positions[product]} is gone",
            product,
        )
    return found


def _is_in(past: LaneRange, product: str) -> bool:
    """Tell whether a product may have a message in the range itself."""
    return any(
        span.first <= past.last and past.first <= span.last
        for one in past.objects
        for span in one.entry.spans.get(product, {}).values()
    )


async def _newest(
    store: ObjectStore, past: LaneRange, hour: Hour, products: Collection[str]
) -> dict[str, Checkpoint]:
    """Return the states of an hour's folder that lie before the range, the newest of each."""
    # Names are listed in the order of their positions.
    keys = {
        product: key
        async for key, position, product in _states(store, past.lane, hour)
        if product in products and position < past.first
    }
    return {product: await _read(store, key) for product, key in keys.items()}


async def _read(store: ObjectStore, key: str) -> Checkpoint:
    headers = {ENCODING_HEADER: "zlib"} if key.endswith(".zlib") else {}
    payload = await store.get(key)
    try:
        return decode_checkpoint(payload, headers)
    except (*UNREADABLE, ValueError) as error:
        raise DamagedError(f"s3://{store.bucket}/{key}", f"is no state: {error}") from error


async def _manifests_before(lake: Lake, past: LaneRange) -> list[Manifest]:
    """Return the manifests of a lane up to the hour in which a range begins."""
    lane = past.lane
    return [
        await lake.manifest(lane, hour)
        for hour, one in await lake.hours(lane.stream, lane.venue, until=past.objects[0].hour)
        if one == lane
    ]


async def _check_beginning(
    lake: Lake, past: LaneRange, product: str, manifests: Sequence[Manifest]
) -> None:
    """Make sure that a product without a state has never had a message before the range.

    Raises:
        NoStateError: it has, or that cannot be known.
    """
    lane = past.lane
    before = [entry for one in manifests for entry in one.entries if entry.first < past.first]
    ranges = [found for one in manifests for found in one.ranges() if found[0] < past.first]
    holes = any(hole.first < past.first for one in manifests for hole in one.holes)
    missing = any(first < past.first for first, _ in gaps(manifests))
    if any(
        span.first < past.first
        for entry in before
        for span in entry.spans.get(product, {}).values()
    ):
        why = "it has messages before the range, but none of its states was stored there"
    elif holes or missing or min(ranges, default=(past.first, 0))[0] > _FIRST_POSITION:
        why = "whether it had messages before the range is not known: they were not all archived"
    else:
        return
    raise NoStateError(
        f"{lane.stream}/{lane.venue}/{lane.shard}",
        f"{product} cannot be normalized from position {past.first} on: {why}; "
        f"{await _from_when(lake.store, past, product)}, or leave it out",
        product,
    )


async def _from_when(store: ObjectStore, past: LaneRange, product: str) -> str:
    for hour in await _hours(store, past.lane):
        if product in await kept_states(store, past.lane, hour):
            return f"begin at {text_of(Hour(hour.number + 1).start_us)} or later"
    return "there is no later state of it either"


def _folder(lane: Lane, hour: Hour) -> str:
    return f"{ROOT}/venue={lane.venue}/{hour}/shard={lane.shard}/epoch={lane.epoch}/"


async def _hours(store: ObjectStore, lane: Lane) -> list[Hour]:
    """Return the hours of a venue that have states, oldest first."""
    found: list[Hour] = []
    for date in await store.folders(f"{ROOT}/venue={lane.venue}/"):
        folders = await store.folders(date)
        found += [hour for folder in folders if (hour := hour_of(folder)) is not None]
    return found


async def _states(
    store: ObjectStore, lane: Lane, hour: Hour
) -> AsyncIterator[tuple[str, int, str]]:
    """Iterate over key, raw position and product of the states in an hour's folder."""
    async for info in store.keys(_folder(lane, hour)):
        found = _name_in(info.key)
        if found is not None:
            yield info.key, int(found[1]), found[2]
