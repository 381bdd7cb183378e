"""How much a closed gate holds before it keeps only a position of the log."""

from typing import NamedTuple


class Hold(NamedTuple):
    """Bounds of what is held: messages, and microseconds since the gate closed."""

    messages: int
    time_us: int
