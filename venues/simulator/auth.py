"""The signature that authenticated channels need, checked as the exchange checks it.

Prehash is timestamp + "GET" + "/users/self/verify"; HMAC-SHA256 with the decoded secret.
"""

import base64
import hashlib
import hmac
import math

from venues.simulator.config import Keys

FIELDS = ("signature", "key", "passphrase", "timestamp")
"""What a subscribe message carries when it is signed."""


def signature(secret: str, timestamp: str) -> str:
    """Return the signature for a WebSocket subscription."""
    prehash = f"{timestamp}GET/users/self/verify".encode()
    digest = hmac.new(base64.b64decode(secret), prehash, hashlib.sha256).digest()
    return base64.b64encode(digest).decode()


def refusal(message: dict[str, object], keys: Keys, now_s: float) -> str | None:
    """Return why a signed message is refused, or none if it is good."""
    given = {name: str(message.get(name, "")) for name in FIELDS}
    if given["key"] != keys.key:
        return "invalid api key"
    if given["passphrase"] != keys.passphrase:
        return "invalid passphrase"
    if keys.max_skew_s is not None and not _recent(given["timestamp"], now_s, keys.max_skew_s):
        return "request timestamp expired"
    expected = signature(keys.secret, given["timestamp"])
    if not hmac.compare_digest(expected.encode(), given["signature"].encode()):
        return "invalid signature"
    return None


def is_signed(message: dict[str, object]) -> bool:
    """Tell whether a message claims to be authenticated."""
    return any(name in message for name in FIELDS)


def _recent(timestamp: str, now_s: float, skew_s: float) -> bool:
    try:
        moment = float(timestamp)
    except ValueError:
        return False
    return math.isfinite(moment) and abs(now_s - moment) <= skew_s
