"""Gets a connection to a gateway, however long that takes, and knows when to stop trying.

Owns the waits, the API key and the meaning of refusals and close codes; sends and reads nothing.
"""

import asyncio
import time
from collections.abc import Callable

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from client.backoff import delays, spread
from client.errors import GatewayRefusedError, GatewayUnavailableError
from models.decoding import UNREADABLE

MAX_MESSAGE_BYTES = 64 * 1024**2
"""A deep book is several MB; websockets' own cap of 1 MiB would lose it."""

OPEN_TIMEOUT_S = 5.0
CLOSE_TIMEOUT_S = 1.0
MAX_RETRY_AFTER_S = 30.0
"""A gateway may ask for a longer wait; whoever asks for more is looked at again sooner."""

TOO_MANY_S = 1.0
"""Least wait after the gateway had too many connections with this key."""

_TOO_MANY = 4429
_TOO_LARGE = 1009
_FINAL_CODES = {
    1002: "this client's frames break the WebSocket protocol: mend the client",
    1003: "this client's frames are of a kind that is not read: mend the client",
    1007: "this client's text is not UTF-8: mend the client",
    _TOO_LARGE: "a message to the gateway is beyond 1 MB: mend the client",
    4401: "the API key is not valid: get a valid one",
    4408: "no API key came in time: give one",
    4410: "the replay has been deleted",
}
_FINAL_STATUS = frozenset({400, 401, 403, 404})
_AWAY = (OSError, TimeoutError, ConnectionClosed, InvalidHandshake)


class Connector:
    """Connects as often as needed.

    Attributes: connects, how often a connection was made.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None,
        give_up_after_s: float | None,
        notify: Callable[[str], None],
    ) -> None:
        self.connects = 0
        self._url = url
        self._headers = {} if api_key is None else {"X-API-Key": api_key}
        self._give_up_after_s = give_up_after_s
        self._notify = notify
        self._delays = delays()
        self._wait_s = 0.0
        self._trouble_since: float | None = None

    async def connect(self) -> ClientConnection:
        """Return a connection, trying again with growing waits.

        Raises:
            GatewayRefusedError: the gateway does not want this client.
            GatewayUnavailableError: none answered within `give_up_after_s`.
        """
        while True:
            await asyncio.sleep(self._wait_s)
            try:
                connection = await self._attempt()
            except _AWAY as error:
                self._wait(error, _retry_after_s(error))
            else:
                self._wait_s = 0.0
                self.connects += 1
                self._notify(f"connected to {self._url}")
                return connection

    def ended(self, closed: ConnectionClosed, *, good: bool) -> None:
        """Note how a connection ended; `good` if the gateway had acknowledged anything on it.

        Raises:
            GatewayRefusedError: it ended in a way that connecting again would not help.
            GatewayUnavailableError: none has been good for `give_up_after_s`.
        """
        code = closed.rcvd.code if closed.rcvd else None
        if code in _FINAL_CODES:
            raise GatewayRefusedError(str(code), _FINAL_CODES[code]) from closed
        if closed.sent and closed.sent.code == _TOO_LARGE:
            raise GatewayRefusedError(
                str(_TOO_LARGE),
                f"a message of the gateway is beyond {MAX_MESSAGE_BYTES} bytes: ask for less depth",
            ) from closed
        if good:
            self._notify(f"lost the gateway ({closed}); connecting again")
            self._delays, self._trouble_since = delays(), None
            self._wait_s = spread()
        else:
            self._wait(closed, TOO_MANY_S if code == _TOO_MANY else 0.0)

    async def _attempt(self) -> ClientConnection:
        """Connect once."""
        try:
            return await connect(
                self._url,
                additional_headers=self._headers,
                max_size=MAX_MESSAGE_BYTES,
                compression=None,
                open_timeout=OPEN_TIMEOUT_S,
                close_timeout=CLOSE_TIMEOUT_S,
            )
        except InvalidStatus as refused:
            status = refused.response.status_code
            if status not in _FINAL_STATUS:
                raise
            raise GatewayRefusedError(str(status), _sentence(refused)) from refused

    def _wait(self, failure: Exception, least_s: float) -> None:
        """Set the wait before the next attempt, unless it has taken too long already."""
        now = time.monotonic()
        if self._trouble_since is None:
            self._trouble_since = now
            self._notify(f"waiting for a gateway at {self._url} ({failure})")
        waited_s = now - self._trouble_since
        if self._give_up_after_s is not None and waited_s > self._give_up_after_s:
            raise GatewayUnavailableError(self._url, waited_s, str(failure)) from failure
        self._wait_s = least_s + next(self._delays)


def _sentence(refused: InvalidStatus) -> str:
    """Return what the gateway says about a refused handshake."""
    try:
        answer = msgspec.json.decode(refused.response.body or b"", type=dict[str, object])
    except UNREADABLE:
        return str(refused)
    return str(answer.get("msg") or answer.get("reason") or refused)


def _retry_after_s(error: Exception) -> float:
    """Return how long a gateway that is starting, draining or full asks to be left alone."""
    if not isinstance(error, InvalidStatus):
        return 0.0
    asked = error.response.headers.get("Retry-After", "")
    return min(float(asked), MAX_RETRY_AFTER_S) if asked.isdecimal() else 0.0
