"""A recording into the lake: the raw log that it would have been, and what is said of that.

A plain function; `ledgerflux cassette import` calls it. In the lake a recording is a log of its
own, so that replays and canaries work on it as on any hour. Its epoch is the time of its first
frame: it never meets the log of a live system, and importing it again changes nothing. Each frame
is one message, received when it was recorded. The counterpart is `cassette_export`.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from models.checkpoint import Checkpoint, encode_checkpoint
from models.events import Decode
from models.records import frame_line
from models.subjects import META_PRODUCT, SubjectError, token
from storage.digest import digest, joined
from storage.errors import ConflictError
from storage.lake import Lake
from storage.layout import Hour, Lane, Piece
from storage.rows import Message
from storage.state import keep_state, stands_alone
from streaming.core.normalizer import ProductNormalizer
from streaming.core.outputs import Outputs
from venues.simulator import cassette
from venues.simulator.cassette import Frame

SHARD = 0
"""An imported recording has one lane in each stream, whatever SHARD_COUNT is."""

OBJECT_BYTES = 32 * 1024**2
"""Text that goes into one object; the same recording is always cut alike."""

Progress = Callable[[int], None]
"""Is told how many frames have been taken."""


@dataclass(slots=True)
class Imported:
    """What became of a recording in the lake. `since_us`, `until_us`: of its frames, inclusive."""

    venue: str
    epoch: int
    since_us: int
    until_us: int = 0
    frames: int = 0
    ticks: int = 0
    gaps: int = 0
    invalid: int = 0
    products: Counter[str] = field(default_factory=Counter)


async def import_cassette(
    lake: Lake,
    path: Path,
    venue: str,
    decode: Decode,
    core: Callable[[str], ProductNormalizer],
    progress: Progress = lambda _: None,
) -> Imported:
    """Put a recording into the lake; nothing of one that cannot be read to its end.

    `decode`: the venue's. `core`: makes the normalizer of a product. Broken off, it can be done
    again: what is stored already is found and verified.

    Raises:
        CassetteError: the file is no recording; names the line.
        ConflictError: another recording that began in the same microsecond is there already, or
            this one as a normalizer with other settings understood it.
        StorageError: the lake cannot be written.
    """
    taking = _Import(lake, venue, _first_time(path), decode, core)
    for frame in cassette.frames(path):
        await taking.take(frame)
        progress(taking.done.frames)
    await taking.finish()
    return taking.done


def _first_time(path: Path) -> int:
    """Return when the first frame was received, once the whole file has been read."""
    times = (frame.time_us for frame in cassette.frames(path))
    first_us = next(times)
    for _ in times:
        pass
    return first_us


class _Writer:
    """Collects one lane's messages into objects. Attributes: lane; position, of the newest one."""

    def __init__(self, lake: Lake, lane: Lane) -> None:
        self.lane, self.position = lane, 0
        self._lake, self._messages, self._size = lake, list[Message](), 0
        self._digests: dict[Hour, list[str]] = {}

    async def add(self, hour: Hour, product: str, payload: bytes) -> int:
        """Take the next message, and store an object when there is enough; return its position."""
        self.position += 1
        self._messages.append(Message(self.position, product, payload))
        self._size += len(payload)
        if self._size >= OBJECT_BYTES:
            await self.flush(hour)
        return self.position

    async def flush(self, hour: Hour) -> None:
        """Store what has been collected, which is all of one hour."""
        messages, self._messages, self._size = self._messages, [], 0
        if messages:
            self._digests.setdefault(hour, []).append(digest(messages))
            piece = Piece(hour, messages[0].position, self.position, messages)
            await self._lake.put(self.lane, piece)

    async def verify(self) -> None:
        """Make sure that what the lake lists is what was given, however it has been compacted.

        Raises:
            ConflictError: it is not.
        """
        for hour, digests in self._digests.items():
            entries = (await self._lake.manifest(self.lane, hour)).entries
            if joined(one.digest for one in entries) != joined(digests):
                raise ConflictError(self.lane.folder(hour), "there is other content already")


@dataclass(slots=True)
class _Product:
    """A product while it is imported: its newest positions in raw and ticks, 0 before the first."""

    core: ProductNormalizer
    raw: int = 0
    ticks: int = 0


class _Import:
    """One recording on its way into the lake. Attributes: done."""

    def __init__(
        self,
        lake: Lake,
        venue: str,
        first_us: int,
        decode: Decode,
        core: Callable[[str], ProductNormalizer],
    ) -> None:
        self.done = Imported(venue, first_us, first_us)
        self._lake, self._decode, self._core = lake, decode, core
        self._raw = _Writer(lake, Lane("raw", venue, SHARD, first_us))
        self._ticks = _Writer(lake, Lane("ticks", venue, SHARD, first_us))
        self._hour = Hour.of(first_us)
        self._products: dict[str, _Product] = {}

    async def take(self, frame: Frame) -> None:
        """Take the next frame: its raw message, and the canonical one if it gives any."""
        hour = Hour.of(frame.time_us)
        if hour != self._hour:
            await self._flush()
            self._hour = hour
            await self._keep_states()
        name, done = _product(frame), self.done
        done.frames, done.until_us = done.frames + 1, frame.time_us
        done.products[name] += 1
        line = frame.raw or frame_line(
            frame.time_us, f"tape-{done.epoch}", done.products[name], frame.text
        )
        position = await self._raw.add(hour, name, line)
        if name != META_PRODUCT:
            await self._normalize(name, position, line)

    async def _normalize(self, name: str, position: int, line: bytes) -> None:
        product = self._products.get(name)
        if product is None:
            product = self._products[name] = _Product(self._core(name))
        out = Outputs()
        for event in self._decode(line, name):
            product.core.apply(event, position, out)
        product.raw = position
        if out.lines:
            said = "\n".join(out.lines).encode()
            product.ticks = await self._ticks.add(self._hour, name, said)
        self.done.ticks += out.ticks
        self.done.gaps += out.gaps
        self.done.invalid += len(out.invalid)

    async def _keep_states(self) -> None:
        """Store where every product stands, so that the hour can be replayed by itself."""
        lane = self._raw.lane
        for name, product in self._products.items():
            if product.core.holding:
                continue
            lines, cursors = product.core.checkpoint()
            checkpoint = Checkpoint(
                lane.venue,
                name,
                product.raw,
                product.ticks,
                [msgspec.Raw(line.encode()) for line in lines],
                msgspec.Raw(cursors),
            )
            if stands_alone(checkpoint):
                await keep_state(self._lake.store, lane, self._hour, *encode_checkpoint(checkpoint))

    async def finish(self) -> None:
        """Store the rest, and make sure of all."""
        await self._flush()
        for writer in (self._raw, self._ticks):
            await writer.verify()

    async def _flush(self) -> None:
        for writer in (self._raw, self._ticks):
            await writer.flush(self._hour)


def _product(frame: Frame) -> str:
    """Return the product of a frame as ingest files it."""
    try:
        return token(frame.product)
    except SubjectError:
        return META_PRODUCT
