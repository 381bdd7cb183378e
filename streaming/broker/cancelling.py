"""A guard for the client library's requests, which can lose a cancellation.

They use `asyncio.wait_for`, which before Python 3.12 returns the answer and forgets that it was
cancelled when both come in the same turn of the loop. A task would then never end.
"""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def honour_cancel(request: Awaitable[T]) -> T:
    """Await a request and raise `CancelledError` if this task was cancelled meanwhile."""
    answer = await request
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
    return answer
