"""The recorded market data beside the project, for tests that use real traffic."""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.records import frame_line

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
LEVEL2 = DATA / "coinbase-exchange-2021-04-17.ws.txt"
FULL = DATA / "coinbase-full-2017-06-25.jsonl"

needs_recordings = pytest.mark.skipif(
    not LEVEL2.exists(), reason=f"the recordings are not at {DATA.name}/ beside the project"
)


def level2_frames() -> Iterator[tuple[int, str]]:
    """Yield (receive time in microseconds, frame) of the level 2 recording."""
    for line in LEVEL2.read_text().splitlines():
        if line and not line.startswith("wss://"):
            received, _, frame = line.partition(": ")
            yield int(float(received) * 1e6), frame


def full_frames() -> list[str]:
    """Return the frames of the full channel's sample."""
    return FULL.read_text().splitlines()


def raw_lines(frames: list[tuple[int, str]], conn: str = "a-1") -> dict[str, list[bytes]]:
    """Return MD_RAW lines by product, numbered as ingest numbers them."""
    lines: dict[str, list[bytes]] = defaultdict(list)
    for time_us, frame in frames:
        product = json.loads(frame).get("product_id")
        if product:
            number = len(lines[product]) + 1
            lines[product].append(frame_line(time_us, conn, number, frame.encode()))
    return dict(lines)
