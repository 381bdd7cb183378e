"""The client-side rate limit of the REST API: waits instead of being refused.

Coinbase allows 10 public requests a second per IP, 15 at once, and answers 429 beyond that. The
arithmetic lives in models/token_bucket.py.
"""

import asyncio

from models.token_bucket import TokenBucket

REQUESTS_PER_S = 10
"""Public REST requests per second and IP that the venue documents."""
BURST = 15
"""Requests that may come at once."""
MAX_WAITERS = 1000
"""How many callers may wait for their turn; the next one is refused."""


class LimiterFullError(Exception):
    """So many callers wait for their turn that one more would wait unreasonably long."""

    def __init__(self, waiting: int, retry_after_s: float) -> None:
        self.waiting = waiting
        self.retry_after_s = retry_after_s
        super().__init__(
            f"{waiting} requests already wait for the rate limit; "
            f"try again in about {retry_after_s:.0f} s"
        )


class RateLimiter:
    """Lets callers pass one by one at the bucket's pace, in the order in which they came."""

    def __init__(
        self,
        rate: float = REQUESTS_PER_S,
        burst: float = BURST,
        max_waiters: int = MAX_WAITERS,
    ) -> None:
        self._bucket = TokenBucket(rate, burst)
        self._max_waiters = max_waiters
        self._waiting = 0
        self._turn = asyncio.Lock()  # wakes its waiters first come, first served

    async def acquire(self, cost: float = 1) -> None:
        """Wait until `cost` may be spent. A cancelled caller has spent nothing.

        Raises:
            LimiterFullError: `max_waiters` callers wait already.
        """
        if self._waiting >= self._max_waiters:
            raise LimiterFullError(self._waiting, self._waiting / self._bucket.rate)
        self._waiting += 1
        try:
            async with self._turn:
                await self._spend(cost)
        finally:
            self._waiting -= 1

    async def _spend(self, cost: float) -> None:
        """Sleep until the bucket gives; more than once only if the sleep ended early."""
        loop = asyncio.get_running_loop()
        while True:
            wait_s = self._bucket.take(loop.time(), cost)
            if not wait_s:
                return
            await asyncio.sleep(wait_s)
