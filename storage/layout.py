"""Where the lake keeps what: lanes, hours, names, and how a range of the log is cut into hours.

    bronze/<stream>/venue=<venue>/date=YYYY-MM-DD/hour=HH/shard=<shard>/epoch=<epoch>/
        <first>-<last>.parquet        every message of the lane from `first` to `last`
        manifest-<version>.json       which objects are valid now; the highest version counts

A lane is one shard of one venue in one stream, as one normalizer serves it. The epoch names the
stream itself: when it is made anew its positions begin again, and must not meet the old ones.
Within a lane the ranges follow one another without a hole, whatever hour they are in.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

from models.subjects import token
from storage.rows import Message
from storage.schema import Stream

ROOT = "bronze"
"""The layer of data as it came; what is derived from it goes beside it."""

_DIGITS = 20
_HOUR_US = 3_600_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_own_time = re.compile(rb'"ts_ingest":([0-9]{1,18})').search
_other_time = re.compile(rb'"(?:since|ts_snapshot)":([0-9]{1,18})').search
_range_in = re.compile(r"/([0-9]{20})-([0-9]{20})\.parquet$").search
_version_in = re.compile(r"/manifest-([0-9]{8})\.json$").search
_hour_in = re.compile(r"/date=([0-9-]{10})/hour=([0-9]{2})/").search


@dataclass(frozen=True, slots=True, order=True)
class Hour:
    """An hour UTC: `number` counts hours since 1970."""

    number: int

    @classmethod
    def of(cls, time_us: int) -> Self:
        """Return the hour in which a time lies."""
        return cls(time_us // _HOUR_US)

    @property
    def start_us(self) -> int:
        """Its beginning."""
        return self.number * _HOUR_US

    def __str__(self) -> str:
        return f"{_EPOCH + timedelta(hours=self.number):date=%Y-%m-%d/hour=%H}"


@dataclass(frozen=True, slots=True)
class Lane:
    """One shard of one venue in one epoch of a stream: when the stream was made, in µs."""

    stream: Stream
    venue: str
    shard: int
    epoch: int

    def __post_init__(self) -> None:
        token(self.venue)

    def folder(self, hour: Hour) -> str:
        """Return where the lane's objects of an hour are."""
        return f"{self._root}{hour}/shard={self.shard}/epoch={self.epoch}/"

    def key(self, hour: Hour, first: int, last: int) -> str:
        """Return the name of the object of a range."""
        return f"{self.folder(hour)}{first:0{_DIGITS}d}-{last:0{_DIGITS}d}.parquet"

    def manifest_key(self, hour: Hour, version: int) -> str:
        """Return the name of a version of an hour's manifest."""
        return f"{self.folder(hour)}manifest-{version:08d}.json"

    @property
    def _root(self) -> str:
        return f"{ROOT}/{self.stream}/venue={self.venue}/"


def venue_folder(stream: Stream, venue: str) -> str:
    """Return where all hours of a venue are."""
    return f"{ROOT}/{stream}/venue={token(venue)}/"


def range_of(key: str) -> tuple[int, int] | None:
    """Return the range of an object's name, or none if it is not one of the lake's."""
    found = _range_in(key)
    return None if found is None else (int(found[1]), int(found[2]))


def version_of(key: str) -> int | None:
    """Return the version of a manifest's name, or none if it is not one."""
    found = _version_in(key)
    return None if found is None else int(found[1])


def hour_of(key: str) -> Hour | None:
    """Return the hour in whose folder a key lies, or none."""
    found = _hour_in(key)
    if found is None:
        return None
    moment = datetime.fromisoformat(f"{found[1]}T{found[2]}:00:00+00:00")
    return Hour((moment - _EPOCH) // timedelta(hours=1))


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a range that lies in one hour: every message of the lane from first to last."""

    hour: Hour
    first: int
    last: int
    messages: Sequence[Message]


def cut(first: int, last: int, messages: Sequence[Message]) -> list[Piece]:
    """Cut a range of the log into hours; the pieces follow one another without a hole.

    A message belongs to the hour in which its first line was received, but never to an earlier
    one than the message before it. The same range is always cut alike. A range without messages
    gives nothing: leave it to the next one.
    """
    hours: list[Hour] = []
    for message in messages:
        time_us = ingest_time(message.payload)
        earliest = hours[-1] if hours else None
        hour = earliest if time_us is None else Hour.of(time_us)
        hours.append(max(hour or Hour(0), earliest or Hour(0)))
    starts = [0, *(at for at in range(1, len(hours)) if hours[at] != hours[at - 1])]
    pieces: list[Piece] = []
    for start, end in zip(starts, [*starts[1:], len(messages)], strict=True):
        if not messages:
            break
        begins = first if start == 0 else messages[start].position
        ends = last if end == len(messages) else messages[end].position - 1
        pieces.append(Piece(hours[start], begins, ends, messages[start:end]))
    return pieces


def ingest_time(payload: bytes) -> int | None:
    """Return when a message's first line was received, in microseconds, as far as it tells."""
    found = _own_time(payload) or _other_time(payload)
    return None if found is None else int(found[1])
