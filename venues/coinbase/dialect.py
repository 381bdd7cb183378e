"""How a Coinbase feed is spoken to: the subscribe messages, and the venue's answers to them.

A dialect is what differs between Coinbase's WebSocket feeds; connecting, the watchdog and
reconnecting are feed.py's. This is Exchange's; Advanced Trade's is in `venues.coinbase_advanced`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from venues.coinbase.auth import Credentials, now_text, sign_subscribe

HEARTBEAT: Final = "heartbeat"
"""Always subscribed to: one message a second and product tells a quiet market from a dead line."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The venue has taken the subscription, or what is valid of it."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The venue has taken nothing of the subscription."""


@dataclass(frozen=True, slots=True)
class Complaint:
    """The venue reports an error: `sentence` says which."""

    sentence: str


Answer = Accepted | Refused | Complaint


class Dialect(Protocol):
    """What a feed must know of the venue's protocol."""

    def subscribe(
        self,
        products: Sequence[str],
        channels: Sequence[str],
        credentials: Credentials | None,
    ) -> Sequence[str]:
        """Return the messages that a connection begins with; heartbeats are always among them."""

    def answer(self, data: bytes) -> Answer | None:
        """Read a frame as the venue's word on the subscription; most frames are none.

        Raises:
            msgspec.MsgspecError: it is no JSON, or not in the venue's shape.
        """


class _Notice(msgspec.Struct):
    """What the feed itself reads of a frame."""

    type: str = ""
    message: str = ""
    reason: str = ""
    channels: list[msgspec.Raw] = []


_decode_notice = msgspec.json.Decoder(_Notice).decode


class ExchangeDialect:
    """Coinbase Exchange: one message for all channels, one answer that lists those taken."""

    def subscribe(
        self,
        products: Sequence[str],
        channels: Sequence[str],
        credentials: Credentials | None,
    ) -> Sequence[str]:
        """Return the one subscribe message, signed where there are credentials."""
        message: dict[str, object] = {
            "type": "subscribe",
            "product_ids": products,
            "channels": tuple(dict.fromkeys((*channels, HEARTBEAT))),
        }
        if credentials is not None:
            message |= sign_subscribe(credentials, now_text())
        return (msgspec.json.encode(message).decode(),)

    def answer(self, data: bytes) -> Answer | None:
        """Read `subscriptions` and `error`."""
        notice = _decode_notice(data)
        if notice.type == "error":
            return Complaint(": ".join(part for part in (notice.message, notice.reason) if part))
        if notice.type == "subscriptions":
            return Accepted() if notice.channels else Refused()
        return None
