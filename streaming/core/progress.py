"""How far each line has come, where two or more feed the same product.

A number that one line skipped is no loss while another line that is alive has not come that far
yet: it may still bring it. Heartbeats are compared line by line for the same reason.
"""

import msgspec

GRACE_US = 1_000_000
"""After so long (by the records' time) nobody is waited for any more."""


class Progress(msgspec.Struct):
    """Per connection: the highest number seen, and the newest heartbeat's watermark."""

    tops: dict[str, int] = {}
    marks: dict[str, int] = {}
    hole_since: int | None = None

    def note(self, conn: str, number: int) -> None:
        """Note a number that a connection brought."""
        if number > self.tops.get(conn, 0):
            self.tops[conn] = number

    def watermark(self, conn: str, number: int) -> int:
        """Take a heartbeat's watermark; return what the one before it promised."""
        due = self.marks.get(conn, 0)
        self.marks[conn] = number
        return due

    def keep(self, conns: list[str]) -> None:
        """Forget connections that are gone."""
        self.tops = {conn: top for conn, top in self.tops.items() if conn in conns}
        self.marks = {conn: mark for conn, mark in self.marks.items() if conn in conns}

    def may_come(self, number: int, alive: list[str], now_us: int) -> bool:
        """Whether a line that is alive may still bring what is missing below `number`."""
        if len(alive) < 2:  # noqa: PLR2004  # a line alone has nobody to wait for
            return False
        if self.hole_since is None:
            self.hole_since = now_us
        waited_us = now_us - self.hole_since
        return waited_us < GRACE_US and any(self.tops.get(conn, 0) < number for conn in alive)
