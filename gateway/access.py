"""Who may come in: keys, connections per key and per address, and the rate of handshakes.

Decides only; `app` asks and answers. Keys are held as SHA-256 digests, so that no log, error or
metric can show one.
"""

import asyncio
import hmac
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import TYPE_CHECKING

from pydantic import SecretStr

from gateway.sink import Sink
from models.settings import Settings
from models.token_bucket import TokenBucket

if TYPE_CHECKING:
    from gateway.session import Session

AUTH_WITHIN_S = 5.0
"""A client without a key in its handshake must send it within this time."""

UNAUTHORIZED, NO_AUTH, TOO_MANY = 4401, 4408, 4429
"""Close codes of connections that are open already."""

_RETRY_FULL_S = 5
"""When to come again where the connections are used up."""

_DIGEST_PREFIX = "sha256:"
_BEARER = "bearer "


class RefusedError(Exception):
    """Somebody may not come in.

    Attributes: status, of the HTTP answer; close_code, where the WebSocket is open already; code,
    for programs; msg, a sentence; retry_s, seconds after which to come again, or none.
    """

    def __init__(
        self,
        status: int,
        code: str,
        msg: str,
        *,
        close_code: int = 1013,
        retry_s: int | None = None,
    ) -> None:
        super().__init__(msg)
        self.status = status
        self.close_code = close_code
        self.code = code
        self.msg = msg
        self.retry_s = retry_s


class Keys:
    """The API keys. Attributes: required, whether there are any."""

    def __init__(self, entries: Iterable[SecretStr]) -> None:
        """Take AUTH_API_KEYS: each entry a key, or `sha256:` and the digest of one in hex."""
        self._digests = tuple({_digest(entry.get_secret_value()): None for entry in entries})
        self.required = bool(self._digests)

    def check(self, key: str) -> bytes:
        """Return what a valid key is known by.

        The time that this takes tells nothing about the keys: all are compared, as digests.

        Raises:
            RefusedError: 401, it is not valid.
        """
        digest, found = sha256(key.encode(errors="surrogatepass")).digest(), None
        for known in self._digests:
            if hmac.compare_digest(known, digest):
                found = known
        if found is None:
            raise RefusedError(
                401,
                "unauthorized",
                "the key is not valid: ask the operator of this gateway for one",
                close_code=UNAUTHORIZED,
            )
        return found

    def demand(self, key: str | None) -> None:
        """Make sure that a request has a valid key, if one is needed.

        Raises:
            RefusedError: 401.
        """
        if not self.required:
            return
        if key is None:
            raise RefusedError(
                401, "unauthorized", "a key is needed: send X-API-Key or Authorization: Bearer"
            )
        self.check(key)


class Guest:
    """One connection that has come in.

    Attributes: sink, its way out; address; key, what its key is known by, or none; session, once
    it is a subscriber.
    """

    __slots__ = ("address", "key", "session", "sink")

    def __init__(self, sink: Sink, address: str) -> None:
        self.sink = sink
        self.address = address
        self.key: bytes | None = None
        self.session: Session | None = None

    def catch_up(self) -> None:
        """Write at once what is due to it."""
        if self.session is not None:
            self.session.catch_up()


class Access:
    """Everybody who is here, and who may still come.

    Attributes: keys; guests, in the order of their coming; empty, set while there are none.
    """

    def __init__(self, settings: Settings) -> None:
        self.keys = Keys(settings.auth_api_keys)
        self.guests: dict[Guest, None] = {}
        self.empty = asyncio.Event()
        self.empty.set()
        self._max_per_key = settings.ws_max_per_key
        self._max_per_address = settings.ws_max_per_address
        self._counts: Counter[bytes | str] = Counter()  # by key, which is bytes, and by address
        rate = settings.ws_handshakes_per_sec
        self._handshakes = TokenBucket(rate, rate)

    def enter(self, sink: Sink, address: str, key: str | None, now_s: float) -> Guest:
        """Let a handshake in; without a key it may have to `identify` itself later.

        Raises:
            RefusedError: 429, too many handshakes, or connections of its address or key; 401, the
                key is not valid.
        """
        if wait_s := self._handshakes.take(now_s):
            raise RefusedError(
                429,
                "too_many_handshakes",
                "too many connections are being opened at this moment: come again a little later",
                retry_s=math.ceil(wait_s),
            )
        if self._counts[address] >= self._max_per_address:
            raise RefusedError(
                429,
                "too_many_connections",
                f"{self._max_per_address} connections from one address are the limit: close some, "
                "or subscribe to more on each",
                retry_s=_RETRY_FULL_S,
            )
        guest = Guest(sink, address)
        if key is not None and self.keys.required:
            self.identify(guest, key)
        self._counts[address] += 1
        self.guests[guest] = None
        self.empty.clear()
        return guest

    def identify(self, guest: Guest, key: str) -> None:
        """Take a guest's key.

        Raises:
            RefusedError: 401, it is not valid; 429, it has too many connections.
        """
        known = self.keys.check(key)
        if self._counts[known] >= self._max_per_key:
            raise RefusedError(
                429,
                "too_many_connections",
                f"{self._max_per_key} connections with one key are the limit: close some, "
                "or subscribe to more on each",
                close_code=TOO_MANY,
                retry_s=_RETRY_FULL_S,
            )
        self._counts[known] += 1
        guest.key = known

    def leave(self, guest: Guest) -> None:
        """Forget a guest that has come in."""
        del self.guests[guest]
        for name in (guest.address, guest.key):
            if name is not None:
                self._counts[name] -= 1
                if not self._counts[name]:
                    del self._counts[name]
        if not self.guests:
            self.empty.set()


def key_of(headers: Mapping[str, str]) -> str | None:
    """Return the key in a request's headers, or none."""
    key = headers.get("x-api-key")
    if key is None:
        authorization = headers.get("authorization", "")
        if authorization[: len(_BEARER)].lower() != _BEARER:
            return None
        key = authorization[len(_BEARER) :]
    # Headers come as Latin-1; what stands in them is UTF-8, as in the settings.
    return key.strip().encode("latin-1").decode(errors="replace")


def _digest(entry: str) -> bytes:
    if entry.startswith(_DIGEST_PREFIX):
        return bytes.fromhex(entry.removeprefix(_DIGEST_PREFIX))
    return sha256(entry.encode()).digest()
