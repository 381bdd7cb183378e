"""The rate limiter: order, bound, cancellation."""

import asyncio

import pytest

from venues.coinbase.limiter import LimiterFullError, RateLimiter


async def test_limiter_burst_passes_and_the_rest_waits_in_order() -> None:
    """The burst passes at once; later callers pass in the order in which they came."""
    limiter = RateLimiter(rate=50, burst=3)
    passed: list[int] = []

    async def caller(number: int) -> None:
        await limiter.acquire()
        passed.append(number)

    loop = asyncio.get_running_loop()
    began_s = loop.time()
    async with asyncio.TaskGroup() as group:
        for number in range(10):
            group.create_task(caller(number))
    assert passed == list(range(10))
    assert loop.time() - began_s >= 7 / 50 - 0.001


async def test_limiter_full_queue_is_refused_with_a_time() -> None:
    """Beyond the bound a caller is refused rather than queued for ever."""
    limiter = RateLimiter(rate=1, burst=1, max_waiters=2)
    await limiter.acquire()
    waiting = [asyncio.create_task(limiter.acquire()) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(LimiterFullError) as caught:
        await limiter.acquire()
    assert caught.value.retry_after_s == 2
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_limiter_cancelled_caller_spends_nothing() -> None:
    """A caller that gives up leaves its turn to the next."""
    limiter = RateLimiter(rate=10, burst=1)
    await limiter.acquire()
    *others, last = (asyncio.create_task(limiter.acquire()) for _ in range(60))
    await asyncio.sleep(0)
    for one in others:
        one.cancel()
    # A tenth of a second; six if their turns were lost.
    await asyncio.wait_for(last, 6)
    assert all(one.cancelled() for one in others)
