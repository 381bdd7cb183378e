"""A collector of traces for tests: takes OTLP over HTTP as real ones do, and keeps the spans."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from tests.servers import PATIENCE_S


@dataclass(frozen=True)
class SpanTold:
    """A span as the collector got it. Ids are hexadecimal; `parent` is empty for the first."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    links: tuple[str, ...]


@dataclass
class Collector:
    """Where it listens, and what has come."""

    endpoint: str = ""
    spans: list[SpanTold] = field(default_factory=list)

    def named(self, name: str) -> list[SpanTold]:
        """Return the spans of a name."""
        return [span for span in self.spans if span.name == name]

    def trace(self, trace: str) -> list[SpanTold]:
        """Return the spans of a trace."""
        return [span for span in self.spans if span.trace == trace]

    def take(self, request: ExportTraceServiceRequest) -> None:
        """Keep the spans of an export."""
        for resource in request.resource_spans:
            service = _facts(resource.resource.attributes)["service.name"]
            for scope in resource.scope_spans:
                self.spans += [
                    SpanTold(
                        service,
                        span.name,
                        span.trace_id.hex(),
                        span.span_id.hex(),
                        span.parent_span_id.hex(),
                        span.start_time_unix_nano,
                        span.end_time_unix_nano,
                        _facts(span.attributes),
                        tuple(link.trace_id.hex() for link in span.links),
                    )
                    for span in scope.spans
                ]


def _facts(pairs: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in pairs:
        assert isinstance(pair, KeyValue)
        kind = pair.value.WhichOneof("value")
        assert kind is not None
        found[pair.key] = getattr(pair.value, kind)
    return found


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """Run a collector on a free port of loopback."""
    collector = Collector()

    async def take(request: web.Request) -> web.Response:
        assert request.content_type == "application/x-protobuf"
        collector.take(ExportTraceServiceRequest.FromString(await request.read()))
        body = ExportTraceServiceResponse().SerializeToString()
        return web.Response(body=body, content_type="application/x-protobuf")

    app = web.Application(client_max_size=64 * 1024**2)
    app.router.add_post("/v1/traces", take)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        collector.endpoint = f"http://{host}:{port}"
        yield collector
    finally:
        async with asyncio.timeout(PATIENCE_S):
            await runner.cleanup()
