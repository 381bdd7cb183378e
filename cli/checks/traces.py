"""The collector of traces: takes an export without a span, as it would one with some."""

import os

import httpx
from opentelemetry.util.re import parse_env_headers

from cli.checks.finding import Finding, ok, warning
from models.settings import Settings

_TRACES = "traces"
_HEADERS = "OTEL_EXPORTER_OTLP_HEADERS"
_PROTOBUF = {"Content-Type": "application/x-protobuf"}


async def collector(settings: Settings, answer_s: float) -> list[Finding]:
    """Send nothing; a collector that does not take it costs the traces, so that is a warning."""
    from streaming.otlp import traces_url  # noqa: PLC0415  # the SDK, only where it is used

    endpoint = settings.otel_exporter_otlp_endpoint
    if endpoint is None:
        return [ok(_TRACES, "none: OTEL_EXPORTER_OTLP_ENDPOINT is not set")]
    url = traces_url(endpoint)
    headers = parse_env_headers(os.environ.get(_HEADERS, ""), liberal=True)
    try:
        async with httpx.AsyncClient(timeout=answer_s) as http:
            answer = await http.post(url, content=b"", headers={**headers, **_PROTOBUF})
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        why = str(error) or type(error).__name__
        return [warning(_TRACES, f"{_lost(url)}: {why}; check OTEL_EXPORTER_OTLP_ENDPOINT")]
    if answer.is_success:
        return [ok(_TRACES, f"{url}: an empty export was taken")]
    told = f"{answer.status_code} {answer.reason_phrase}".strip()
    denied = answer.status_code in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}
    cure = _HEADERS if denied else "OTEL_EXPORTER_OTLP_ENDPOINT: OTLP over HTTP must be taken there"
    return [warning(_TRACES, f"{_lost(url)}: it answers {told}; check {cure}")]


def _lost(url: str) -> str:
    return f"{url}: traces are lost"
