"""How much a closed gate holds before it keeps only a position of the log, and when it is stale."""

from typing import NamedTuple


class Hold(NamedTuple):
    """Bounds of what is held: messages, and microseconds since the gate closed.

    `stale_us`: after so long with its gate closed a feed counts as stale.
    """

    messages: int
    time_us: int
    stale_us: int = 30_000_000
