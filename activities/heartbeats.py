"""Heartbeats of a running activity, and what it would need to go on after a crash."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

from temporalio import activity

HEARTBEAT_WITHIN_S = 3.0
"""An activity that has been silent for so long is lost, and another worker takes it over."""

_EVERY_S = HEARTBEAT_WITHIN_S / 4


class Placed(Protocol):
    """Something that an activity works on, and how far it has come, as a payload."""

    @property
    def at(self) -> Any:  # noqa: ANN401  # whatever the data converter takes
        """Where it is now."""


class Place:
    """How far an activity has come; the next attempt begins there."""

    def __init__(self, start: int) -> None:
        """Begin at `start`, or where the attempt before this one was last heard of."""
        details = activity.info().heartbeat_details
        self.at: int = max(start, int(details[0])) if details else start


@asynccontextmanager
async def heartbeating(place: Placed | None = None) -> AsyncIterator[None]:
    """Heartbeat while the body runs, with the place where it is."""

    async def beat() -> None:
        while True:
            if place is None:
                activity.heartbeat()
            else:
                activity.heartbeat(place.at)
            await asyncio.sleep(_EVERY_S)

    beating = asyncio.create_task(beat(), name="heartbeat")
    try:
        yield
    finally:
        beating.cancel()
        await asyncio.wait([beating])
