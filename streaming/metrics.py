"""Metrics and health of the workers: plain counters that Prometheus reads when it asks.

The hot path counts in dictionaries, which costs a tenth of a labelled counter's increment; the
collector turns them into samples at scrape time. A thread answers, so that a worker whose event
loop hangs can still be told from one that works.
"""

import asyncio
import socket
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from itertools import accumulate
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, MetricsHandler, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

LOOPBACK = "127.0.0.1"
"""Where metrics are served unless METRICS_HOST says otherwise."""

BEAT_S = 1.0
"""The event loop says so often that it turns."""

HUNG_S = 15.0
"""A loop that has not said so for this long hangs, and its process must be replaced."""


class MetricsAddressError(Exception):
    """METRICS_HOST and METRICS_PORT cannot be listened on; the text says why and what to do."""


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


class Pulse:
    """Whether the running event loop turns: it stamps the time again and again."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._beat()

    def _beat(self) -> None:
        self._at_s = time.monotonic()
        self._loop.call_later(BEAT_S, self._beat)

    def trouble(self) -> str:
        """Return in a sentence what is wrong, or nothing."""
        silent_s = time.monotonic() - self._at_s
        if silent_s <= HUNG_S:
            return ""
        return f"the event loop has not turned for {silent_s:.0f} s: end this process"


class _Handler(MetricsHandler):
    """Answers one request; `registry` and `pulse` are those of the process."""

    timeout = 10.0
    """Seconds that a client may take; a thread waits for each."""

    pulse: Pulse

    def do_GET(self) -> None:  # noqa: N802  # as http.server calls it
        path, trouble = urlsplit(self.path).path, self.pulse.trouble()
        if path not in {"/metrics", "/healthz"}:
            self._tell(HTTPStatus.NOT_FOUND, "there is /metrics, and there is /healthz")
        elif trouble:
            # Figures would say that all is as it was; without them Prometheus has it as down.
            self._tell(HTTPStatus.SERVICE_UNAVAILABLE, trouble)
        elif path == "/metrics":
            super().do_GET()
        else:
            self._tell(HTTPStatus.OK, "the event loop turns")

    def _tell(self, status: HTTPStatus, sentence: str) -> None:
        body = f"{sentence}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def serve_metrics(port: int, collectors: Iterable[Collector], *, host: str = LOOPBACK) -> None:
    """Serve /metrics and /healthz until the process ends; port 0 means not at all.

    To be called where the event loop runs: both answer 200 while it turns, else 503.

    Raises:
        MetricsAddressError: the address is taken, or not one of this machine.
    """
    if port == 0:
        return
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = {"registry": registry_of(collectors), "pulse": Pulse()}
    listening = type("Server", (ThreadingHTTPServer,), {"address_family": family})
    try:
        server = listening((host, port), type("Handler", (_Handler,), made))
    except OSError as error:
        raise MetricsAddressError(
            f"cannot listen on {host} port {port} ({error.strerror}): stop what listens there, or "
            "set METRICS_HOST and METRICS_PORT"
        ) from error
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
