"""The gateway process: MD_TICKS to WebSocket subscribers; or the parent of several of them."""

import argparse
import asyncio
import contextlib
import socket
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from gateway.listening import AddressInUseError, Place
from gateway.server import Handover, gateway, serve
from models.settings import Settings
from workers.gateways import HAND_OVER, READY, gateways
from workers.process import EXIT_FAILED, run_worker


def main(arguments: Sequence[str] | None = None, **overrides: Any) -> int:  # noqa: ANN401  # settings
    """Run with the settings of the environment, `overrides` over them; return the exit status."""
    parser = argparse.ArgumentParser(prog="gateway", description=__doc__)
    parser.add_argument("--index", type=int, help="which of several this is; given by the parent")
    parser.add_argument("--sockets", default="", help="inherited descriptors to listen on")
    parser.add_argument("--waits", action="store_true", help="accept nobody before it is ready")
    options = parser.parse_args(arguments)
    try:
        if options.index is None:
            return run_worker("gateway", _alone_or_parent, **overrides)
        place = Place(options.index, *map(_inherited, options.sockets.split(",")))
        return run_worker(f"gateway-{place.index}", partial(_one_of, place, options.waits))
    except AddressInUseError as error:
        print(f"gateway: {error}", file=sys.stderr)  # noqa: T201  # for a person, one sentence
        return EXIT_FAILED


async def _alone_or_parent(settings: Settings, stop: asyncio.Event) -> None:
    await (gateway if settings.gateway_processes == 1 else gateways)(settings, stop)


async def _one_of(place: Place, waits: bool, settings: Settings, stop: asyncio.Event) -> None:  # noqa: FBT001  # bound by `partial`
    """Serve at a place that the parent holds."""
    handover = Handover(_tell_parent, waits=waits)

    def on_hand_over() -> None:
        handover.replaced = True
        stop.set()

    asyncio.get_running_loop().add_signal_handler(HAND_OVER, on_hand_over)
    with contextlib.closing(place):
        await serve(settings, place, stop, handover)


def _tell_parent() -> None:
    with contextlib.suppress(BrokenPipeError):  # the parent has gone, and this follows it
        sys.stdout.buffer.write(READY)
        sys.stdout.buffer.flush()


def _inherited(descriptor: str) -> socket.socket:
    listener = socket.socket(fileno=int(descriptor))
    listener.setblocking(False)
    return listener


if __name__ == "__main__":
    sys.exit(main())
