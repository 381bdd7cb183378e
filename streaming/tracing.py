"""Traces: the way of one in so many messages, from ingest to the gateway, and of each workflow.

A message of the log carries its W3C trace context in a header, so whoever reads it goes on with
the same trace. Off, unless OTEL_EXPORTER_OTLP_ENDPOINT is set: then the SDK (`otlp`) is not even
loaded, and what is left in the hot path is one branch per published message.
"""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanContext, Tracer, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from models.settings import Settings

TRACEPARENT = "traceparent"
"""Header of a message whose way is traced (W3C Trace Context)."""

FLUSH_S = 2.0
"""A process that ends waits so long at most until the collector has its last spans."""

Fact = str | int | float | bool

_propagator = TraceContextTextMapPropagator()


class Provider(Protocol):
    """What is needed of OpenTelemetry's TracerProvider."""

    def get_tracer(self, instrumenting_module_name: str, /) -> Tracer:
        """Return a tracer."""

    def shutdown(self) -> None:
        """Send what waits, and end."""


class Step:
    """What one process does for one message, as a span.

    Attributes: context, the span's own; header, by which the next process makes its own step the
    child of this one.
    """

    __slots__ = ("_span", "context", "header")

    def __init__(self, span: Span) -> None:
        self._span = span
        self.context = told = span.get_span_context()
        self.header = f"00-{told.trace_id:032x}-{told.span_id:016x}-{told.trace_flags:02x}"

    @property
    def ids(self) -> dict[str, str]:
        """What a log line says that belongs to this step."""
        return _ids(self.context)

    def link(self, other: "Step") -> None:
        """Note that what came of this step was published in the trace of another one."""
        self._span.add_link(other.context)

    def end(self, **facts: Fact) -> None:
        """End the step now, with what is known of it by then."""
        self._span.set_attributes(facts)
        self._span.end()


class Tracing:
    """Begins the steps of one process. Attributes: tracer, OpenTelemetry's own."""

    def __init__(self, provider: Provider, share: float) -> None:
        """Trace this share of new messages, and whatever comes with a trace."""
        self._provider = provider
        self._share = share
        self._chance = random.Random()  # noqa: S311  # which messages are traced is no secret
        self.tracer = provider.get_tracer("ledgerflux")

    def sampled(self) -> bool:
        """Tell whether a new message is one of those that are traced."""
        return self._chance.random() < self._share

    def begin(
        self, name: str, parent: str | None = None, *, since_us: int | None = None, **facts: Fact
    ) -> Step:
        """Begin a step, now or `since_us`: the child of the one that a header names, or the first.

        A header that cannot be read begins a trace of its own.
        """
        start_ns = time.time_ns() if since_us is None else since_us * 1000
        context = Context() if parent is None else _propagator.extract({TRACEPARENT: parent})
        return Step(self.tracer.start_span(name, context, attributes=facts, start_time=start_ns))

    def close(self) -> None:
        """Send what waits, within FLUSH_S; what a collector has not taken by then is dropped."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(FLUSH_S)


_identity: ContextVar[tuple[int, int] | None] = ContextVar("identity", default=None)


@contextmanager
def identity(trace_id: int, span_id: int) -> Iterator[None]:
    """Give these ids to the span that is begun meanwhile; it must be the first of its trace."""
    token = _identity.set((trace_id, span_id))
    try:
        yield
    finally:
        _identity.reset(token)


def given_identity() -> tuple[int, int] | None:
    """Return the ids that the next span is to have, if they are given."""
    return _identity.get()


_active: Tracing | None = None


def tracing() -> Tracing | None:
    """Return how this process traces; none if it does not."""
    return _active


@contextmanager
def traced(settings: Settings, worker: str) -> Iterator[Tracing | None]:
    """Trace what this process does meanwhile, if the settings name a collector.

    Parts ask for `tracing` when they are made.
    """
    global _active  # noqa: PLW0603  # one for a process, as with logging
    if settings.otel_exporter_otlp_endpoint is None:
        yield None
        return
    # The SDK and its exporter take 7 MB, which most processes need not spend.
    from streaming.otlp import provider  # noqa: PLC0415

    share = settings.otel_traces_sampler_arg
    _active = Tracing(provider(settings.otel_exporter_otlp_endpoint, worker), share)
    try:
        yield _active
    finally:
        _active.close()
        _active = None


def annotate(**facts: Fact) -> None:
    """Add facts to the span in which this is called; without one, do nothing."""
    get_current_span().set_attributes(facts)


def trace_ids() -> dict[str, str]:
    """Return what a log line says that is written inside a span; nothing outside of any."""
    context = get_current_span().get_span_context()
    return _ids(context) if context.is_valid else {}


def _ids(context: SpanContext) -> dict[str, str]:
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}
