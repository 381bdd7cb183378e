"""One product of one venue as the gateway serves it: its feeds, its frames, and who listens.

Turns a message of MD_TICKS into frames, keeping the order of the lines over all feeds. Knows
groups only as keys of its audience; `hub` hands the frames out.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.feed_state import FeedState
from gateway.frames import OP_OF_TYPE, line_frame
from models.canonical import FEEDS, Feed, decode_heads

if TYPE_CHECKING:
    from gateway.group import Group

FEED_BITS: dict[Feed, int] = {feed: 1 << number for number, feed in enumerate(FEEDS)}
"""A feed's bit in a mask of feeds."""


@dataclass(slots=True)
class Batch:
    """The frames of one log message.

    `bits`: each frame's feed; `mask`: all of them; `broken`: links that did not fit the state;
    `statuses`: the lines that are no market data.
    """

    frames: list[bytes] = field(default_factory=list)
    bits: list[int] = field(default_factory=list)
    mask: int = 0
    broken: int = 0
    statuses: list[bytes] = field(default_factory=list)

    def of(self, mask: int) -> tuple[bytes, int]:
        """Return the joined frames of these feeds, in order, and how many there are."""
        chosen = self.frames
        if mask != self.mask:
            chosen = [
                frame for frame, bit in zip(self.frames, self.bits, strict=True) if bit & mask
            ]
        return (chosen[0] if len(chosen) == 1 else b"".join(chosen)), len(chosen)


class Product:
    """Feeds and audience of one product.

    Attributes: feeds, by bit; audience, the groups by the mask of feeds that they are due.
    """

    __slots__ = ("audience", "feeds", "name", "venue")

    def __init__(self, venue: str, name: str) -> None:
        self.venue = venue
        self.name = name
        self.feeds = {FEED_BITS[feed]: FeedState(venue, name, feed) for feed in FEEDS}
        self.audience: dict[int, dict[Group, None]] = {}

    def take(self, payload: bytes) -> Batch:
        """Apply a message of MD_TICKS and build its frames.

        Raises:
            msgspec.DecodeError: a line is no canonical message.
        """
        heads = decode_heads(payload)
        lines = payload.split(b"\n")
        if len(lines) != len(heads):
            lines = [line for line in lines if line.strip()]
        batch = Batch()
        for head, line in zip(heads, lines, strict=True):
            bit = FEED_BITS[head.feed]
            frame = line_frame(OP_OF_TYPE[head.type], line)
            if not self.feeds[bit].take(head, line, frame):
                batch.broken += 1
            if head.type == "status":
                batch.statuses.append(line)
            batch.frames.append(frame)
            batch.bits.append(bit)
            batch.mask |= bit
        return batch
