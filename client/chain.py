"""The proof that nothing is missing: every tick must link to the message before it.

Pure: heads in, an error out when a link does not fit. The rule is in `models.canonical`: a
snapshot starts a chain, per venue, product and feed.
"""

from typing import Literal

import msgspec

from client.errors import SubscriberError
from models.canonical import Feed


class Link(msgspec.Struct, frozen=True):
    """The part of a canonical message that the chain needs."""

    type: Literal["tick", "snapshot", "status"]
    venue: str
    product: str
    feed: Feed
    seq: int = 0
    prev_seq: int = 0


decode_link = msgspec.json.Decoder(Link).decode
"""Read the link of one canonical line; the rest is skipped unread."""


class ChainBrokenError(SubscriberError):
    """A message is missing, doubled or out of order.

    Attributes: venue, product, feed; expected, the `prev_seq` that would have fitted (none when
    no snapshot had come); got, the `prev_seq` that came; seq, of the message that came.
    """

    def __init__(self, link: Link, expected: int | None) -> None:
        due = "no snapshot has come" if expected is None else f"prev_seq {expected} was due"
        super().__init__(
            f"the chain of {link.product} {link.feed} is broken at seq {link.seq}: {due} and "
            f"{link.prev_seq} came. Subscribe again for a fresh snapshot."
        )
        self.venue = link.venue
        self.product = link.product
        self.feed = link.feed
        self.expected = expected
        self.got = link.prev_seq
        self.seq = link.seq


class ChainVerifier:
    """Checks the links of any number of chains.

    Attributes: verified, how many links fitted; broken, how many did not.
    """

    def __init__(self) -> None:
        self._newest: dict[tuple[str, str, str], int] = {}
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
        key = (link.venue, link.product, link.feed)
        if link.type == "tick":
            newest = self._newest.get(key)
            if newest != link.prev_seq:
                self.broken += 1
                self._newest.pop(key, None)
                raise ChainBrokenError(link, newest)
            self.verified += 1
        self._newest[key] = link.seq

    def reset(self) -> None:
        """Forget all chains: a new connection begins with snapshots."""
        self._newest.clear()
