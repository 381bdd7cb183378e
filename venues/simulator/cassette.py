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
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                taped = _read_line(path, number, line.strip())
                if taped is not None:
                    yield taped
    except OSError as error:
        raise CassetteError(path, 0, error.strerror or str(error)) from error


def products(path: Path) -> list[str]:
    """Return the products of a recording, having checked every line of it.

    Raises:
        CassetteError: as `read`, or there is nothing to play in it.
    """
    names = dict.fromkeys(taped.product for taped in read(path))
    if not names:
        raise CassetteError(path, 0, "holds no frame that could be played")
    return [name for name in names if name]


def _read_line(path: Path, number: int, line: bytes) -> Taped | None:
    if not line or line.startswith(b"wss://"):
        return None
    try:
        time_us, frame = _own(line) if line.startswith(b"{") else _stamped(line)
        head = _decode_head(frame) if frame else _Head()
    except (ValueError, msgspec.DecodeError) as error:
        raise CassetteError(path, number, str(error)) from error
    channels = _CHANNELS.get(head.type)
    if channels is None:
        return None
    return Taped(time_us, channels, head.product_id, frame.decode())


def _own(line: bytes) -> tuple[int, bytes]:
    raw = _decode_line(line)
    return raw.ts_ingest, b"" if isinstance(raw.frame, msgspec.UnsetType) else bytes(raw.frame)


def _stamped(line: bytes) -> tuple[int, bytes]:
    found = _STAMPED.fullmatch(line)
    if found is None:
        raise ValueError("is neither `seconds: json` nor a line of MD_RAW")
    seconds, fraction, frame = found.groups()
    return int(seconds) * 1_000_000 + int((fraction or b"").ljust(6, b"0")[:6]), frame
