"""Whether the gateway may be sent traffic, and if not, why: one sentence."""

import asyncio
import time
from collections.abc import Callable


class Readiness:
    """What `/healthz` and `/readyz` tell.

    Attributes: warm, set once the state is complete; connected, tells whether the log is there;
    reading, the task that follows the log; draining, whether this gateway is on its way out;
    began_s, when it began, by the monotonic clock.
    """

    def __init__(self) -> None:
        self.warm = asyncio.Event()
        self.connected: Callable[[], bool] = lambda: False
        self.reading: asyncio.Task[None] | None = None
        self.draining = False
        self.began_s = time.monotonic()

    def failure(self) -> str | None:
        """Return why this process must be replaced, or none."""
        if self.reading is not None and self.reading.done():
            return "the reader of the log has ended: restart the gateway"
        return None

    def refusal(self) -> str | None:
        """Return why a subscriber that comes now cannot be served, or none."""
        if self.draining:
            return "draining: this gateway is going, another one takes its place"
        if not self.warm.is_set():
            # A snapshot of a state that is not complete would be wrong.
            return "warming up: the latest state is still being read from the log"
        return None

    def problem(self) -> str | None:
        """Return why no traffic should come here now, or none."""
        if failure := self.failure():
            return failure
        if refusal := self.refusal():
            return refusal
        if not self.connected():
            return "the log cannot be reached; subscribers keep what they have"
        return None
