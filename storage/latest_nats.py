"""Latest-state rows in a NATS key-value bucket: the embedded default.

Each write demands the revision that the writer knows; where another writer was faster, the rows
are compared and the newer one stays. What this writer has stored it remembers, so that a write is
one request.
"""

import asyncio
import itertools
import random
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple, ParamSpec, Self, TypeVar

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.js.api import KeyValueConfig
from nats.js.errors import (
    APIError,
    KeyNotFoundError,
    KeyValueError,
    KeyWrongLastSequenceError,
    NotFoundError,
)
from nats.js.kv import KeyValue

from models.decoding import UNREADABLE
from models.nats_access import NATS_AWAY, NatsAwayError, WaryClient, connect_within, nats_options
from models.settings import Settings
from storage.errors import (
    BadRequestError,
    DamagedError,
    MissingStoreError,
    NoSpaceError,
    StorageError,
    UnavailableError,
)
from storage.latest import LatestRow, all_of, pack, unpack

P = ParamSpec("P")
T = TypeVar("T")

_AT_ONCE = 64
_RETRIES = 8
_FIRST_WAIT_S = 0.02
_LONGEST_WAIT_S = 0.5
_WITHIN_S = 3.0
_CONNECT_S = 2
_FULL = frozenset({10047, 10077})  # insufficient storage; maximum bytes exceeded


class _Head(msgspec.Struct):
    """First line of a value; the row's lines follow it."""

    epoch: int
    position: int
    ts_us: int
    compressed: bool = False


_decode_head = msgspec.json.Decoder(_Head).decode


class _Seen(NamedTuple):
    """What a key held when this store last looked: its revision, and how new the row was."""

    revision: int
    order: tuple[int, int]


_NOTHING = _Seen(0, (0, 0))


class NatsLatestStore:
    """A `LatestStore` in one bucket."""

    def __init__(self, client: Client, bucket: str) -> None:
        self._js = client.jetstream(timeout=_WITHIN_S)
        self._bucket = bucket
        self._kv: KeyValue | None = None
        self._seen: dict[str, _Seen] = {}
        self._turn = asyncio.Semaphore(_AT_ONCE)

    @classmethod
    @asynccontextmanager
    async def connect(cls, settings: Settings, *, wait_s: float = 30.0) -> AsyncIterator[Self]:
        """Give the bucket `<JS_STREAM_NAME>_LATEST`; nothing is asked of it yet.

        Raises:
            UnavailableError: no server answers within `wait_s`.
        """
        client = WaryClient()
        try:
            await connect_within(
                client,
                settings.nats_urls,
                wait_s,
                name="latest-state",
                connect_timeout=_CONNECT_S,
                **nats_options(settings),
            )
        except NatsAwayError as error:
            raise UnavailableError(error.where, error.reason) from error
        except OSError as error:  # a certificate
            raise UnavailableError(", ".join(settings.nats_urls), str(error)) from error
        try:
            yield cls(client, f"{settings.js_stream_name}_LATEST")
        finally:
            with suppress(nats.errors.Error, OSError):  # the server may be gone
                await client.close()

    async def create_bucket(self, max_bytes: int) -> None:
        """Create the bucket, of so many bytes at most, unless it exists."""
        try:
            await self._opened()
        except MissingStoreError:
            config = KeyValueConfig(self._bucket, history=1, max_bytes=max_bytes)
            self._kv = await self._call(self._js.create_key_value, config)

    async def put(self, rows: Sequence[LatestRow]) -> int:
        """Write those rows that are newer than what is stored; see `LatestStore.put`."""
        values = [_value(row) for row in rows]
        return sum(await all_of(map(self._put, rows, values)))

    async def _put(self, row: LatestRow, value: bytes) -> bool:
        """Write one row; tell whether it was newer than the one before."""
        async with self._turn:
            seen = self._seen.get(row.key) or await self._look(row.key)
            while row.order > seen.order:
                bucket = await self._opened()
                try:
                    revision = await self._call(bucket.update, row.key, value, seen.revision)
                except KeyWrongLastSequenceError:
                    # Another writer, or our own write whose answer was lost.
                    seen = await self._look(row.key)
                else:
                    self._seen[row.key] = _Seen(revision, row.order)
                    return True
        return False

    async def _look(self, key: str) -> _Seen:
        """Return what a key holds, and remember it."""
        found = await self._entry(key)
        seen = _NOTHING
        if found is not None:
            row = _row(key, found.value or b"")
            seen = _Seen(found.revision or 0, row.order)
        self._seen[key] = seen
        return seen

    async def get(self, venue: str, product: str) -> LatestRow | None:
        """Return a row, or none."""
        key = f"{venue}/{product}"
        found = await self._entry(key)
        return None if found is None else _row(key, found.value or b"")

    async def all(self) -> AsyncIterator[LatestRow]:
        """Iterate over all rows, in no order."""
        await self._opened()
        prefix = f"$KV.{self._bucket}."
        info = await self._call(
            self._js.stream_info, f"KV_{self._bucket}", subjects_filter=f"{prefix}>"
        )
        keys = [subject.removeprefix(prefix) for subject in info.state.subjects or ()]
        for first in range(0, len(keys), _AT_ONCE):
            some = keys[first : first + _AT_ONCE]
            found_all = await all_of(map(self._entry, some))
            for key, found in zip(some, found_all, strict=True):
                if found is not None:
                    yield _row(key, found.value or b"")

    async def _entry(self, key: str) -> KeyValue.Entry | None:
        bucket = await self._opened()
        try:
            return await self._call(bucket.get, key)
        except KeyNotFoundError:
            return None

    async def _opened(self) -> KeyValue:
        """Return the bucket.

        Raises:
            MissingStoreError: it does not exist.
        """
        if self._kv is None:
            self._kv = await self._call(self._js.key_value, self._bucket)
        return self._kv

    async def _call(self, call: Callable[P, Awaitable[T]], *request: P.args, **more: P.kwargs) -> T:
        """Ask the server, and ask again while it is away; each request may be repeated."""
        for attempt in itertools.count():
            try:
                answer = await call(*request, **more)
            except NATS_AWAY as error:
                failure: StorageError = UnavailableError(self._bucket, f"no answer ({error!r})")
                if attempt == _RETRIES:
                    raise failure from error
            except KeyValueError:
                raise
            except APIError as error:
                raise self._refused(error) from error
            else:
                # The client uses `asyncio.wait_for`, which before Python 3.12 can return an
                # answer and forget that the task was cancelled meanwhile.
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise asyncio.CancelledError
                return answer
            wait_s = min(_FIRST_WAIT_S * 2**attempt, _LONGEST_WAIT_S)
            await asyncio.sleep(random.uniform(wait_s / 2, wait_s))  # noqa: S311 (jitter)
        raise AssertionError

    def _refused(self, error: APIError) -> StorageError:
        if isinstance(error, NotFoundError):
            return MissingStoreError(
                self._bucket, "there is no such key-value bucket; the snapshot worker makes it"
            )
        if error.err_code in _FULL:
            return NoSpaceError(self._bucket, f"the bucket is full ({error.description})")
        return BadRequestError(self._bucket, f"refused ({error.description})")


def _value(row: LatestRow) -> bytes:
    data, compressed = pack(row)
    head = _Head(row.epoch, row.position, row.ts_us, compressed)
    return msgspec.json.encode(head) + b"\n" + data


def _row(key: str, value: bytes) -> LatestRow:
    """Read a value.

    Raises:
        DamagedError: it is none of ours.
    """
    venue, _, product = key.partition("/")
    first, _, data = value.partition(b"\n")
    try:
        head = _decode_head(first)
        lines = unpack(data, compressed=head.compressed)
    except (*UNREADABLE, zlib.error) as error:
        raise DamagedError(key, f"is no latest-state row: {error}") from error
    return LatestRow(venue, product, head.epoch, head.position, head.ts_us, lines)
