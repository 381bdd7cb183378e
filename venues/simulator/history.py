"""What a product has traded: the last trades, and bars of a minute for everything longer.

Pure and bounded. REST trades, candles, stats and the ticker's 24-hour fields all come from
here, so they agree with each other.
"""

from collections.abc import Iterator

import msgspec

from venues.simulator.events import Match

MINUTE_S = 60
_DAY_MINUTES = 24 * 60
BARS_KEPT = 30 * _DAY_MINUTES
"""Thirty days of minutes: what `volume_30d` looks back on."""
_MINUTE_US = 60_000_000


class Bar(msgspec.Struct):
    """Trades of one bucket; `start` in unix seconds, the rest in increments."""

    start: int
    low: int
    high: int
    open: int
    close: int
    volume: int

    def absorb(self, later: "Bar") -> None:
        """Add a bar that follows this one."""
        self.low = min(self.low, later.low)
        self.high = max(self.high, later.high)
        self.close = later.close
        self.volume += later.volume


class Print(msgspec.Struct, frozen=True, gc=False):
    """A trade and when it was made."""

    match: Match
    time_us: int


class History:
    """The trades of one product, oldest first; keeps `kept` of them, and 30 days of bars."""

    def __init__(self, kept: int = 100_000) -> None:
        self._kept = kept
        self._prints: list[Print] = []
        self._bars: list[Bar] = []
        self._day: Bar | None = None
        self._month_volume = 0

    @property
    def last(self) -> Print | None:
        """The newest trade."""
        return self._prints[-1] if self._prints else None

    def add(self, match: Match, time_us: int) -> None:
        """Record a trade; trade ids follow each other without a gap, times never go back."""
        self._prints.append(Print(match, time_us))
        if len(self._prints) > self._kept + self._kept // 8:
            del self._prints[: -self._kept]
        start = time_us // _MINUTE_US * MINUTE_S
        price, size = match.price, match.size
        trade = Bar(start, price, price, price, price, size)
        self._month_volume += size
        if self._bars and self._bars[-1].start == start and self._day is not None:
            self._bars[-1].absorb(trade)
            self._day.absorb(trade)
            return
        self._bars.append(trade)
        if len(self._bars) > BARS_KEPT:
            self._month_volume -= self._bars.pop(0).volume
        self._day = self._sum_day(start)

    def day(self) -> Bar:
        """Return the last 24 hours of trading as one bar (empty before the first trade)."""
        return self._day or Bar(0, 0, 0, 0, 0, 0)

    @property
    def month_volume(self) -> int:
        """Size traded in the bars that are kept."""
        return self._month_volume

    def page(self, limit: int, before: int | None, after: int | None) -> list[Print]:
        """Return at most `limit` trades, newest first.

        As the exchange does it: `after` gives the next older page, `before` the newest trades
        above that id, and not the page next to it.
        """
        if not self._prints:
            return []
        first = self._prints[0].match.trade_id
        end = len(self._prints) if after is None else min(max(after - first, 0), len(self._prints))
        start = max(end - limit, 0)
        if before is not None:
            start = max(start, before - first + 1)
        return self._prints[start:end][::-1] if start < end else []

    def candles(self, granularity_s: int, start_s: float, end_s: float) -> list[Bar]:
        """Return the buckets that begin within [start, end], newest first, empty ones omitted."""
        return [
            bar for bar in self._buckets(granularity_s, start_s) if start_s <= bar.start <= end_s
        ][::-1]

    def _buckets(self, granularity_s: int, start_s: float) -> Iterator[Bar]:
        bucket: Bar | None = None
        for bar in self._bars:
            if bar.start < start_s:
                continue
            start = bar.start // granularity_s * granularity_s
            if bucket is not None and bucket.start == start:
                bucket.absorb(bar)
                continue
            if bucket is not None:
                yield bucket
            bucket = Bar(start, bar.low, bar.high, bar.open, bar.close, bar.volume)
        if bucket is not None:
            yield bucket

    def _sum_day(self, now_s: int) -> Bar:
        day: Bar | None = None
        for bar in self._bars[-_DAY_MINUTES:]:
            if bar.start <= now_s - _DAY_MINUTES * MINUTE_S:
                continue
            if day is None:
                day = Bar(bar.start, bar.low, bar.high, bar.open, bar.close, bar.volume)
            else:
                day.absorb(bar)
        return day or self._bars[-1]
