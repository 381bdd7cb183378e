"""A gateway as docs/protocol.md describes it, without sockets, losing what a test wants it to."""

import json
from typing import Any

from client.chain import Link, decode_link
from tests.gateways import snapshot

EPOCH = "e1"
Feed = tuple[str, str]


class ModelGateway:
    """A canonical log of one venue.

    Attributes: lines, all of it; epoch; kept, from where on positions can be resumed.
    """

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.epoch = EPOCH
        self.kept = 0

    def newest(self, feed: Feed, end: int) -> int:
        """Return the newest number of a feed before a position of the log."""
        seqs = [
            link.seq
            for link in map(decode_link, self.lines[:end])
            if (link.product, link.feed) == feed and link.type != "status"
        ]
        return seqs[-1] if seqs else 0

    def after(self, feed: Feed, seq: int) -> int | None:
        """Return the position after the message with this number; none if it is not kept."""
        for index in range(len(self.lines) - 1, self.kept - 1, -1):
            link = decode_link(self.lines[index])
            if (link.product, link.feed, link.seq) == (*feed, seq) and link.type != "status":
                return index + 1
        return None


class ModelConnection:
    """One connection. `sent` collects what the gateway sends; the test takes it from there."""

    def __init__(self, gateway: ModelGateway) -> None:
        self.gateway = gateway
        self.sent: list[bytes] = []
        self.heard: list[dict[str, Any]] = []
        self._begun: dict[Feed, int] = {}
        self._read = len(gateway.lines)

    def hear(self, text: str) -> None:
        """Answer a `subscribe`."""
        request = json.loads(text)
        self.heard.append(request)
        self.flow()
        products, feeds = request["products"], request["feeds"]
        self._send(op="subscribed", products=products, feeds=feeds, epoch=self.gateway.epoch)
        asked = {
            (name.split("/")[1], feed): seq
            for name, entry in request.get("from_seq", {}).items()
            for feed, seq in entry.items()
        }
        wanted = [(product, feed) for product in products if product != "*" for feed in feeds]
        if "*" in products:
            known = [(link.product, link.feed) for link in map(decode_link, self.gateway.lines)]
            wanted = list(dict.fromkeys([*asked, *known]))
        for feed in wanted:
            self._begin(feed, asked.get(feed), request.get("epoch"))

    def flow(self) -> None:
        """Send what has come into the log since."""
        for line in self.gateway.lines[self._read :]:
            link = decode_link(line)
            if (link.product, link.feed) in self._begun:
                self._send_line(line, link)
        self._read = len(self.gateway.lines)

    def lose_newest(self) -> int:
        """Lose what was sent last; return how many messages that were."""
        if not self._begun:
            return 0
        self.sent.pop()
        return 1

    def _begin(self, feed: Feed, seq: int | None, epoch: str | None) -> None:
        self._begun[feed] = self._read
        if seq is None:
            self._snapshot(feed)
            return
        start = self.gateway.after(feed, seq) if epoch == self.gateway.epoch else None
        answer: dict[str, Any] = {"op": "resumed", "venue": "coinbase", "from_seq": seq}
        answer |= {"product": feed[0], "feed": feed[1], "recovered": start is not None}
        if start is None:
            reason = "too_old" if epoch == self.gateway.epoch else "epoch"
            self._send(**answer, reason=reason)
            self._snapshot(feed, recovered=False)
            return
        self._send(**answer, source="ring")
        for line in self.gateway.lines[start : self._read]:
            link = decode_link(line)
            if (link.product, link.feed) == feed:
                self._send_line(line, link)

    def _snapshot(self, feed: Feed, **more: object) -> None:
        line = snapshot(self.gateway.newest(feed, self._read), product=feed[0], feed=feed[1])
        self._send(op="snapshot", data=json.loads(line), **more)

    def _send_line(self, line: bytes, link: Link) -> None:
        op = "incr" if link.type == "tick" else link.type
        self.sent.append(b'{"op":"%b","data":%b}' % (op.encode(), line))

    def _send(self, **fields: object) -> None:
        self.sent.append(json.dumps(fields).encode())
