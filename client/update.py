"""One canonical message as a subscriber gets it."""

from functools import cached_property
from typing import Literal

from client.chain import Link
from models.canonical import Message, decode_message


class Update:
    """One canonical message as it came.

    Attributes: op; line, the message's bytes, verbatim; link, its place in its chain; recovered,
    false on a snapshot before which messages are missing that could not be had any more (none on
    everything else); reason, why not: that of the gateway's `resumed` (docs/protocol.md), or
    `conflated`. The whole message is decoded only if `message` is looked at.
    """

    def __init__(
        self,
        op: Literal["snapshot", "incr", "status"],
        line: bytes,
        link: Link,
        missed: str | None = None,
    ) -> None:
        self.op = op
        self.line = line
        self.link = link
        self.recovered = None if missed is None else False
        self.reason = missed

    @cached_property
    def message(self) -> Message:
        """The message with exact numbers."""
        message: Message = decode_message(self.line)
        return message
