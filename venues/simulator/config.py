"""How a simulated exchange is set up; every value has a default that fits a laptop."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from venues.simulator.catalogue import Product, product


@dataclass(frozen=True, slots=True)
class Keys:
    """The one API key that the exchange knows; the defaults are for tests and are no secret."""

    key: str = "sim-key"
    secret: str = "YWFh" * 21 + "YQ=="
    """Base64 of 64 times the letter a, the documentation's own example."""
    passphrase: str = "sim-passphrase"  # noqa: S105 - documented default of a simulator
    max_skew_s: float | None = 30.0
    """How far a signature's timestamp may be off; none means that it is not looked at."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The exchange's own limits, per client address; none switches one off."""

    connects_per_s: float | None = 8
    connect_burst: int = 20
    rest_per_s: float | None = 10
    rest_burst: int = 15
    messages_per_s: float | None = 100
    """Messages that one client may send; one second's worth may come at once."""
    subscriptions_per_key: int | None = 10
    """Connections that may subscribe to one channel of one product."""

    @classmethod
    def none(cls) -> "Limits":
        """Return limits that limit nothing."""
        return cls(None, 0, None, 0, None, None)


@dataclass(frozen=True, slots=True)
class SimConfig:
    """Settings of one simulated exchange."""

    host: str = "127.0.0.1"
    port: int = 8900
    """0 picks a free one."""
    products: tuple[str, ...] = ("BTC-USD", "ETH-USD")
    rate: float = 50.0
    """Sequence numbers used per second, over all products: messages of the `full` channel.
    With the default `trade_share`, 100 of them carry about 20 matches and 11 tickers; and each
    product that trades sends at most 20 level2 batches and one heartbeat a second."""
    trade_share: float = 0.2
    """Share of the traders' steps that take liquidity: more of it, more matches and tickers."""
    seed: int = 1
    levels: int = 500
    """Price levels a side at the start."""
    deep: Mapping[str, int] = field(default_factory=dict)
    """Levels of single products, where they differ."""
    history_s: float = 3600.0
    """How far back the trades reach that REST knows at the start."""
    history_trades: int = 300
    """How many there are, at least, per product."""
    trades_kept: int = 100_000
    """Trades per product that REST can still page through."""
    paused: bool = False
    """Start with the market standing still, until POST /sim/resume."""
    keys: Keys = Keys()
    limits: Limits = Limits()
    subscribe_deadline_s: float = 5.0
    compression: bool = True
    """Offer permessage-deflate; a client that asks for it costs far more of our processor."""
    outbox_bytes: int = 64 * 1024 * 1024
    """What may wait for one reader before it is cut off."""
    ground_truth: Path | None = None
    """NDJSON file of everything that was said, heard or not."""
    truth_channels: frozenset[str] | None = None
    """Channels to keep in that file; none means all."""
    cassette: Path | None = None
    """Play this recording in place of the market."""
    speed: float = 1.0
    """Of the recording: 1 as it was, 0 as fast as its readers take it."""

    def listing(self) -> list[Product]:
        """Return the products.

        Raises:
            ProductError: a name that cannot be listed.
        """
        return [product(name) for name in dict.fromkeys(self.products)]
