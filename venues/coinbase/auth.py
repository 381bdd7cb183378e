"""Signatures for Coinbase Exchange: the signed subscribe and the CB-ACCESS-* headers.

Pure: the time is passed in as the text that is signed and sent. Counterparts: feed.py and rest.py.
Source: docs.cdp.coinbase.com, "Exchange REST API authentication" and "WebSocket authentication".
"""

import base64
import binascii
import hashlib
import hmac
import time
from dataclasses import dataclass, field

VERIFY_PATH = "/users/self/verify"
"""The path that a subscribe signs, whatever it subscribes to."""


class BadSecretError(Exception):
    """The API secret is not base64 text, so nothing can be signed with it."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """An API key; its text form shows the key's name and nothing secret.

    Raises:
        BadSecretError: `secret` is not base64.
    """

    key: str
    secret: str = field(repr=False)
    passphrase: str = field(repr=False)

    def __post_init__(self) -> None:
        """Refuse at the start a secret that could never sign."""
        _decoded(self.secret)


def timestamp_text(now_ns: int) -> str:
    """Spell a time in ns as the venue wants it signed: seconds with six decimals."""
    seconds, rest = divmod(now_ns, 1_000_000_000)
    return f"{seconds}.{rest // 1000:06d}"


def sign_subscribe(credentials: Credentials, now_s_text: str) -> dict[str, str]:
    """Return the fields that turn a subscribe message into a signed one."""
    return {
        "signature": _sign(credentials, f"{now_s_text}GET{VERIFY_PATH}"),
        "key": credentials.key,
        "passphrase": credentials.passphrase,
        "timestamp": now_s_text,
    }


def sign_rest(
    credentials: Credentials, now_s_text: str, method: str, request_path: str, body: str = ""
) -> dict[str, str]:
    """Return the CB-ACCESS-* headers of one request; `request_path` includes the query."""
    text = f"{now_s_text}{method.upper()}{request_path}{body}"
    return {
        "CB-ACCESS-KEY": credentials.key,
        "CB-ACCESS-SIGN": _sign(credentials, text),
        "CB-ACCESS-TIMESTAMP": now_s_text,
        "CB-ACCESS-PASSPHRASE": credentials.passphrase,
    }


def now_text() -> str:
    """Spell the present moment for a signature."""
    return timestamp_text(time.time_ns())


def _sign(credentials: Credentials, text: str) -> str:
    digest = hmac.digest(_decoded(credentials.secret), text.encode(), hashlib.sha256)
    return base64.b64encode(digest).decode()


def _decoded(secret: str) -> bytes:
    try:
        decoded = base64.b64decode(secret, validate=True)
    except (binascii.Error, ValueError):
        decoded = b""
    if not decoded:
        raise BadSecretError(
            "COINBASE_API_SECRET is not base64: copy it again from the page that made the key"
        )
    return decoded
