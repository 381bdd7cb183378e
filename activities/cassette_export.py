"""A range of the lake into a recording that the simulator plays: the venue's frames, verbatim.

A plain function; `ledgerflux cassette export` calls it. The counterpart is `cassette_import`.
"""

import heapq
from collections import Counter
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from models.records import RawLine
from storage.history import Past, PastError, lanes, read, text_of
from storage.lake import Lake
from storage.rows import Message

_WINDOW_BYTES = 128 * 1024**2
"""How far the log may be out of the order of time: more than ingest holds back of one product
while it stores another's."""

_decode_line = msgspec.json.Decoder(RawLine).decode

Progress = Callable[[int], None]
"""Is told how many frames have been taken."""


class ExportError(PastError):
    """A range of the lake that cannot become a cassette."""


@dataclass(slots=True)
class Exported:
    """What is in a cassette. `left_out`: the log's own notes, which are no frames."""

    frames: int = 0
    left_out: int = 0
    since_us: int = 0
    until_us: int = 0
    products: Counter[str] = field(default_factory=Counter)


async def export_cassette(
    lake: Lake,
    past: Past,
    path: Path,
    *,
    line: str | None = None,
    progress: Progress = lambda _: None,
) -> Exported:
    """Write the frames of a range of raw messages into a new file, in order of time, verbatim.

    `line`: of the ingestor's, where several have recorded the range. A file that cannot be finished
    is removed.

    Raises:
        ExportError: the range has no frame, or those of several lines.
        PastError: the lake does not have the range, or not all of it.
        StorageError: the lake cannot be read.
        OSError: the file exists, or cannot be written.
    """
    with path.open("xb") as file:
        try:
            ranges = await lanes(lake, past)
            tape = _Tape(file, past, line)
            async with aclosing(read(lake, ranges, products=past.products)) as batches:
                async for batch in batches:
                    for message in batch:
                        tape.take(message)
                    progress(tape.done.frames)
            tape.end()
        except BaseException:
            path.unlink()  # noqa: ASYNC240  # once, at the end
            raise
    return tape.done


class _Held(NamedTuple):
    """A line that waits for older ones.

    `order`: its time, or that of its product's newest one before it; `number`: counts all.
    """

    order: int
    number: int
    time_us: int
    product: str
    line: bytes


class _Tape:
    """A cassette that is being written. Attributes: done.

    The log keeps each product in order; products are a little out of step with each other.
    """

    def __init__(self, file: BinaryIO, past: Past, line: str | None) -> None:
        self.done = Exported()
        self._file, self._past, self._line = file, past, line
        self._lines: set[str] = set()
        self._newest: dict[str, int] = {}
        self._held: list[_Held] = []
        self._held_bytes = self._number = self._written_us = 0

    def take(self, message: Message) -> None:
        """Take the frames of a message.

        Raises:
            ExportError: they are of another line than those before.
        """
        for line in message.payload.split(b"\n"):
            record = _decode_line(line)
            if isinstance(record.frame, msgspec.UnsetType):
                self.done.left_out += 1
            elif self._is_wanted(record.conn.partition("-")[0]):
                self._hold(record.ts_ingest, message.product, line)
        while self._held_bytes > _WINDOW_BYTES:
            self._write()

    def _is_wanted(self, name: str) -> bool:
        """Tell whether a frame of a line belongs here; by itself one line is chosen."""
        self._lines.add(name)
        if self._line is None and len(self._lines) > 1:
            named = ", ".join(sorted(self._lines))
            raise ExportError(
                str(self._past),
                f"the lines {named} have all recorded this; choose one of them with --line",
            )
        return self._line in {None, name}

    def _hold(self, time_us: int, product: str, line: bytes) -> None:
        order = self._newest[product] = max(time_us, self._newest.get(product, 0))
        self._number += 1
        self._held_bytes += len(line)
        heapq.heappush(self._held, _Held(order, self._number, time_us, product, line))

    def _write(self) -> None:
        one = heapq.heappop(self._held)
        if one.order < self._written_us:
            raise ExportError(
                str(self._past),
                f"a frame of {one.product} of {text_of(one.time_us)} stands so far behind newer "
                "ones that they cannot be put in order; export fewer products",
            )
        self._written_us = one.order
        self._held_bytes -= len(one.line)
        self._file.write(one.line + b"\n")
        done = self.done
        done.since_us = done.since_us if done.frames else one.time_us
        done.frames, done.until_us = done.frames + 1, one.time_us
        done.products[one.product] += 1

    def end(self) -> None:
        """Write the rest.

        Raises:
            ExportError: there was nothing to write.
        """
        while self._held:
            self._write()
        if not self.done.frames:
            named = ", ".join(sorted(self._lines))
            other = f" of line {self._line}, only of {named}" if self._line and named else ""
            raise ExportError(str(self._past), f"there is no frame{other}")
