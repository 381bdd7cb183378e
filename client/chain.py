"""The proof that nothing is missing: every tick must link to the message before it.

Pure: heads in, an error out when a link does not fit. The rule is in `models.canonical`: a
snapshot starts a chain, per venue, product and feed.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import msgspec

from client.errors import SubscriberError
from models.canonical import Feed

Key = tuple[str, str, Feed]
"""A chain's name: venue, product, feed."""


class Link(msgspec.Struct, frozen=True):
    """The part of a canonical message that the chain needs."""

    type: Literal["tick", "snapshot", "status"]
    venue: str
    product: str
    feed: Feed
    seq: int = 0
    prev_seq: int = 0
    reason: str = ""
    """Why a snapshot came: `subscribe`, `resync`, `conflated`, `max_rate`."""

    @property
    def key(self) -> Key:
        """The chain that it belongs to."""
        return self.venue, self.product, self.feed


decode_link = msgspec.json.Decoder(Link).decode
"""Read the link of one canonical line; the rest is skipped unread."""


class ChainBrokenError(SubscriberError):
    """A message is missing, doubled or out of order.

    Attributes: venue, product, feed; key, all three; expected, the `prev_seq` that would have
    fitted (none when no snapshot had come); got, the `prev_seq` that came; seq, of the message
    that came.
    """

    def __init__(self, link: Link, expected: int | None) -> None:
        due = "no snapshot has come" if expected is None else f"prev_seq {expected} was due"
        super().__init__(
            f"the chain of {link.product} {link.feed} is broken at seq {link.seq}: {due} and "
            f"{link.prev_seq} came. Subscribe again for what is missing, or a fresh snapshot."
        )
        self.key = link.key
        self.venue = link.venue
        self.product = link.product
        self.feed = link.feed
        self.expected = expected
        self.got = link.prev_seq
        self.seq = link.seq


class ChainVerifier:
    """Checks the links of any number of chains.

    Attributes: verified, how many links fitted; broken, how many did not; newest, a view of the
    newest `seq` of each whole chain.
    """

    def __init__(self) -> None:
        self._newest: dict[Key, int] = {}
        self.newest: Mapping[Key, int] = MappingProxyType(self._newest)
        self.verified = 0
        self.broken = 0

    def check(self, link: Link) -> None:
        """Take the next message.

        After an error the chain is as if no snapshot had come: until one comes, every tick of
        that feed is another error. Other feeds are not affected.

        Raises:
            ChainBrokenError: it does not link to the one before it.
        """
        if link.type == "status":
            return
        key = link.key
        if link.type == "tick":
            newest = self._newest.get(key)
            if newest != link.prev_seq:
                self.broken += 1
                self._newest.pop(key, None)
                raise ChainBrokenError(link, newest)
            self.verified += 1
        self._newest[key] = link.seq

    def resume(self, key: Key, seq: int) -> None:
        """Go on with a chain after the message `seq`, as if that had just come."""
        self._newest[key] = seq

    def forget(self, key: Key) -> None:
        """Forget one chain: it begins anew with a snapshot."""
        self._newest.pop(key, None)

    def reset(self) -> None:
        """Forget all chains: each begins anew with a snapshot."""
        self._newest.clear()
