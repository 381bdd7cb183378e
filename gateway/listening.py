"""The addresses that gateway processes listen on: their own, or one port shared by several.

Several processes have a socket each on the same port (SO_REUSEPORT), so that the kernel spreads
connections evenly over them. The sockets are taken by their parent and outlive them: a connection
that waits in the backlog of a process that is replaced is served by the next one. A place whose
process died while others serve is taken `anew`, so that nobody waits there for its successor.
"""

import socket
from dataclasses import dataclass, replace

from models.settings import Settings


class AddressInUseError(Exception):
    """The gateway cannot listen where it should. The text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one gateway process listens.

    `index`: which of them it is; `listener`: for everybody; `own`: for those who mean this very
    process, such as Prometheus, or none.
    """

    index: int
    listener: socket.socket
    own: socket.socket | None = None

    @property
    def sockets(self) -> list[socket.socket]:
        """All of them."""
        return [self.listener] if self.own is None else [self.listener, self.own]

    @property
    def url(self) -> str:
        """Address for subscribers."""
        host, port = self.listener.getsockname()[:2]
        return f"ws://{host}:{port}/ws"

    def anew(self) -> "Place":
        """Let go of the listener and of those who wait there, for another one on the shared port.

        The kernel sends nobody to it until a process listens.
        """
        host, port = self.listener.getsockname()[:2]
        listener = _take(host, port, "GATEWAY_PORT", shared=True)
        self.listener.close()
        return replace(self, listener=listener)

    def close(self) -> None:
        """Let go of the sockets; processes that have them keep them."""
        for taken in self.sockets:
            taken.close()


def listen(settings: Settings) -> socket.socket:
    """Take the gateway's address; port 0 takes any that is free.

    Raises:
        AddressInUseError: it is taken, or not an address of this machine.
    """
    return _take(settings.gateway_host, settings.gateway_port, "GATEWAY_PORT")


def places(settings: Settings) -> list[Place]:
    """Take the addresses of GATEWAY_PROCESSES processes; METRICS_PORT counts up, 0 means none.

    Raises:
        AddressInUseError: one is taken, or not an address of this machine.
    """
    count, host, port = settings.gateway_processes, settings.gateway_host, settings.gateway_port
    taken: list[Place] = []
    try:
        # Sharing a port succeeds with any process of this user that shares it too; this does not.
        with listen(settings) as alone:
            port = alone.getsockname()[1]
        for index in range(count):
            listener = _take(host, port, "GATEWAY_PORT", shared=count > 1)
            taken.append(Place(index, listener))
            if settings.metrics_port:
                own = _take(host, settings.metrics_port + index, "METRICS_PORT")
                taken[-1] = Place(index, listener, own)
    except AddressInUseError:
        for place in taken:
            place.close()
        raise
    return taken


def _take(host: str, port: int, setting: str, *, shared: bool = False) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Without the protocol asyncio would leave TCP_NODELAY off, and small frames would wait.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        reason = error.strerror if isinstance(error, OSError) else "there is no such port"
        raise AddressInUseError(
            f"the gateway cannot listen on {host} port {port} ({reason}): stop what "
            f"listens there, or set {setting}"
        ) from error
    listener.setblocking(False)
    return listener
