"""How Advanced Trade's feed is spoken to: one subscribe message per channel, JSON answers.

The counterpart of `venues.coinbase.dialect`. Settings name channels as Exchange does, so that the
same COINBASE_CHANNELS serve both; Advanced Trade's own names are taken as well.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from venues.coinbase.auth import Credentials
from venues.coinbase.dialect import Accepted, Answer, Complaint
from venues.coinbase.feed import FeedConfigError

HEARTBEATS: Final = "heartbeats"
"""Always subscribed to: without it most channels are closed when they are idle for a minute."""

CHANNELS: Final = (HEARTBEATS, "ticker", "ticker_batch", "level2", "market_trades", "status")
"""The channels that can be asked for here. `user` needs a JWT, and bars are made from trades."""

_OF_EXCHANGE: Final = {
    "heartbeat": HEARTBEATS,
    "level2_batch": "level2",
    "level2_50": "level2",
    "matches": "market_trades",
    "ticker_1000": "ticker_batch",
}


class UnknownChannelError(FeedConfigError):
    """A channel that Advanced Trade does not have.

    Attributes: channel.
    """

    def __init__(self, channel: str) -> None:
        super().__init__(
            f"COINBASE_CHANNELS: Advanced Trade has no public channel {channel!r}; "
            f"use {', '.join(CHANNELS)}, or Exchange's name of one of them"
        )
        self.channel = channel


def own_channels(names: Sequence[str]) -> tuple[str, ...]:
    """Return Advanced Trade's names of these channels, each once.

    Raises:
        UnknownChannelError: it has none for one of them.
    """
    own = tuple(dict.fromkeys(_OF_EXCHANGE.get(name, name) for name in names))
    for name in own:
        if name not in CHANNELS:
            raise UnknownChannelError(name)
    return own


class _Event(msgspec.Struct):
    """Channels and what is subscribed to on each, over all subscribe messages so far."""

    subscriptions: dict[str, list[str]] = {}


class _Notice(msgspec.Struct):
    """What the feed itself reads of a frame."""

    channel: str = ""
    type: str = ""
    message: str = ""
    events: msgspec.Raw = msgspec.Raw(b"[]")


_decode_notice = msgspec.json.Decoder(_Notice).decode
_decode_events = msgspec.json.Decoder(list[_Event]).decode


class AdvancedDialect:
    """Coinbase Advanced Trade: a message and an answer for each channel."""

    def subscribe(
        self,
        products: Sequence[str],
        channels: Sequence[str],
        credentials: Credentials | None,
    ) -> Sequence[str]:
        """Return one subscribe message per channel; market data needs no credentials.

        Heartbeats come last, so that the first answer is about a channel with data.

        Raises:
            UnknownChannelError: there is no such channel.
        """
        del credentials
        asked = [name for name in own_channels(channels) if name != HEARTBEATS]
        messages: list[dict[str, object]] = [
            {"type": "subscribe", "product_ids": products, "channel": channel} for channel in asked
        ]
        messages.append({"type": "subscribe", "channel": HEARTBEATS})
        return [msgspec.json.encode(message).decode() for message in messages]

    def answer(self, data: bytes) -> Answer | None:
        """Read `subscriptions` and errors.

        Each channel is answered by itself, so no single answer refuses everything; and unknown
        products are left out without a word. Heartbeats alone are no market data.
        """
        notice = _decode_notice(data)
        if notice.type == "error":
            return Complaint(notice.message)
        if notice.channel != "subscriptions":
            return None
        taken = {
            channel
            for event in _decode_events(notice.events)
            for channel, products in event.subscriptions.items()
            if products
        }
        return Accepted() if taken - {HEARTBEATS} else None
