"""What the gateway counts, in a registry of its own."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, generate_latest
from prometheus_client.core import Metric


class Metrics:
    """Counters and gauges of one gateway; names are a contract (DESIGN.md section 9).

    Attributes: process, which of several this one is; it becomes a label of everything.
    """

    def __init__(self) -> None:
        self.process: str | None = None
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self.clients = Gauge(
            "md_gateway_clients", "WebSocket subscribers connected now.", registry=self._registry
        )
        self.replays = Gauge(
            "md_gateway_replays",
            "Replays that subscribers are attached to, or were seconds ago.",
            registry=self._registry,
        )
        self.deliveries = Counter(
            "md_gateway_deliveries_total",
            "Canonical messages handed to subscribers after their snapshots.",
            registry=self._registry,
        )
        self.conflated = Counter(
            "md_gateway_conflated_total",
            "Times that a slow subscriber's increments gave way to a snapshot.",
            registry=self._registry,
        )
        self.lagging = Gauge(
            "md_gateway_lagging_clients",
            "Subscribers that are still owed snapshots or a part of the past.",
            registry=self._registry,
        )
        self.too_slow = Counter(
            "md_gateway_too_slow_total",
            "Subscribers that were closed because they did not read fast enough, as they wanted.",
            registry=self._registry,
        )
        self.messages = Counter(
            "md_gateway_messages_total", "Canonical messages read.", registry=self._registry
        )
        self.broken = Counter(
            "md_gateway_broken_links_total",
            "Messages read whose prev_seq did not fit the one before.",
            registry=self._registry,
        )
        self.refused = Counter(
            "md_gateway_refused_total",
            "Connections refused, before or after the upgrade.",
            ["code"],
            registry=self._registry,
        )
        self.invalid = Counter(
            "md_invalid_messages_total",
            "Messages read that are not canonical.",
            ["venue", "reason"],
            registry=self._registry,
        )

    def of_replay(self) -> "Metrics":
        """Return a replay's own: its subscribers count here, what it reads does not."""
        own = Metrics()
        own.clients, own.deliveries, own.conflated = self.clients, self.deliveries, self.conflated
        own.too_slow = self.too_slow
        return own

    def render(self) -> bytes:
        """Return the Prometheus text."""
        return generate_latest(self)

    def collect(self) -> Iterable[Metric]:
        """Return the samples of this moment, labelled with the process if there are several."""
        for metric in self._registry.collect():
            if self.process is not None:
                label = {"process": self.process}
                metric.samples = [
                    sample._replace(labels={**sample.labels, **label}) for sample in metric.samples
                ]
            yield metric
