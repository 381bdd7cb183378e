"""What a connection is told, held message by message against the canonical log."""

import json
from collections import defaultdict
from typing import Any

from models.canonical import FEEDS, ORIGIN, Feed

Key = tuple[str, Feed]
"""Product and feed."""

OPENINGS = frozenset({"subscribe", "conflated", "max_rate"})
"""Reasons of the snapshots that a gateway makes itself; the log has other ones."""


class CanonicalLog:
    """Every line of the log by product and feed, parsed; `number` is the newest number of one."""

    def __init__(self) -> None:
        self.lines: dict[Key, list[Any]] = defaultdict(list)
        self.number: dict[Key, int] = defaultdict(int)

    def append(self, *lines: bytes) -> None:
        for line in lines:
            parsed = json.loads(line)
            key = (parsed["product"], parsed["feed"])
            self.lines[key].append(parsed)
            self.number[key] = parsed.get("seq", self.number[key])

    def index(self, key: Key, seq: int) -> int:
        """Return the place of a number, which must be there; that of `ORIGIN` is before all."""
        if seq == ORIGIN:
            return -1
        places = [n for n, line in enumerate(self.lines[key]) if line.get("seq") == seq]
        assert places, f"{key} never had {seq}"
        return places[-1]

    def numbers(self, key: Key) -> list[int]:
        return [line["seq"] for line in self.lines[key] if "seq" in line]


class View:
    """One feed of one connection: where in the log it is.

    Since a resume everything must be there, statuses too; since a snapshot everything numbered.
    """

    def __init__(self, log: CanonicalLog, key: Key) -> None:
        self._log, self._key = log, key
        self._next: int | None = None
        self._strict = self._just_resumed = False
        self.unrecovered = False

    @property
    def lines(self) -> list[Any]:
        return self._log.lines[self._key]

    def resumed(self, answer: Any) -> None:
        """Take the answer to `from_seq`."""
        assert not self.unrecovered
        if not answer["recovered"]:
            assert answer["source"] is None
            self.unrecovered, self._next = True, None
            if answer["reason"] == "unknown_seq":
                assert answer["from_seq"] not in (ORIGIN, *self._log.numbers(self._key))
            return
        assert answer["reason"] is None
        self._next = self._log.index(self._key, answer["from_seq"]) + 1
        self._strict = self._just_resumed = True

    def take(self, message: Any) -> None:
        """Take a message with data."""
        data = message["data"]
        assert ("recovered" in message) == (self.unrecovered and message["op"] == "snapshot")
        if message["op"] == "snapshot" and data["reason"] in OPENINGS:
            self._open(data)
        elif message["op"] == "status":
            self._status(data)
        else:
            assert self._next is not None, f"{self._key} began with {message}"
            if not self._strict:
                self._skip_statuses()
            assert self.lines[self._next] == data
            self._next += 1
            self._just_resumed = False

    def _open(self, data: Any) -> None:
        self.unrecovered, self._strict = False, False
        index = self._log.index(self._key, data["seq"])
        self._next = index + 1
        if index >= 0 and data["feed"] != "book":
            newest = self.lines[index]
            assert data["state"] == newest.get("fields", newest.get("state"))

    def _status(self, data: Any) -> None:
        assert not self.unrecovered
        assert data in self.lines
        if self._strict:
            assert self._next is not None
            rest = self.lines[self._next :]
            told = rest.index(data) + 1 if data in rest else 0
            # Where nothing was missed only the newest status is told, maybe once more.
            assert told == 1 or self._just_resumed
            assert all("seq" not in line for line in rest[:told])
            self._next += told
            self._just_resumed = False

    def _skip_statuses(self) -> None:
        assert self._next is not None
        while self._next < len(self.lines) and "seq" not in self.lines[self._next]:
            self._next += 1

    def assert_complete(self) -> None:
        """Assert that nothing is missing up to the end of the log."""
        assert self._next is not None, f"{self._key} has not begun"
        if not self._strict:
            self._skip_statuses()
        assert self._next == len(self.lines), f"{self._key} lacks {self.lines[self._next :]}"


class Connection:
    """All feeds of one connection, as its subscriptions are acknowledged."""

    def __init__(self, log: CanonicalLog) -> None:
        self._log = log
        self.views: dict[Key, View] = {}
        self.wanted: set[Key] = set()
        self.errors: list[str] = []

    def take(self, message: Any) -> None:
        """Take the next message.

        Raises:
            AssertionError: it is not what the log has at this place.
        """
        op = message["op"]
        if op in ("subscribed", "unsubscribed"):
            self._acknowledge(op, message)
        elif op == "resumed":
            self._view((message["product"], message["feed"])).resumed(message)
        elif op == "error":
            self.errors.append(message["code"])
        elif "data" in message:
            self._view((message["data"]["product"], message["data"]["feed"])).take(message)

    def _view(self, key: Key) -> View:
        assert self.wanted & {key, ("*", key[1])}, f"{key} was not asked for"
        return self.views.setdefault(key, View(self._log, key))

    def _acknowledge(self, op: str, message: Any) -> None:
        named = {(product, feed) for product in message["products"] for feed in message["feeds"]}
        feeds = {feed for product, feed in named if product == "*"}
        if op == "subscribed":
            self.wanted |= named
        else:
            self.wanted -= named
        for key in tuple(self.views):
            gone = not self.wanted & {key, ("*", key[1])}
            if gone or (op == "subscribed" and (key in named or key[1] in feeds)):
                del self.views[key]

    def assert_complete(self, products: list[str]) -> None:
        """Assert that everything that was asked for is there, up to the end of the log."""
        for product in products:
            for feed in FEEDS:
                if self.wanted & {(product, feed), ("*", feed)}:
                    assert (product, feed) in self.views, f"{product} {feed} never began"
                    self.views[product, feed].assert_complete()
