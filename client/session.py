"""What a gateway's messages mean for a subscriber: one conversation over many connections.

Pure: messages in; updates, and what to say, out; no socket and no clock (`line` has these). It
verifies every link, knows how far each chain has come, and asks for what is missing.
"""

from collections import deque
from collections.abc import Callable
from typing import Literal

import msgspec

from client.backoff import FIRST_S, MAX_S
from client.chain import ChainBrokenError, ChainVerifier, Key, Link, decode_link
from client.errors import GatewayRefusedError
from client.subscription import Position, Request, Subscription, from_position, to_position
from client.update import Update
from models.canonical import Feed
from models.decoding import UNREADABLE

OnBroken = Literal["resync", "raise"]

MAX_MENDS = 3
"""So often what is missing after one message is asked for; then the chain begins anew."""

MAX_STATUSES = 32
"""Status messages that are remembered per chain, so that none comes twice after a break."""


_OF_NAMESPACE = frozenset({"unknown_namespace", "other_namespace", "too_many_replays"})
"""Errors that another position would not cure."""


class _Envelope(msgspec.Struct):
    """The part of a server message that each message of data needs; `data` tells what it is."""

    data: msgspec.Raw = msgspec.Raw(b"")
    recovered: bool = True


class _Notice(msgspec.Struct):
    """Every other server message."""

    op: str
    epoch: str | None = None
    venue: str = ""
    product: str = ""
    feed: Feed = "ticker"
    from_seq: int | None = None
    recovered: bool = False
    reason: str | None = None
    retry_ms: int = 0
    reconnect_ms: int = 0
    code: str = ""
    msg: str = ""


class _Heard(msgspec.Struct):
    """The status messages of a chain since its message `seq`; the first `again` came again."""

    seq: int
    lines: list[bytes]
    again: int


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_notice = msgspec.json.Decoder(_Notice).decode


class Session:
    """The state of a subscription.

    A chain is whole, or it waits: for the answer to its `from_seq`, or for a snapshot. While it
    waits, what comes of it is left out, since it will come again in its place.

    Attributes: verifier; acknowledged, the present connection has been good for something;
    drain_s, its gateway is going, and the next connection is due in so many seconds; pause_s, how
    long to wait before what is due is said.
    """

    def __init__(
        self,
        subscription: Subscription,
        resume: Position | None,
        on_broken: OnBroken,
        notify: Callable[[str], None],
    ) -> None:
        self.verifier = ChainVerifier()
        self.acknowledged = False
        self.drain_s: float | None = None
        self.pause_s = 0.0
        self._subscription = subscription
        self._on_broken = on_broken
        self._notify = notify
        self._epoch = resume["epoch"] if resume else None
        self._waiting: dict[Key, int | None] = {}
        self._missed: dict[Key, str] = {}
        self._heard: dict[Key, _Heard] = {}
        self._breaks: dict[Key, int] = {}
        self._due: list[Request] = []
        self._unanswered: deque[Request] = deque()
        for key, seq in from_position(resume).items() if resume else ():
            if subscription.wants(key):
                self.verifier.resume(key, seq)

    @property
    def position(self) -> Position:
        """How far the chains have come; those that wait for a snapshot are left out."""
        return to_position(self.verifier.newest, self._epoch)

    @property
    def due(self) -> bool:
        """Whether there is something to say."""
        return bool(self._due)

    def connected(self) -> None:
        """Begin on a new connection: the subscription is due, from where each chain has come to."""
        self.acknowledged, self.drain_s, self.pause_s = False, None, 0.0
        self._unanswered.clear()
        if not self._subscription.resumable:
            self.verifier.reset()
        self._waiting = dict(self.verifier.newest)
        for key in self._heard:
            self._expect_again(key)
        self._due = list(self._subscription.requests(self.verifier.newest, self._epoch))

    def say(self) -> list[str]:
        """Return the messages that are due, to be sent at once and in this order."""
        due, self._due, self.pause_s = self._due, [], 0.0
        self._unanswered.extend(due)
        return [request.text() for request in due]

    def receive(self, message: bytes) -> Update | None:
        """Take the next message; return what it has for the consumer.

        After none, look at `due` and `drain_s`.

        Raises:
            ChainBrokenError: a message is missing, and `on_broken` is `raise`.
            GatewayRefusedError: the gateway does not accept the subscription.
        """
        try:
            envelope = _decode_envelope(message)
            if envelope.data:
                return self._take(envelope)
            self._note(_decode_notice(message))
        except UNREADABLE as error:
            raise GatewayRefusedError(
                "not_understood", f"what answers is no LedgerFlux gateway ({error})"
            ) from error
        return None

    def _take(self, envelope: _Envelope) -> Update | None:
        """Take a canonical message."""
        line = bytes(envelope.data)
        link = decode_link(line)
        if self._waiting and self._waits(link, recovered=envelope.recovered):
            return None
        if link.type == "status":
            return None if self._heard_before(link, line) else Update("status", line, link)
        try:
            self.verifier.check(link)
        except ChainBrokenError as broken:
            self._mend(broken)
            if self._on_broken == "raise":
                raise
            return None
        if link.type == "snapshot":
            return Update("snapshot", line, link, self._why_missed(link))
        if self._breaks:
            self._breaks.pop(link.key, None)
        return Update("incr", line, link)

    def _waits(self, link: Link, *, recovered: bool) -> bool:
        """Tell whether a message is of a chain that waits for something else."""
        key = link.key
        if key not in self._waiting:
            return False
        if link.type != "snapshot" or (recovered and self._waiting[key] is not None):
            return True
        if not recovered:
            self._missed.setdefault(key, "unknown")
        del self._waiting[key]
        return False

    def _why_missed(self, link: Link) -> str | None:
        """Return why there are messages missing before a snapshot; none if there are not."""
        missed = self._missed.pop(link.key, None) if self._missed else None
        return "conflated" if missed is None and link.reason == "conflated" else missed

    def _heard_before(self, link: Link, line: bytes) -> bool:
        """Tell whether a status came already, before the chain was resumed."""
        key = link.key
        seq = self.verifier.newest.get(key)
        if seq is None:
            return False
        heard = self._heard.get(key)
        if heard is None or heard.seq != seq:
            self._heard[key] = _Heard(seq, [line], 1)
            return False
        if heard.again < len(heard.lines) and heard.lines[heard.again] == line:
            heard.again += 1
            return True
        if len(heard.lines) < MAX_STATUSES:
            heard.lines.append(line)
        heard.again = len(heard.lines)
        return False

    def _mend(self, broken: ChainBrokenError) -> None:
        """Ask for what is missing after the last message that linked.

        A chain that breaks at once again waits longer each time, and in the end begins anew.
        """
        key, seq = broken.key, broken.expected
        self._notify(str(broken))
        breaks = self._breaks[key] = self._breaks.get(key, 0) + 1
        if breaks > 1:
            self.pause_s = max(self.pause_s, min(FIRST_S * 2.0**breaks, MAX_S))
        if seq is not None and (breaks > MAX_MENDS or not self._subscription.resumable):
            self._lose(key, "broken")
            seq = None
        elif seq is not None:
            self.verifier.resume(key, seq)
            self._expect_again(key)
        self._waiting[key] = seq
        self._due.append(self._subscription.one(key, seq, self._epoch))

    def _expect_again(self, key: Key) -> None:
        """Expect the status messages since the chain's newest one to come again."""
        if key in self._heard:
            self._heard[key].again = 0

    def _note(self, notice: _Notice) -> None:
        """Take a message that is no data."""
        match notice.op:
            case "subscribed":
                self._acknowledge(notice.epoch)
            case "resumed":
                self._go_on(notice)
            case "rate_limit":
                self._due = [*self._unanswered, *self._due]
                self._unanswered.clear()
                self.pause_s = max(self.pause_s, notice.retry_ms / 1000)
            case "drain":
                self.drain_s = notice.reconnect_ms / 1000
            case "error":
                self._refused(notice)
            case _:
                pass  # `pong`, and what later gateways may say

    def _acknowledge(self, epoch: str | None) -> None:
        """Take an acknowledgement; positions in another log are worth nothing."""
        self.acknowledged = True
        if self._unanswered:
            self._unanswered.popleft()
        if self._epoch is not None and epoch != self._epoch:
            if not self.verifier.newest.keys() <= self._waiting.keys():
                self._due += self._subscription.requests({}, epoch)
            for key in tuple(self.verifier.newest):
                self._lose(key, "epoch")
        self._epoch = epoch

    def _go_on(self, resumed: _Notice) -> None:
        """Take the answer to one entry of `from_seq`."""
        key = (resumed.venue, resumed.product, resumed.feed)
        if resumed.from_seq is None or self._waiting.get(key) != resumed.from_seq:
            return
        if resumed.recovered:
            del self._waiting[key]
        else:
            self._lose(key, resumed.reason or "unknown")

    def _refused(self, error: _Notice) -> None:
        """Ask without a position if there was one, since that may be what was wrong.

        Raises:
            GatewayRefusedError: there was none, or it was not that.
        """
        request = self._unanswered.popleft() if self._unanswered else None
        if request is None or not request.resumes or error.code in _OF_NAMESPACE:
            raise GatewayRefusedError(error.code, error.msg)
        for key in request.resumes:
            self._lose(key, error.code)
        self._due.append(request.anew())

    def _lose(self, key: Key, reason: str) -> None:
        """Give a chain up: its next message is a snapshot that says what is missing before it."""
        self.verifier.forget(key)
        self._heard.pop(key, None)
        self._waiting[key] = None
        self._missed[key] = reason
        venue, product, feed = key
        self._notify(f"{product} {feed} of {venue} cannot go on ({reason}): it begins anew")
