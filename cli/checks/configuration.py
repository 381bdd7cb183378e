"""Settings that can be read one by one, and make no sense together."""

from collections.abc import Iterator, Mapping
from datetime import timedelta

from cli.checks.finding import Finding, broken, ok, warning
from models.settings import Settings, idle_variables
from venues.coinbase.auth import BadSecretError
from venues.coinbase.feed import FeedConfigError
from workers.venue import feed_config

SETTINGS = "settings"
_EVERYBODY = frozenset({"0.0.0.0", "::"})  # noqa: S104  # compared with, not bound to


def contradictions(settings: Settings) -> list[Finding]:
    """Return what cannot be meant so; or that all is well."""
    found = [broken(SETTINGS, sentence) for sentence in _impossible(settings)]
    found += [warning(SETTINGS, sentence) for sentence in _doubtful(settings)]
    found += [warning(SETTINGS, sentence) for sentence in idle_variables()]
    return found or [ok(SETTINGS, "all can be used together")]


def _impossible(settings: Settings) -> Iterator[str]:
    key = {
        "COINBASE_API_KEY": settings.coinbase_api_key,
        "COINBASE_API_SECRET": settings.coinbase_api_secret,
        "COINBASE_API_PASSPHRASE": settings.coinbase_api_passphrase,
    }
    yield from _half(key, "without it the key is not used at all")
    pair = {"S3_ACCESS_KEY": settings.s3_access_key, "S3_SECRET_KEY": settings.s3_secret_key}
    yield from _half(pair, "or take both away, and an IAM role is used")
    try:
        feed_config(settings)
    except (FeedConfigError, BadSecretError) as error:
        yield str(error)
    if settings.shard_index >= settings.shard_count:
        yield (
            f"SHARD_INDEX={settings.shard_index} is beyond SHARD_COUNT={settings.shard_count}: "
            "shards count from 0"
        )
    retention_s = timedelta(minutes=settings.js_retention_minutes).total_seconds()
    if settings.archive_flush_s >= retention_s:
        yield (
            f"ARCHIVE_FLUSH_S={settings.archive_flush_s:g} is not below JS_RETENTION_MINUTES="
            f"{settings.js_retention_minutes}: the log drops messages before they are archived"
        )
    metrics, gateway = settings.metrics_port, settings.gateway_port
    if metrics and metrics <= gateway < metrics + settings.gateway_processes:
        yield f"METRICS_PORT={metrics} and GATEWAY_PORT={gateway} meet: a port serves one of them"


def _half(values: Mapping[str, object], otherwise: str) -> Iterator[str]:
    """Name what is missing where a part is set."""
    missing = [name for name, value in values.items() if value is None]
    if missing and len(missing) < len(values):
        given = ", ".join(name for name in values if name not in missing)
        yield f"{given} set without {', '.join(missing)}: set it, {otherwise}"


def _doubtful(settings: Settings) -> Iterator[str]:
    if settings.gateway_host in _EVERYBODY and not settings.auth_api_keys:
        yield (
            f"GATEWAY_HOST={settings.gateway_host} and no AUTH_API_KEYS: whoever can reach the "
            "gateway may subscribe"
        )
    retention = settings.js_retention_minutes
    if settings.backfill_max_minutes > retention and not settings.has_lake:
        yield (
            f"BACKFILL_MAX_MINUTES={settings.backfill_max_minutes} reaches further back than "
            f"JS_RETENTION_MINUTES={retention}, and there is no lake: what is older is answered "
            "with a snapshot"
        )
    if settings.latest_store == "dynamodb" and not (settings.ddb_endpoint or settings.s3_region):
        yield "LATEST_STORE=dynamodb without DDB_ENDPOINT and S3_REGION: the region is a guess"
    if settings.replay_namespace is not None:
        yield (
            f"REPLAY_NAMESPACE={settings.replay_namespace}: a process with these settings serves a "
            "replay, not live data"
        )
