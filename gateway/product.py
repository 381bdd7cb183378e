"""One product of one venue as the gateway serves it: its feeds, its frames, and who listens.

Turns a message of MD_TICKS into frames, keeping the order of the lines over all feeds. Knows
groups only as keys of its audience; `hub` hands the frames out.
"""

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from gateway.feed_state import FeedState
from gateway.frames import OP_OF_TYPE, line_frame
from models.canonical import FEEDS, Feed, Head, decode_heads
from streaming.broker.log import LogMessage

if TYPE_CHECKING:
    from gateway.group import Group
    from gateway.pacing import Pace

FEED_BITS: dict[Feed, int] = {feed: 1 << number for number, feed in enumerate(FEEDS)}
"""A feed's bit in a mask of feeds."""

FRAME_BYTES, BATCH_BYTES = 224, 256
"""What a frame, and a batch, cost beside the lines: objects, heads, places in tuples."""

FEED_OF_BIT: dict[int, Feed] = {bit: feed for feed, bit in FEED_BITS.items()}
"""The feed of a bit."""


class Batch(msgspec.Struct, gc=False):
    """The frames of one log message, which is at `position` since `time_us`.

    `size_bytes`: the memory that it takes; `heads`, `bits`: of each frame its line's head and feed;
    `mask`: all of the feeds; `broken`: links that did not fit the state. Holds tuples, and is left
    out by the garbage collector, which would look at the whole ring again and again.
    """

    position: int
    time_us: int
    size_bytes: int
    heads: tuple[Head, ...]
    frames: tuple[bytes, ...]
    bits: tuple[int, ...]
    mask: int
    broken: int = 0

    def of(self, mask: int) -> tuple[bytes, int]:
        """Return the joined frames of these feeds, in order, and how many there are."""
        chosen = self.frames
        if mask != self.mask:
            chosen = tuple(
                [frame for frame, bit in zip(self.frames, self.bits, strict=True) if bit & mask]
            )
        return (chosen[0] if len(chosen) == 1 else b"".join(chosen)), len(chosen)

    def only(self, bit: int) -> tuple[Sequence[Head], Sequence[bytes]]:
        """Return heads and frames of one feed, in order."""
        if self.mask == bit:
            return self.heads, self.frames
        chosen = [index for index, found in enumerate(self.bits) if found == bit]
        return [self.heads[index] for index in chosen], [self.frames[index] for index in chosen]


def read_batch(message: LogMessage) -> tuple[Batch, list[bytes]]:
    """Return the frames of a message of MD_TICKS, and its lines.

    Raises:
        msgspec.DecodeError: a line is no canonical message.
    """
    heads = decode_heads(message.payload)
    lines = message.payload.split(b"\n")
    if len(lines) != len(heads):
        lines = [line for line in lines if line.strip()]
    frames = [
        line_frame(OP_OF_TYPE[head.type], line) for head, line in zip(heads, lines, strict=True)
    ]
    bits = [FEED_BITS[head.feed] for head in heads]
    mask = 0
    for bit in bits:
        mask |= bit
    size = len(message.payload) + FRAME_BYTES * len(frames) + BATCH_BYTES
    batch = Batch(
        message.seq, message.time_us, size, tuple(heads), tuple(frames), tuple(bits), mask
    )
    return batch, lines


class Product:
    """Feeds and audience of one product.

    Attributes: feeds, by bit; audience, the groups by the mask of feeds that they are due; paces,
    the paces that send feeds of it; recent, its messages in the ring.
    """

    __slots__ = ("audience", "feeds", "name", "paces", "recent", "venue")

    def __init__(self, venue: str, name: str) -> None:
        self.venue = venue
        self.name = name
        self.feeds = {FEED_BITS[feed]: FeedState(venue, name, feed) for feed in FEEDS}
        self.audience: dict[int, dict[Group, None]] = {}
        self.paces: dict[Pace, None] = {}
        self.recent: deque[Batch] = deque()

    @property
    def subscribers(self) -> int:
        """How many clients get messages of it as they come."""
        return sum(len(group.members) for groups in self.audience.values() for group in groups)

    def take(self, message: LogMessage) -> tuple[Batch, list[bytes]]:
        """Apply a message of MD_TICKS; return its frames, and its lines that are statuses.

        Raises:
            msgspec.DecodeError: a line is no canonical message.
        """
        batch, lines = read_batch(message)
        statuses = []
        for head, line, frame, bit in zip(
            batch.heads, lines, batch.frames, batch.bits, strict=True
        ):
            if not self.feeds[bit].take(head, line, frame, message.time_us):
                batch.broken += 1
            if head.type == "status":
                statuses.append(line)
        return batch, statuses

    def recall(self, message: LogMessage) -> Batch:
        """Return the frames of a message that is part of the state already.

        Raises:
            msgspec.DecodeError: a line is no canonical message.
        """
        batch, _ = read_batch(message)
        for head, bit in zip(batch.heads, batch.bits, strict=True):
            self.feeds[bit].recall(head, message.time_us)
        return batch
