"""Whether the gateway may be sent traffic, and if not, why: one sentence."""

import asyncio
from collections.abc import Callable


class Readiness:
    """What `/healthz` and `/readyz` tell.

    Attributes: warm, set once the state is complete; connected, tells whether the log is there;
    reading, the task that follows the log.
    """

    def __init__(self) -> None:
        self.warm = asyncio.Event()
        self.connected: Callable[[], bool] = lambda: False
        self.reading: asyncio.Task[None] | None = None

    def failure(self) -> str | None:
        """Return why this process must be replaced, or none."""
        if self.reading is not None and self.reading.done():
            return "the reader of the log has ended: restart the gateway"
        return None

    def problem(self) -> str | None:
        """Return why no traffic should come here now, or none."""
        if failure := self.failure():
            return failure
        if not self.warm.is_set():
            return "warming up: the latest state is still being read from the log"
        if not self.connected():
            return "the log cannot be reached; subscribers keep what they have"
        return None
