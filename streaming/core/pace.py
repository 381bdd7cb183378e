"""When each record of the past is due, on a clock that only goes forward.

Pure arithmetic: the caller brings the clock and does the waiting. Who pauses makes a new one: the
next record is due at once, and those behind it at their distance.
"""

MAX_BEHIND_US = 5_000_000
"""What is late by no more than this is caught up with; beyond it the whole plan moves."""


class Pace:
    """Times of records, in µs, onto times of a clock, in µs, at `speed` times their distance.

    After a stall whatever is due comes at once, but never more than `MAX_BEHIND_US` of the clock:
    time that is lost beyond that stays lost. With speed 0 everything is due at once.
    """

    def __init__(self, speed: float) -> None:
        self.speed = speed
        self._record_us: int | None = None
        self._clock_us = 0

    def due_us(self, record_us: int, now_us: int) -> int:
        """Return when a record is due; the first one at once. It may lie in the past."""
        if not self.speed:
            return now_us
        if self._record_us is None:
            self._record_us, self._clock_us = record_us, now_us
        due_us = self._clock_us + round((record_us - self._record_us) / self.speed)
        behind_us = now_us - due_us - MAX_BEHIND_US
        if behind_us > 0:
            self._clock_us += behind_us
            due_us += behind_us
        return due_us
