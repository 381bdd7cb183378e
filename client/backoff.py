"""How long to wait before the next attempt to connect."""

import random
from collections.abc import Iterator

FIRST_S = 0.1
MAX_S = 5.0


def spread() -> float:
    """Return a short random wait in seconds, before the first attempt after a good connection.

    Clients that have lost the same gateway do not all come back in the same millisecond.
    """
    return random.random() * FIRST_S  # noqa: S311  # spreading, not secrecy


def delays() -> Iterator[float]:
    """Yield waits in seconds for ever, twice as long each time, up to a bound.

    Half of each is random, so that the clients of a restarted gateway do not all come at once.
    """
    ceiling = FIRST_S
    while True:
        yield ceiling / 2 + random.random() * ceiling / 2  # noqa: S311  # spreading, not secrecy
        ceiling = min(2 * ceiling, MAX_S)
