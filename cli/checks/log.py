"""NATS: each server, JetStream, its limits, and the streams as the settings want them."""

import asyncio

from cli.checks.finding import Finding, broken, ok, warning
from models.settings import Settings
from streaming.broker.inspection import Inspector, ServerFacts, StreamFacts, differences
from streaming.broker.jetstream import stream_configs
from streaming.broker.log import LogError, LogUnavailableError
from streaming.broker.server import MAX_PAYLOAD_BYTES

_NATS, _STREAMS = "nats", "streams"
_NEARLY_FULL = 0.9
_MIB = 1024**2


async def servers(settings: Settings, answer_s: float) -> list[Finding]:
    """Look at every server of NATS_URLS; one that is away is a warning while another is up."""
    found = await asyncio.gather(*(_server(settings, url, answer_s) for url in settings.nats_urls))
    away = [text for text, facts in found if facts is None]
    if len(away) == len(found):
        return [broken(_NATS, text) for text in away]
    told = [warning(_NATS, text) for text in away]
    for text, facts in found:
        if facts is not None:
            told += _judged(text, facts)
    return told


async def _server(settings: Settings, url: str, answer_s: float) -> tuple[str, ServerFacts | None]:
    """Return where the server is, or why it cannot be used."""
    try:
        async with Inspector.connect(settings, url, answer_s=answer_s) as inspector:
            return url, await inspector.server()
    except LogUnavailableError as error:
        return str(error), None


def _judged(place: str, facts: ServerFacts) -> list[Finding]:
    if not facts.has_jetstream:
        return [broken(_NATS, f"{place}: JetStream is off; start nats-server with `-js`")]
    told = []
    if facts.max_payload_bytes < MAX_PAYLOAD_BYTES:
        told.append(
            warning(
                _NATS,
                f"{place}: max_payload is {facts.max_payload_bytes / _MIB:g} MiB, so books are "
                f"split into parts; set it to {MAX_PAYLOAD_BYTES // _MIB} MiB in the server's "
                "configuration",
            )
        )
    limit = facts.storage_limit_bytes
    if limit is not None and facts.storage_bytes > _NEARLY_FULL * limit:
        told.append(
            warning(
                _NATS,
                f"{place}: the streams have {facts.storage_bytes:,} of {limit:,} bytes that the "
                "account may; raise its limit, or lower JS_MAX_BYTES",
            )
        )
    return told or [
        ok(_NATS, f"{place}: {facts.version} with JetStream, {facts.rtt_s * 1000:.1f} ms")
    ]


async def streams(settings: Settings, answer_s: float) -> list[Finding]:
    """Hold each stream against the settings."""
    wanted = stream_configs(settings.streams, settings)
    try:
        async with Inspector.connect(settings, answer_s=answer_s) as inspector:
            names = [str(config.name) for config in wanted]
            found = await asyncio.gather(*map(inspector.stream, names))
    except LogUnavailableError:
        return [broken(_STREAMS, "cannot be looked at before NATS answers")]
    except LogError as error:
        return [broken(_STREAMS, f"cannot be looked at: {error}")]
    told = []
    missing = [name for name, facts in zip(names, found, strict=True) if facts is None]
    if missing:
        told.append(
            broken(
                _STREAMS,
                f"{', '.join(missing)} missing; the first worker that starts makes them, or "
                "JS_STREAM_NAME is another installation's",
            )
        )
    for config, facts in zip(wanted, found, strict=True):
        if facts is not None:
            told += _compared(facts, differences(config, facts.config))
    return told or [ok(_STREAMS, f"{', '.join(names)} are as the settings say")]


def _compared(facts: StreamFacts, wrong: list[str]) -> list[Finding]:
    told = []
    if wrong:
        cure = "a worker that starts with these settings mends it"
        told.append(broken(_STREAMS, f"{facts.name}: {'; '.join(wrong)}; {cure}"))
    aged = facts.config.get("max_age", 0) > 0
    # Where the bytes run out first, messages are dropped before their time.
    if aged and (facts.share_of_bytes or 0) > _NEARLY_FULL:
        told.append(
            warning(
                _STREAMS,
                f"{facts.name}: {facts.share_of_bytes:.0%} of its bytes are used; beyond that it "
                "drops what is younger than JS_RETENTION_MINUTES: raise JS_MAX_BYTES",
            )
        )
    return told
