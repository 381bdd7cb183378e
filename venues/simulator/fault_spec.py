"""What can be injected: the kinds of faults and their parameters, as POST /sim/faults takes them.

What each does is in `faults`.
"""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from venues.simulator.advanced_channels import CHANNELS as ADVANCED_CHANNELS
from venues.simulator.channels import canonical
from venues.simulator.garbage import Variant

Kind = Literal[
    "drop",
    "duplicate",
    "reorder",
    "disconnect",
    "stall",
    "malformed",
    "garbage",
    "delist",
    "rest_slow",
    "rest_429",
    "rest_500",
    "rest_timeout",
    "rest_stale_book",
]

STREAM_KINDS = frozenset({"drop", "duplicate", "reorder", "stall", "malformed", "garbage"})
"""Kinds that act on messages."""
REST_KINDS = frozenset({"rest_slow", "rest_429", "rest_500", "rest_timeout", "rest_stale_book"})
"""Kinds that act on REST answers."""
_ENDLESS = frozenset({"delist", "disconnect"})

Endpoint = Literal["products", "product", "book", "ticker", "trades", "candles", "stats", "time"]


class FaultSpec(BaseModel):
    """What to inject; each absent filter matches everything.

    `count` messages or answers are hit (1 unless `duration_ms` is given), after `skip` others
    that match have passed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    product: str | None = None
    channel: str | None = None
    type: str | None = None
    """Message type, such as l2update (on Advanced Trade the frame's `channel`, such as l2_data);
    must be given to hit what comes with an acknowledgement."""
    conn: int | None = None
    """Number of one connection, as GET /sim/status lists them."""
    count: int | None = Field(None, ge=1)
    skip: int = Field(0, ge=0)
    duration_ms: int | None = Field(None, ge=1)
    """The fault ends by itself after this time; a stall needs it."""
    variant: Variant | None = None
    """Of garbage; without it they take turns."""
    replace: bool = False
    """Malformed and garbage frames come in place of the message, not before it."""
    hold: bool = False
    """A stall delivers at its end what it held back, in place of losing it."""
    code: int | None = Field(None, ge=1000, le=4999)
    """Close code of a disconnect; without it the connection breaks without a word."""
    endpoint: Endpoint | None = None
    """Of REST faults."""
    delay_ms: int = Field(1000, ge=0)
    """Of rest_slow."""
    status: int = Field(500, ge=500, le=599)
    """Of rest_500."""
    retry_after_s: int = Field(1, ge=0)
    """Of rest_429."""
    stale_ms: int | None = Field(None, ge=0)
    """Oldest book that rest_stale_book answers with; without it, the one of the injection."""

    @field_validator("channel")
    @classmethod
    def _channel(cls, value: str | None) -> str | None:
        if value is None:
            return None
        name = value if value in ADVANCED_CHANNELS else canonical(value)
        if name is None:
            raise ValueError(f"{value!r} is not a channel")
        return name

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.kind == "stall" and self.duration_ms is None:
            raise ValueError("a stall needs duration_ms")
        if self.kind == "delist" and self.product is None:
            raise ValueError("delist needs a product")
        return self

    @property
    def budget(self) -> int | None:
        """How many hits there may be; none means until it ends or is cleared."""
        if self.count is not None or self.kind in _ENDLESS or self.duration_ms is not None:
            return self.count
        return 1
