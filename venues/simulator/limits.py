"""Token buckets behind the exchange's limits. Pure: time is given."""

from venues.simulator.config import Limits

_CLIENTS_KEPT = 1024


class Bucket:
    """Allows `burst` at once and `rate` per second after that; no rate means no limit."""

    def __init__(self, rate: float | None, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = float(burst)
        self._at = 0.0

    def allow(self, now_s: float) -> bool:
        """Take one token if there is one."""
        if self._rate is None:
            return True
        gained = max(0.0, now_s - self._at) * self._rate
        self._tokens = min(float(self._burst), self._tokens + gained)
        self._at = now_s
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Doors:
    """The buckets of each client address, for connecting and for REST."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._connects: dict[str, Bucket] = {}
        self._rest: dict[str, Bucket] = {}

    def may_connect(self, client: str, now_s: float) -> bool:
        """Take a token for a WebSocket handshake."""
        limits = self._limits
        bucket = _bucket(self._connects, client, limits.connects_per_s, limits.connect_burst)
        return bucket.allow(now_s)

    def may_request(self, client: str, now_s: float) -> bool:
        """Take a token for a REST request."""
        bucket = _bucket(self._rest, client, self._limits.rest_per_s, self._limits.rest_burst)
        return bucket.allow(now_s)


def _bucket(buckets: dict[str, Bucket], client: str, rate: float | None, burst: int) -> Bucket:
    """Return the client's bucket; the oldest client is forgotten when there are too many."""
    if client not in buckets:
        if len(buckets) >= _CLIENTS_KEPT:
            del buckets[next(iter(buckets))]
        buckets[client] = Bucket(rate, burst)
    return buckets[client]
