"""Recordings of a feed: reads both line formats, and says which channels a frame belongs to.

Formats: `recv_unix_seconds: json` as the public recordings have it (lines that begin `wss://`
tell of connecting and are skipped), and the NDJSON lines of MD_RAW (`models.records`). The
frames stay verbatim. Playing them is the server's part (`playback`).
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from models.records import RawLine

_STAMPED = re.compile(rb"(\d{1,12})(?:\.(\d{1,9}))?: (.*)", re.DOTALL)

_CHANNELS = {
    "snapshot": ("level2", "level2_batch"),
    "l2update": ("level2", "level2_batch"),
    "ticker": ("ticker", "ticker_batch"),
    "last_match": ("matches",),
    "match": ("matches", "full"),
    "heartbeat": ("heartbeat",),
    "received": ("full",),
    "open": ("full",),
    "done": ("full",),
    "change": ("full",),
    "activate": ("full",),
    "status": ("status",),
}


class CassetteError(Exception):
    """A recording that cannot be played.

    Attributes: path, line (counted from 1; 0 if the file as a whole is meant).
    """

    def __init__(self, path: Path, line: int, why: str) -> None:
        super().__init__(f"{path}, line {line}: {why}" if line else f"{path}: {why}")
        self.path = path
        self.line = line


class _Head(msgspec.Struct):
    type: str = ""
    product_id: str = ""


class Frame(NamedTuple):
    """One recorded frame, whatever it says. `raw`: its line, where that is one of MD_RAW."""

    number: int
    time_us: int
    kind: str
    product: str
    text: bytes
    raw: bytes | None


class Taped(NamedTuple):
    """One recorded frame that can be played."""

    time_us: int
    channels: tuple[str, ...]
    product: str
    text: str


_decode_head = msgspec.json.Decoder(_Head).decode
_decode_line = msgspec.json.Decoder(RawLine).decode


def read(path: Path) -> Iterator[Taped]:
    """Yield the playable frames in order; acks, errors and unknown types are left out.

    Raises:
        CassetteError: the file cannot be read, or a line is in neither format.
    """
    for frame in _frames(path):
        channels = _CHANNELS.get(frame.kind)
        if channels is not None:
            yield Taped(frame.time_us, channels, frame.product, frame.text.decode())


def frames(path: Path) -> Iterator[Frame]:
    """Yield all frames in order, those that cannot be played, too; the log's notes are left out.

    Raises:
        CassetteError: as `read`, or a frame is older than the one before it, or there is none.
    """
    newest_us = -1
    for frame in _frames(path):
        if frame.time_us < newest_us:
            why = f"was received {newest_us - frame.time_us:,} µs before the frame above it"
            raise CassetteError(path, frame.number, f"{why}: frames must be in order of time")
        newest_us = frame.time_us
        yield frame
    if newest_us < 0:
        raise CassetteError(path, 0, "holds no frame")


def products(path: Path) -> list[str]:
    """Return the products of a recording, having checked every line of it.

    Raises:
        CassetteError: as `read`, or there is nothing to play in it.
    """
    names = dict.fromkeys(taped.product for taped in read(path))
    if not names:
        raise CassetteError(path, 0, "holds no frame that could be played")
    return [name for name in names if name]


def _frames(path: Path) -> Iterator[Frame]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                frame = _read_line(path, number, line.strip())
                if frame is not None:
                    yield frame
    except OSError as error:
        raise CassetteError(path, 0, error.strerror or str(error)) from error


def _read_line(path: Path, number: int, line: bytes) -> Frame | None:
    if not line or line.startswith(b"wss://"):
        return None
    raw = line if line.startswith(b"{") else None
    try:
        time_us, text = _stamped(line) if raw is None else _own(raw)
        text.decode()  # what is not UTF-8 is told of here, with its line
        head = _decode_head(text) if text else _Head()
    except (ValueError, msgspec.DecodeError, RecursionError) as error:
        raise CassetteError(path, number, str(error)) from error
    return Frame(number, time_us, head.type, head.product_id, text, raw) if text else None


def _own(line: bytes) -> tuple[int, bytes]:
    raw = _decode_line(line)
    return raw.ts_ingest, b"" if isinstance(raw.frame, msgspec.UnsetType) else bytes(raw.frame)


def _stamped(line: bytes) -> tuple[int, bytes]:
    found = _STAMPED.fullmatch(line)
    if found is None:
        raise ValueError("is neither `seconds: json` nor a line of MD_RAW")
    seconds, fraction, frame = found.groups()
    return int(seconds) * 1_000_000 + int((fraction or b"").ljust(6, b"0")[:6]), frame
