"""Which connections feed a product, and whether their records are complete.

Every record counts up per product and connection, so one comparison tells a repeat from news and
proves that nothing was lost between the venue's socket and the log.
"""

from typing import Literal

import msgspec

ALIVE_US = 3_000_000
"""A line that brought something this recently is alive: heartbeats come every second."""

MAX_LINES = 8
"""Lines that are kept; with more, the one that has been silent longest is forgotten."""

Verdict = Literal["next", "repeat", "lost", "fresh", "covered"]
"""next: in order. repeat: seen already. lost: records are missing before it. fresh: the first of
a new connection, while nobody else was watching. covered: the first of a new connection, while
another line was."""


class Line(msgspec.Struct):
    """The newest connection of one line, its newest record, and when that came (microseconds)."""

    conn: str
    n: int
    ts_us: int
    down: bool = False


class Coverage:
    """The lines of one product."""

    __slots__ = ("_newest", "lines")

    def __init__(self) -> None:
        self.lines: dict[str, Line] = {}
        self._newest: Line | None = None

    def note(self, conn: str, n: int, ts_us: int) -> Verdict:
        """Take the next record's connection and number."""
        line = self._newest
        if line is None or line.conn != conn:
            name = conn.partition("-")[0]
            line = self.lines.get(name)
            if line is None or line.conn != conn:
                return self._open(name, conn, n, ts_us)
            self._newest = line
        expected = line.n + 1
        if n < expected:
            return "repeat"
        line.n, line.ts_us = n, ts_us
        return "next" if n == expected else "lost"

    def _open(self, name: str, conn: str, n: int, ts_us: int) -> Verdict:
        self.lines.pop(name, None)
        watched = self.watched(ts_us)
        if len(self.lines) >= MAX_LINES:
            self.lines.pop(min(self.lines, key=lambda key: self.lines[key].ts_us))
        self._newest = self.lines[name] = Line(conn, n, ts_us)
        if n != 1:
            return "lost"
        return "covered" if watched else "fresh"

    def restore(self, lines: dict[str, Line]) -> None:
        """Go on from a checkpoint."""
        self.lines, self._newest = lines, None

    def down(self, conn: str) -> None:
        """Note that a connection ended."""
        line = self.lines.get(conn.partition("-")[0])
        if line is not None and line.conn == conn:
            line.down = True

    def watched(self, now_us: int, *, but: str | None = None) -> bool:
        """Whether any line (other than that of connection `but`) is up and has spoken lately."""
        return any(conn != but for conn in self.alive(now_us))

    def alive(self, now_us: int) -> list[str]:
        """Return the connections that are up and have spoken lately."""
        return [
            line.conn
            for line in self.lines.values()
            if not line.down and now_us - line.ts_us < ALIVE_US
        ]

    def is_down(self, conn: str | None) -> bool:
        """Whether a connection has ended or been replaced."""
        return not any(line.conn == conn and not line.down for line in self.lines.values())
