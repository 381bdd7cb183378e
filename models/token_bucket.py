"""A token bucket as a pure value: how much may pass, and when to ask again.

Owns no clock and never sleeps; `now_s` comes from one monotonic clock of the caller. Kept as the
time at which the bucket is full again (GCRA, ITU-T I.371), in whole nanoseconds, so nothing drifts.
"""

import math

_NS = 1_000_000_000


class TokenBucket:
    """Lets through at most `burst + rate * t` in any stretch of t seconds, to the nanosecond."""

    def __init__(self, rate: float, burst: float) -> None:
        """Start full: `rate` tokens come back per second, up to `burst`.

        Raises:
            ValueError: `rate` or `burst` is not above zero.
        """
        if not (rate > 0 and burst > 0 and math.isfinite(rate) and math.isfinite(burst)):
            raise ValueError(f"rate and burst must be above zero, not {rate} and {burst}")
        self.rate = rate
        self.burst = burst
        self._full_at_ns: int | None = None

    def take(self, now_s: float, cost: float = 1) -> float:
        """Take `cost` tokens and return 0, or take nothing and return the seconds to wait.

        Asking again at `now_s` plus that wait succeeds, if nobody took in between.

        Raises:
            ValueError: `cost` is negative, or above `burst` and so could never pass.
        """
        if not 0 <= cost <= self.burst:
            raise ValueError(f"cost must be between 0 and the burst of {self.burst}, not {cost}")
        now_ns = _to_ns(now_s)
        full_at_ns = now_ns if self._full_at_ns is None else max(self._full_at_ns, now_ns)
        full_after_ns = full_at_ns + math.ceil(cost * _NS / self.rate)
        due_ns = full_after_ns - math.ceil(self.burst * _NS / self.rate)
        if due_ns > now_ns:
            return _wait_s(now_s, due_ns)
        self._full_at_ns = full_after_ns
        return 0.0


def _to_ns(time_s: float) -> int:
    return round(time_s * _NS)


def _wait_s(now_s: float, due_ns: int) -> float:
    """Return a wait that, added to `now_s` as a float, does not fall short of `due_ns`."""
    wait_s = max(0.0, due_ns / _NS - now_s)
    while _to_ns(now_s + wait_s) < due_ns:
        wait_s += math.ulp(now_s + wait_s)
    return wait_s
