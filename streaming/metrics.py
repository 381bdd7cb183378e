"""Metrics of the streaming workers: plain counters that Prometheus reads when it asks.

The hot path counts in dictionaries, which costs a tenth of a labelled counter's increment; the
collector turns them into samples at scrape time.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import accumulate

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)


class Counts:
    """One counter with labels; `values` maps label values to the count, and is written to."""

    def __init__(self, name: str, text: str, labels: tuple[str, ...]) -> None:
        self.values: Counter[tuple[str, ...]] = Counter()
        self._name, self._text, self._labels = name, text, labels

    def collect(self) -> Iterable[Metric]:
        """Return the samples of this moment."""
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for labels, value in list(self.values.items()):
            family.add_metric(labels, value)
        yield family


class Readings:
    """One gauge that is read at scrape time: `read` returns values by label values."""

    def __init__(
        self,
        name: str,
        text: str,
        labels: tuple[str, ...],
        read: Callable[[], dict[tuple[str, ...], float]],
    ) -> None:
        self._name, self._text, self._labels, self._read = name, text, labels, read

    def collect(self) -> Iterable[Metric]:
        """Return the samples of this moment."""
        family = GaugeMetricFamily(self._name, self._text, labels=self._labels)
        for labels, value in self._read().items():
            family.add_metric(labels, value)
        yield family


class Durations:
    """One histogram of seconds; `observe` adds to it. `bounds`: upper ends of its buckets."""

    def __init__(self, name: str, text: str, bounds: tuple[float, ...]) -> None:
        self._name, self._text, self._bounds = name, text, bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    def collect(self) -> Iterable[Metric]:
        """Return the samples of this moment."""
        family = HistogramMetricFamily(self._name, self._text)
        ends = [*map(str, self._bounds), "+Inf"]
        family.add_metric([], list(zip(ends, accumulate(self._counts), strict=True)), self._sum)
        yield family


def serve_metrics(port: int, collectors: Iterable[Counts | Readings | Durations]) -> None:
    """Serve /metrics on loopback; port 0 means not at all."""
    if port == 0:
        return
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    start_http_server(port, addr="127.0.0.1", registry=registry)
