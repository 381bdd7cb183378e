"""Metrics of the streaming workers: plain counters that Prometheus reads when it asks.

The hot path counts in dictionaries, which costs a tenth of a labelled counter's increment; the
collector turns them into samples at scrape time.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

LOOPBACK = "127.0.0.1"
"""Where metrics are served unless METRICS_HOST says otherwise."""


class Counts:
    """One counter with labels; `values` maps label values to the count, and is written to."""

    def __init__(self, name: str, text: str, labels: tuple[str, ...]) -> None:
        self.values: Counter[tuple[str, ...]] = Counter()
        self._name, self._text, self._labels = name, text, labels
        if not labels:
            self.expect()

    def expect(self, *labels: str) -> None:
        """Show zero for these label values until something is counted.

        Prometheus sees no increase where a count appears that it did not know before.
        """
        self.values[labels] += 0

    def collect(self) -> Iterable[Metric]:
        """Return the samples of this moment."""
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for labels, value in list(self.values.items()):
            family.add_metric(labels, value)
        yield family


class Readings:
    """One metric that is read at scrape time: `read` returns values by label values.

    A gauge; or a counter, if its name ends with `_total`.
    """

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
        kind = CounterMetricFamily if self._name.endswith("_total") else GaugeMetricFamily
        family = kind(self._name, self._text, labels=self._labels)
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


Collector = Counts | Readings | Durations


def registry_of(collectors: Iterable[Collector]) -> CollectorRegistry:
    """Return what a worker's /metrics shows: its collectors, and the process's own figures."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    for collector in collectors:
        registry.register(collector)
    return registry


def serve_metrics(port: int, collectors: Iterable[Collector], *, host: str = LOOPBACK) -> None:
    """Serve /metrics, until the process ends; port 0 means not at all."""
    if port != 0:
        start_http_server(port, addr=host, registry=registry_of(collectors))
