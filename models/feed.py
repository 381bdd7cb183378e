"""The seam between a venue's feed client and ingest: who receives frames, and how.

A feed calls; a sink stores. Calls are synchronous because there is one per frame.
"""

from collections.abc import Callable
from typing import Protocol

Routed = tuple[str, tuple[str, ...], int | None]
"""What ingest reads of a frame: its kind, for metrics; the products it speaks of (none at all: the
whole connection, so every product of it); and its number, where the venue numbers all frames of a
connection."""

Route = Callable[[bytes], Routed]
"""Reads a frame that far, at the cost of one pass.

Raises:
    msgspec.DecodeError: it is no JSON, or not in the venue's shape.
"""


class FrameSink(Protocol):
    """Receives what one feed connection brings, in order.

    For each connection: `opened` once, `frame` for every text frame, `closed` once.
    """

    def opened(self, conn: str) -> None:
        """Note that connection `conn` (unique over restarts) is open and has subscribed."""

    def frame(self, ts_ingest_us: int, conn: str, frame: bytes) -> None:
        """Take one frame, verbatim, received at `ts_ingest_us`."""

    def rejected(self, ts_ingest_us: int, conn: str, reason: str, detail: str) -> None:
        """Note data that could not become a frame, such as one beyond the cap."""

    def closed(self, ts_ingest_us: int, conn: str, reason: str) -> None:
        """Note that the connection ended."""

    async def room(self) -> None:
        """Wait until more frames can be taken: back-pressure reaches the venue's socket."""
