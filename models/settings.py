"""Settings from the environment; the names are a contract (DESIGN.md section 9).

Each process reads them once at its start. Nothing else in the project reads the environment.
"""

import os
import re
from collections.abc import Sequence
from difflib import get_close_matches
from ipaddress import ip_network
from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    FilePath,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from models.subjects import Streams, token

Words = Annotated[tuple[str, ...], NoDecode]
"""A comma-separated list in the environment, a tuple here."""

_SHA256 = re.compile(r"[0-9A-Fa-f]{64}").fullmatch
_MISSPELT = 0.9
_SECRETS = {
    "AUTH_API_KEYS", "COINBASE_API_KEY", "COINBASE_API_SECRET", "COINBASE_API_PASSPHRASE",
    "S3_ACCESS_KEY", "S3_SECRET_KEY", "NATS_PASSWORD", "NATS_TOKEN", "NATS_URLS",
    "TEMPORAL_API_KEY",
}  # fmt: skip


_PAIRS = (
    ("nats_user", "nats_password"),
    ("nats_tls_cert", "nats_tls_key"),
    ("temporal_tls_client_cert_path", "temporal_tls_client_key_path"),
)


class SettingsError(Exception):
    """The environment holds a value that cannot be used; the text names it and what to do.

    Attributes: problems, a sentence for each value, with the fields that it is about.
    """

    def __init__(self, problems: Sequence[tuple[str, tuple[str, ...]]]) -> None:
        sentences = "; ".join(sentence for sentence, _ in problems)
        super().__init__(f"cannot use these settings: {sentences}")
        self.problems = tuple(problems)


class Settings(BaseSettings):
    """Every setting of every process, with its default."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, env_ignore_empty=True)

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least severe level that is logged."""
    otel_exporter_otlp_endpoint: str | None = None
    """OTLP collector that traces go to, such as http://127.0.0.1:4318; none means no traces."""
    otel_traces_sampler_arg: float = Field(0.001, ge=0, le=1)
    """Share of the messages stored by the ingestor whose way to the gateway is traced."""
    broker_kind: Literal["nats"] = "nats"
    """The log behind the pipeline."""

    coinbase_ws_primary: str = "wss://ws-feed.exchange.coinbase.com"
    """Feed used first, and again as soon as the other one fails."""
    coinbase_ws_fallback: str | None = None
    """Feed used while the primary cannot be reached."""
    coinbase_rest_url: str = "https://api.exchange.coinbase.com"
    """Base address of the REST API."""
    coinbase_rest_per_s: float = Field(8.0, gt=0)
    """REST requests per second over all workers; the venue allows 10 per address."""
    coinbase_rest_timeout_s: float = Field(10.0, gt=0)
    """How long one REST answer may take."""
    coinbase_products: Words = ("BTC-USD", "ETH-USD")
    """Products to subscribe to, comma-separated."""
    coinbase_channels: Words = ("ticker", "heartbeat", "level2_batch")
    """Channels to subscribe to; add `matches` for the trades feed."""
    coinbase_api_key: SecretStr | None = None
    """API key for the authenticated channels; needs the next two as well."""
    coinbase_api_secret: SecretStr | None = None
    """Base64 secret of the key."""
    coinbase_api_passphrase: SecretStr | None = None
    """Passphrase of the key."""
    coinbase_max_frame_bytes: int = Field(64 * 1024 * 1024, ge=64 * 1024)
    """Largest frame accepted; a deep book is several MB, so a small cap would lose it."""
    coinbase_silence_s: float = Field(5.0, gt=0)
    """A socket that brings nothing for so long is dead, and is opened anew."""
    ingest_line: str = "a"
    """Name of this ingestor's line where two feed the same products."""
    resync_max_queue_ms: int = Field(2000, ge=0)
    """How long a closed gate holds frames before it keeps only their position."""
    resync_stale_ms: int = Field(30_000, ge=0)
    """How long a gap may stay open before the feed counts as stale."""

    nats_urls: Words = ("nats://127.0.0.1:4222",)
    """Servers of the NATS cluster, comma-separated; `tls://` asks for TLS."""
    nats_user: str | None = None
    """User at NATS; needs NATS_PASSWORD as well."""
    nats_password: SecretStr | None = None
    """Password of that user."""
    nats_token: SecretStr | None = None
    """Token, where NATS asks for one instead of a user."""
    nats_creds: FilePath | None = None
    """Credentials file (a user's JWT and seed), where NATS is run by operators and accounts."""
    nats_tls_ca: FilePath | None = None
    """Certificates that NATS's must be signed by, a PEM file; none means the machine's own."""
    nats_tls_cert: FilePath | None = None
    """Our certificate for NATS, a PEM file; needs NATS_TLS_KEY as well."""
    nats_tls_key: FilePath | None = None
    """Private key of that certificate."""
    js_stream_name: str = "MD"
    """Prefix of the stream names: MD_RAW, MD_TICKS and so on."""
    js_retention_minutes: int = Field(60, ge=1)
    """How long the streams keep messages."""
    js_max_bytes: int = Field(4 * 1024**3, ge=16 * 1024**2)
    """How many bytes each data stream keeps at most."""
    replay_namespace: str | None = None
    """Serve a replay of this namespace, such as `replay-monday`, instead of the live streams."""
    replay_speed: float = Field(1.0, ge=0, allow_inf_nan=False)
    """How fast `ledgerflux replay` replays: 1 as it happened, 0 as fast as it goes."""
    shard_count: int = Field(1, ge=1, le=1024)
    """How many shards the products are spread over."""
    shard_index: int = Field(0, ge=0)
    """The shard of this normalizer."""

    temporal_address: str = "127.0.0.1:7233"
    """Frontend of the Temporal server."""
    temporal_namespace: str = "default"
    """Namespace of the workflows; it must exist."""
    # The names are those that `temporal` itself reads.
    temporal_tls: bool = False
    """Speak TLS to Temporal; any of the next five means it, too."""
    temporal_tls_server_ca_cert_path: FilePath | None = None
    """Certificates that Temporal's must be signed by, a PEM file; none means the machine's own."""
    temporal_tls_client_cert_path: FilePath | None = None
    """Our certificate for Temporal, a PEM file; needs the key as well."""
    temporal_tls_client_key_path: FilePath | None = None
    """Private key of that certificate."""
    temporal_tls_server_name: str | None = None
    """Name in Temporal's certificate, where it is not the address's."""
    temporal_api_key: SecretStr | None = None
    """API key, as Temporal Cloud gives them."""
    temporal_ui_url: str = "http://127.0.0.1:8233"
    """Where a person sees the workflows; only links are made of it."""

    ws_max_msgs_per_sec: int = Field(100, ge=1)
    """Client messages per second that the gateway accepts from one connection."""
    ws_burst: int = Field(200, ge=1)
    """How many may come at once."""
    ws_max_client_bytes: int = Field(16 * 1024**2, ge=64 * 1024)
    """Outbound bytes that may wait for one client before it is conflated."""
    ws_max_subscriptions: int = Field(10_000, ge=1)
    """Subscriptions, each a product and feed, that one connection may have."""
    ws_max_per_key: int = Field(10_000, ge=1)
    """Connections of one API key to one gateway process."""
    ws_max_per_address: int = Field(10_000, ge=1)
    """Connections from one address to one gateway process."""
    ws_handshakes_per_sec: int = Field(1000, ge=1)
    """New connections a second that one gateway process takes; as many may come at once."""
    auth_api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    """Keys that subscribers need, comma-separated, plain or `sha256:<hex>`; none means open."""
    backfill_max_minutes: int = Field(60, ge=0)
    """How far back `from_seq` may reach, in minutes; beyond it a snapshot is sent."""
    gateway_ring_bytes: int = Field(64 * 1024**2, ge=0)
    """Newest messages that a gateway keeps in memory to resume from, over all products."""
    gateway_max_replays: int = Field(4, ge=0)
    """Replays that subscribers of one gateway process may be attached to at the same time."""
    gateway_drain_s: float = Field(5.0, ge=0)
    """Subscribers of a gateway that stops are told to reconnect, spread over so many seconds; 0
    closes them at once."""
    gateway_processes: int = Field(1, ge=1, le=256)
    """Gateway processes that share GATEWAY_PORT."""
    gateway_trusted_proxies: Words = ()
    """Addresses and networks of proxies whose X-Forwarded-For is believed; `*` means any."""
    gateway_host: str = "127.0.0.1"
    """Address the gateway listens on."""
    gateway_port: int = Field(8000, ge=0, le=65535)
    """Port the gateway listens on."""
    metrics_port: int = Field(0, ge=0, le=65535)
    """Port for /metrics and /healthz of a worker; 0 means none. Gateway process i adds i."""
    metrics_host: str = "127.0.0.1"
    """Address that a worker's metrics port listens on; the gateway's are on GATEWAY_HOST."""

    snapshot_period_ms: int = Field(50, ge=1)
    """How often a product's latest-state row is written, at most, while it changes."""
    latest_store: Literal["nats", "dynamodb"] = "nats"
    """Where the latest-state rows are: a NATS key-value bucket, or the table DDB_TABLE."""
    ddb_table: str = "ledgerflux_latest"
    """DynamoDB table of the latest-state rows; its partition key is `product`, text."""
    ddb_endpoint: str | None = None
    """Address of DynamoDB where it is not AWS's own."""
    s3_endpoint: str | None = None
    """Address of the object store; none means AWS's own."""
    s3_bucket: str = "ledgerflux"
    """Bucket of the lake."""
    s3_access_key: str | None = None
    """Access key for S3 and DynamoDB; none means an IAM role's, or the machine's own."""
    s3_secret_key: SecretStr | None = None
    """Secret of that key."""
    s3_region: str | None = None
    """Region of the bucket and the table; none means the machine's own."""
    s3_addressing_style: Literal["auto", "path", "virtual"] = "auto"
    """`path` where buckets have no host names of their own, as with MinIO and localbucket."""

    archive_flush_s: float = Field(60.0, gt=0)
    """The archive stores what it has when the oldest message of it is so old, in seconds."""
    archive_flush_bytes: int = Field(5_000_000, ge=1000)
    """Or when it has so many bytes of NDJSON, whichever is first."""
    archive_every_s: float = Field(60.0, ge=1)
    """An archive run that has ended, whyever, is started again after so many seconds at most."""

    sim_port: int = Field(8900, ge=0, le=65535)
    """Port of the simulated exchange."""

    ingest_venue: Literal["coinbase", "coinbase-advanced"] = "coinbase"
    """Which feed the ingestor takes in and the normalizer reads: Exchange's or Advanced Trade's."""
    coinbase_advanced_ws: str = "wss://advanced-trade-ws.coinbase.com"
    """Feed of Advanced Trade."""

    @field_validator(
        "coinbase_products",
        "coinbase_channels",
        "nats_urls",
        "auth_api_keys",
        "gateway_trusted_proxies",
        mode="before",
    )
    @classmethod
    def _split(cls, value: object) -> object:
        """Accept `a,b` as well as a sequence."""
        if isinstance(value, str):
            return tuple(word.strip() for word in value.split(",") if word.strip())
        return value

    @field_validator("coinbase_products")
    @classmethod
    def _products(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """Refuse names that could not be subjects, and drop repeats."""
        if not value:
            raise ValueError("name at least one product, such as BTC-USD")
        return tuple(dict.fromkeys(token(product) for product in value))

    @field_validator(
        "otel_exporter_otlp_endpoint",
        "coinbase_ws_primary",
        "coinbase_ws_fallback",
        "coinbase_rest_url",
        "coinbase_advanced_ws",
        "nats_urls",
        "temporal_address",
        "temporal_ui_url",
        "ddb_endpoint",
        "s3_endpoint",
    )
    @classmethod
    def _nameless(cls, value: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        """Refuse a password in an address: addresses are logged."""
        if "@" in "".join(value or ()):
            raise ValueError(
                "addresses are logged, so take user and password out of it; there are NATS_USER "
                "and NATS_PASSWORD instead, S3_ACCESS_KEY and S3_SECRET_KEY, TEMPORAL_API_KEY"
            )
        return value

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        """Refuse half a credential: it would be refused elsewhere, or not be used at all."""
        for one, other in _PAIRS:
            if (getattr(self, one) is None) != (getattr(self, other) is None):
                raise ValueError(f"set {one.upper()} and {other.upper()} together, or neither")
        return self

    @field_validator("otel_exporter_otlp_endpoint")
    @classmethod
    def _collector(cls, value: str | None) -> str | None:
        """Refuse what traces could not be sent to; they would be lost without a word."""
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError("give the address of OTLP over HTTP, such as http://127.0.0.1:4318")
        return value

    @field_validator("replay_namespace")
    @classmethod
    def _namespace(cls, value: str | None) -> str | None:
        """Refuse what could be the live streams' name."""
        return None if value is None else Streams.of_replay(value).prefix

    @field_validator("auth_api_keys")
    @classmethod
    def _keys(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        """Refuse a digest that no key can have: it would lock its owner out without a word."""
        for number, key in enumerate(value, start=1):
            kind, colon, digest = key.get_secret_value().partition(":")
            if kind == "sha256" and colon and not _SHA256(digest):
                raise ValueError(
                    f"entry {number} begins with sha256: and needs the 64 hexadecimal digits of "
                    f"a SHA-256 digest after it; it has {len(digest)} characters"
                )
        return value

    @field_validator("gateway_trusted_proxies")
    @classmethod
    def _proxies(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """Refuse what is neither an address nor a network: it would never match."""
        for proxy in value:
            if proxy != "*":
                ip_network(proxy)
        return value

    @property
    def has_lake(self) -> bool:
        """Whether a lake is meant: on AWS with an IAM role, S3_REGION says so."""
        return (self.s3_endpoint or self.s3_access_key or self.s3_region) is not None

    @property
    def streams(self) -> Streams:
        """The names of this installation's streams, or of the replay's that is served."""
        if self.replay_namespace is not None:
            return Streams.of_replay(self.replay_namespace)
        return Streams(self.js_stream_name)


def load_settings(**overrides: object) -> Settings:
    """Read the environment; overrides win over it.

    Raises:
        SettingsError: names each variable that cannot be used, its value and why.
    """
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        problems = [(_sentence(problem), _about(problem)) for problem in error.errors()]
        # The cause would show the values again, secret ones too.
        raise SettingsError(problems) from None


def usable_settings() -> tuple[Settings | None, list[str]]:
    """Read the environment with the default for each value that cannot be used.

    Returns the settings, and a sentence for each such value; no settings where even the defaults
    do not help.
    """
    defaults: dict[str, object] = {}
    told: list[str] = []
    for _ in Settings.model_fields:
        try:
            return load_settings(**defaults), told
        except SettingsError as error:
            told += [sentence for sentence, _ in error.problems]
            for field in [field for _, fields in error.problems for field in fields]:
                defaults[field] = Settings.model_fields[field].get_default()
    return None, list(dict.fromkeys(told))


def idle_variables() -> list[str]:
    """Return a sentence for each variable of the environment that does nothing, and seems meant.

    A misspelt name is not read at all, and a key that is empty counts as none.
    """
    known = {field.upper() for field in Settings.model_fields}
    told = []
    for name, value in sorted(os.environ.items()):
        if name.upper() in known:
            if name.upper() in _SECRETS and not value.strip(" ,"):
                told.append(f"{name} is set and holds nothing: it counts as not set")
        elif near := get_close_matches(name.upper(), known, n=1, cutoff=_MISSPELT):
            told.append(f"{name} is no setting of ours, and is not read; {near[0]} is one")
    return told


def _sentence(problem: ErrorDetails) -> str:
    """Say which variable cannot be used and why; its value, unless that may be a secret."""
    name = ".".join(str(part) for part in problem["loc"]).upper()
    if not name:  # about several together
        return problem["msg"]
    value, why = f"={problem['input']!r}", problem["msg"]
    # What holds an @ may be an address with a password, also where it was put into another setting.
    if "@" in why:
        return f"{name}: it cannot be used, nor shown, since it holds an @"
    if "@" in value or name.partition(".")[0] in _SECRETS:
        value = ""
    return f"{name}{value}: {why}"


def _about(problem: ErrorDetails) -> tuple[str, ...]:
    """Return the fields that a problem is about: its own, or those that its sentence names."""
    if problem["loc"]:
        return (str(problem["loc"][0]),)
    words = set(re.findall(r"[A-Z0-9_]+", problem["msg"]))
    return tuple(field for field in Settings.model_fields if field.upper() in words)
