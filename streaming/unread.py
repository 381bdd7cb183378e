"""How long the oldest message of the log waits that a reader has not dealt with.

Asked of the log itself, so the figure grows while the reader stands still. While the log does not
answer nobody knows what waits: then it is the time since the last answer.
"""

import asyncio
import math
import time

from streaming.broker.log import Log

EVERY_S = 1.0
"""How often the log is asked."""

_PATIENCE_S = 3 * EVERY_S
"""An answer that is older says nothing of this moment."""


class Unread:
    """What one reader of these subjects leaves waiting.

    Attributes: position, up to which the reader has dealt with everything, and which it keeps up
    to date; none until it knows where it begins.
    """

    def __init__(self, log: Log, stream: str, subjects: str) -> None:
        self._log, self._stream, self._subjects = log, stream, subjects
        self.position: int | None = None
        self._oldest = (0, 0.0)
        self._told_s = math.inf

    async def watch(self) -> None:
        """Ask again and again, for ever."""
        self._told_s = time.time()
        while True:
            if self.position is not None:
                await self._ask(self.position)
            await asyncio.sleep(EVERY_S)

    async def _ask(self, position: int) -> None:
        found = await self._log.fetch(
            self._stream, self._subjects, after=position, limit=1, max_bytes=1
        )
        self._oldest = (found[0].seq, found[0].time_us / 1e6) if found else (0, 0.0)
        self._told_s = time.time()

    def oldest_s(self) -> float:
        """Return its age at this moment, in seconds; 0 if nothing waits."""
        now_s, (seq, stored_s) = time.time(), self._oldest
        waits_s = now_s - stored_s if seq > (self.position or 0) else 0.0
        unknown_s = now_s - self._told_s
        return max(0.0, waits_s, unknown_s if unknown_s > _PATIENCE_S else 0.0)
