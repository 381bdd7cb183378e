"""The lake for researchers: exactly the objects that the manifests list, as one Arrow dataset.

Whatever understands Arrow reads it: DuckDB, pandas, polars. Files, columns and row groups that a
query does not need are not fetched. Reads only; `docs/lake.md` has examples.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import reduce
from operator import and_
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow.fs import S3FileSystem

from models.settings import Settings
from storage.aws import CONNECT_S, DEFAULT_REGION
from storage.lake import Lake
from storage.layout import ROOT, Hour, Lane
from storage.manifest import Entry, Manifest
from storage.objects import ObjectStore
from storage.schema import FORMATS, Stream

PLACE = (
    pa.field("venue", pa.string()),
    pa.field("date", pa.date32()),
    pa.field("hour", pa.int32()),
    pa.field("shard", pa.int32()),
    pa.field("epoch", pa.int64()),
)
"""Columns that come from where an object is; a query that names them skips the others unread."""

_LISTINGS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Selection:
    """What to look at; none means all. Hours are whole, and `until` is one of them."""

    since: Hour | None = None
    until: Hour | None = None
    venue: str | None = None
    products: tuple[str, ...] = ()

    def wants(self, entry: Entry) -> bool:
        """Tell whether an object may have any of it."""
        return not self.products or not entry.spans.keys().isdisjoint(self.products)


class Listed(NamedTuple):
    """An hour of a lane, and what is valid in it."""

    hour: Hour
    lane: Lane
    manifest: Manifest


async def listed(store: ObjectStore, stream: Stream, selection: Selection) -> list[Listed]:
    """Return what the manifests list of a stream, oldest first.

    Raises:
        StorageError: the store cannot be read.
    """
    lake = Lake(store)
    folders = await store.folders(f"{ROOT}/{stream}/")
    venues = [folder.rstrip("/").rpartition("=")[2] for folder in folders]
    hours = [
        hour
        for venue in venues
        if selection.venue in {None, venue}
        for hour in await lake.hours(stream, venue, selection.since, selection.until)
    ]
    turn = asyncio.Semaphore(_LISTINGS_AT_ONCE)

    async def load(hour: Hour, lane: Lane) -> Listed:
        async with turn:
            return Listed(hour, lane, await lake.manifest(lane, hour))

    found = await asyncio.gather(*(load(*hour) for hour in hours))
    return sorted(found, key=lambda one: (one.hour, one.lane.venue, one.lane.shard))


def lake_dataset(stream: Stream, settings: Settings, selection: Selection | None = None) -> Any:  # noqa: ANN401  # pyarrow ships no types
    """Return a `pyarrow.dataset.Dataset` over a stream, for scripts and notebooks.

    Objects that are compacted away while it is used are gone some minutes later: take a new one.

    Raises:
        StorageError: the store cannot be read.
    """

    async def look() -> list[Listed]:
        async with ObjectStore.connect(settings) as store:
            return await listed(store, stream, selection or Selection())

    return dataset(stream, settings, asyncio.run(look()), selection)


def dataset(
    stream: Stream,
    settings: Settings,
    hours: Sequence[Listed],
    selection: Selection | None = None,
) -> Any:  # noqa: ANN401  # pyarrow ships no types
    """Return a dataset over what has been listed; nothing is read yet."""
    wants = (selection or Selection()).wants
    objects = [
        (one.hour, one.lane, entry)
        for one in hours
        for entry in one.manifest.entries
        if wants(entry)
    ]
    return ds.FileSystemDataset.from_paths(
        [
            f"{settings.s3_bucket}/{lane.key(hour, entry.first, entry.last)}"
            for hour, lane, entry in objects
        ],
        schema=pa.schema([*PLACE, *FORMATS[stream].schema]),
        format=ds.ParquetFileFormat(),
        filesystem=_filesystem(settings),
        partitions=[_known(*one) for one in objects],
    )


def _known(hour: Hour, lane: Lane, entry: Entry) -> Any:  # noqa: ANN401
    """Return what is true of every row of an object, so that it can be skipped unopened."""
    moment = datetime.fromtimestamp(hour.start_us // 1_000_000, UTC)
    place = (lane.venue, moment.date(), moment.hour, lane.shard, lane.epoch)
    equal = [
        ds.field(field.name) == pa.scalar(value, field.type)
        for field, value in zip(PLACE, place, strict=True)
    ]
    product, position = ds.field("product"), ds.field("position")
    return reduce(
        and_,
        [
            *equal,
            product >= min(entry.spans),
            product <= max(entry.spans),
            position >= entry.first,
            position <= entry.last,
        ],
    )


def _filesystem(settings: Settings) -> Any:  # noqa: ANN401
    secret = settings.s3_secret_key
    address: dict[str, Any] = {}
    if settings.s3_endpoint is not None:
        url = urlsplit(settings.s3_endpoint)
        address = {"scheme": url.scheme, "endpoint_override": url.netloc}
    region = settings.s3_region or (DEFAULT_REGION if address else None)
    return S3FileSystem(
        access_key=settings.s3_access_key,
        secret_key=None if secret is None else secret.get_secret_value(),
        region=region,
        connect_timeout=CONNECT_S,
        force_virtual_addressing=settings.s3_addressing_style == "virtual",
        **address,
    )
