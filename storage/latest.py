"""The latest state of every product: the contract that its two stores keep, and the row.

One row per product holds all its feeds as canonical snapshot and status lines. Writers may be
late, repeat themselves, or be two at once: a row is only ever replaced by a newer one.

Newer is decided by the position in MD_TICKS, not by the venue's `seq`: there is one position for
all three feeds of a product, the log's fence makes it grow, and it grows even where a venue begins
to count anew. Positions begin again when the stream is made anew, so the time at which it was made
(`epoch`, µs) is compared first.
"""

import asyncio
import zlib
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from typing import Protocol, TypeVar

import msgspec

T = TypeVar("T")

DEPTH = 500
"""Levels a side that a row keeps of a book, so that a row stays far below DynamoDB's 400 KB."""

MAX_ROW_BYTES = 380 * 1024
"""What a row may have in the store, compressed; DynamoDB ends at 400 KB with all attributes."""

_COMPRESS_ABOVE_BYTES = 16 * 1024


class LatestRow(msgspec.Struct, frozen=True):
    """Latest state of one product.

    It reflects everything of the product in MD_TICKS up to `position`, and nothing after. `ts_us`:
    time of the newest message in it. `lines`: canonical snapshot and status lines by which
    `streaming.core.latest` is restored.
    """

    venue: str
    product: str
    epoch: int
    position: int
    ts_us: int
    lines: tuple[str, ...]

    @property
    def key(self) -> str:
        """Its name in the store, such as `coinbase/BTC-USD`."""
        return f"{self.venue}/{self.product}"

    @property
    def order(self) -> tuple[int, int]:
        """Greater is newer."""
        return self.epoch, self.position


class RowTooLargeError(ValueError):
    """A row does not fit into the store. Attributes: key, size_bytes."""

    def __init__(self, key: str, size_bytes: int) -> None:
        super().__init__(
            f"the latest state of {key} has {size_bytes} bytes compressed, {MAX_ROW_BYTES} are "
            "possible: keep fewer levels of its book"
        )
        self.key, self.size_bytes = key, size_bytes


class LatestStore(Protocol):
    """Rows by product. Every call raises a `StorageError` when it fails."""

    async def put(self, rows: Sequence[LatestRow]) -> int:
        """Write those rows that are newer than what is stored; return how many that were.

        One row per product. May be repeated after any failure, and cancelled: each row is stored
        or not, never half.

        Raises:
            RowTooLargeError: before anything is written.
        """

    async def get(self, venue: str, product: str) -> LatestRow | None:
        """Return a row, or none."""

    def all(self) -> AsyncIterator[LatestRow]:
        """Iterate over all rows, in no order."""


class _Book(msgspec.Struct):
    """What a line tells about how much of a book it has."""

    class State(msgspec.Struct):
        bids: list[msgspec.Raw] = []
        asks: list[msgspec.Raw] = []

    type: str
    feed: str
    state: msgspec.Raw = msgspec.Raw(b"{}")


_decode_book = msgspec.json.Decoder(_Book).decode
_decode_levels = msgspec.json.Decoder(_Book.State).decode


def is_whole(row: LatestRow) -> bool:
    """Tell whether a row has all of its product's state, so that ticks can be applied to it.

    A book that fills `DEPTH` on a side may go on below. Once its best levels are gone those below
    would be missing, so it is good to look at, but not to go on from.

    Raises:
        msgspec.DecodeError: a line is no canonical message.
    """
    for line in map(_decode_book, row.lines):
        if (line.feed, line.type) == ("book", "snapshot"):
            book = _decode_levels(line.state)
            if max(len(book.bids), len(book.asks)) >= DEPTH:
                return False
    return True


def pack(row: LatestRow) -> tuple[bytes, bool]:
    """Return a row's lines as NDJSON, and whether it is compressed: deep books are.

    Raises:
        RowTooLargeError: it has more than `MAX_ROW_BYTES` all the same.
    """
    text = "\n".join(row.lines).encode()
    compressed = len(text) > _COMPRESS_ABOVE_BYTES
    data = zlib.compress(text, 1) if compressed else text
    if len(data) > MAX_ROW_BYTES:
        raise RowTooLargeError(row.key, len(data))
    return data, compressed


def unpack(data: bytes, *, compressed: bool) -> tuple[str, ...]:
    """Return the lines that were packed."""
    text = (zlib.decompress(data) if compressed else data).decode()
    return tuple(text.split("\n")) if text else ()


async def all_of(calls: Iterable[Awaitable[T]]) -> list[T]:
    """Wait for all calls, also when some fail; then raise what the first of those raised."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]
