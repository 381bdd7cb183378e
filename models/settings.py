"""Settings from the environment; the names are a contract (DESIGN.md section 9).

Each process reads them once at its start. Nothing else in the project reads the environment.
"""

import re
from ipaddress import ip_network
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from models.subjects import Streams, token

Words = Annotated[tuple[str, ...], NoDecode]
"""A comma-separated list in the environment, a tuple here."""

_SHA256 = re.compile(r"[0-9A-Fa-f]{64}").fullmatch
_SECRETS = {
    "AUTH_API_KEYS", "COINBASE_API_KEY", "COINBASE_API_SECRET", "COINBASE_API_PASSPHRASE",
    "S3_ACCESS_KEY", "S3_SECRET_KEY",
}  # fmt: skip


class SettingsError(Exception):
    """The environment holds a value that cannot be used; the text names it and what to do."""


class Settings(BaseSettings):
    """Every setting of every process, with its default."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, env_ignore_empty=True)

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least severe level that is logged."""
    otel_exporter_otlp_endpoint: str | None = None
    """Where traces go; none means no traces."""
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
    """Servers of the NATS cluster, comma-separated."""
    js_stream_name: str = "MD"
    """Prefix of the stream names: MD_RAW, MD_TICKS and so on."""
    js_retention_minutes: int = Field(60, ge=1)
    """How long the streams keep messages."""
    js_max_bytes: int = Field(4 * 1024**3, ge=16 * 1024**2)
    """How many bytes each data stream keeps at most."""
    replay_namespace: str | None = None
    """Serve a replay of this namespace, such as `replay-monday`, instead of the live streams."""
    shard_count: int = Field(1, ge=1, le=1024)
    """How many shards the products are spread over."""
    shard_index: int = Field(0, ge=0)
    """The shard of this normalizer."""

    temporal_address: str = "127.0.0.1:7233"
    """Frontend of the Temporal server."""
    temporal_namespace: str = "default"
    """Namespace of the workflows; it must exist."""
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
        lines = [f"{_named(problem)}: {problem['msg']}" for problem in error.errors()]
        # The cause would show the values again, secret ones too.
        raise SettingsError("cannot use these settings: " + "; ".join(lines)) from None


def _named(problem: ErrorDetails) -> str:
    """Return the variable and its value, or only the variable where the value is a secret."""
    name = ".".join(str(part) for part in problem["loc"]).upper()
    return name if name.partition(".")[0] in _SECRETS else f"{name}={problem['input']!r}"
