"""OpenTelemetry's SDK as `tracing` uses it: spans in batches to a collector, over HTTP.

Loaded only where a collector is set. A bounded number of spans waits for it in memory; while it is
away they are dropped, and nothing else happens. The SDK's own variables are honoured, such as
OTEL_EXPORTER_OTLP_HEADERS, OTEL_RESOURCE_ATTRIBUTES and OTEL_BSP_SCHEDULE_DELAY.
"""

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import DEFAULT_ON

from streaming.tracing import given_identity

TRACES_PATH = "/v1/traces"
"""Where a collector takes traces, after its base address."""

_EXPORT_S = 5.0


class _Ids(RandomIdGenerator):
    """Random ids, but for a span whose identity is given."""

    def generate_trace_id(self) -> int:
        given = given_identity()
        return super().generate_trace_id() if given is None else given[0]

    def generate_span_id(self) -> int:
        given = given_identity()
        return super().generate_span_id() if given is None else given[1]


def traces_url(endpoint: str) -> str:
    """Return where a collector takes traces; `endpoint`: its base address, or that itself."""
    return endpoint.rstrip("/").removesuffix(TRACES_PATH) + TRACES_PATH


def provider(endpoint: str, worker: str) -> TracerProvider:
    """Return what sends this worker's spans to the collector at a base address."""
    url = traces_url(endpoint)
    resource = Resource.create({"service.namespace": "ledgerflux", "service.name": worker})
    # What decides is whether a message or workflow has a trace, see `Tracing.sampled`.
    provider = TracerProvider(
        sampler=DEFAULT_ON, resource=resource, id_generator=_Ids(), shutdown_on_exit=False
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(url, timeout=_EXPORT_S)))
    return provider
