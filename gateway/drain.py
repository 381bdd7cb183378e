"""How a gateway goes: each subscriber is told when to come again, and served until it has gone.

A drain takes at most `drain_bound_s`. Order: nobody new is let in; those without a key leave;
everybody else gets `drain` with a time of its own; data goes on until each leaves, or its time
and a margin are over; then it gets what is still due and is closed with 1012.
"""

import asyncio
import random

import structlog

from gateway.access import Access, Guest
from gateway.frames import json_frame
from gateway.protocol import Drain
from models.settings import Settings

MARGIN_S = 1.0
"""A subscriber may stay so long beyond its time: it connects anew before it leaves."""

SHUTDOWN_S = 3.0
"""What has been written to those who are closed may take so long; then they are cut off."""

RESTARTS = 1012
"""Close code: the service restarts, come again."""

_log = structlog.get_logger(__name__)


def drain_bound_s(settings: Settings) -> float:
    """Return how long a gateway takes at most from the order to stop to its end."""
    return settings.gateway_drain_s + MARGIN_S + SHUTDOWN_S


async def drain(access: Access, spread_s: float) -> None:
    """Have everybody leave within `spread_s` and the margin; 0 means at once, without a word."""
    served = [guest for guest in access.guests if guest.session is not None]
    _log.info("draining", clients=len(served), seconds=spread_s)
    for guest in tuple(access.guests):
        if guest.session is None or not spread_s:
            _send_away(guest)
    if not spread_s:
        return
    loop = asyncio.get_running_loop()
    timers = []
    for guest, share_s in zip(served, shares(len(served), spread_s), strict=True):
        guest.catch_up()
        word = Drain(reconnect_ms=int(share_s * 1000))  # never beyond its share
        guest.sink.write(json_frame(word.model_dump()))
        timers.append(loop.call_later(share_s + MARGIN_S, _send_away, guest))
    try:
        async with asyncio.timeout(spread_s + MARGIN_S):
            await access.empty.wait()
    except TimeoutError:
        for guest in access.guests:  # whoever is left is closed with the server
            guest.catch_up()
    finally:
        for timer in timers:
            timer.cancel()


def shares(count: int, spread_s: float) -> list[float]:
    """Return `count` moments spread evenly over `spread_s`, jittered, in random order."""
    moments = [(number + random.random()) * spread_s / count for number in range(count)]  # noqa: S311  # spreads load, keeps no secret
    random.shuffle(moments)
    return moments


def _send_away(guest: Guest) -> None:
    """Give a guest what is still due to it, and close."""
    guest.catch_up()
    guest.sink.hang_up(RESTARTS, "the gateway restarts: come again")
