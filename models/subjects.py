"""Where each kind of message lives: stream names, subjects and the shard of a product.

The layout is DESIGN.md's table; both ends of every stream use these functions and no string
of their own.
"""

import re
import zlib
from dataclasses import dataclass

_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}").fullmatch

META_PRODUCT = "_"
"""Stands in a raw subject for frames that belong to no product: acks, errors, venue status."""


class SubjectError(ValueError):
    """A venue or product name that cannot be part of a subject.

    Attributes: name, the offending text.
    """

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name!r} cannot be used in a subject: use 1 to 64 letters, digits, '-' or '_'"
        )
        self.name = name


def token(name: str) -> str:
    """Return the name if it can stand as one token of a subject.

    Raises:
        SubjectError: it holds a dot, a space, a wildcard or anything else that NATS would read.
    """
    if not _TOKEN(name):
        raise SubjectError(name)
    return name


def shard_of(venue: str, product: str, shard_count: int) -> int:
    """Return the shard of a product: stable over processes, machines and versions."""
    return zlib.crc32(f"{venue}/{product}".encode()) % shard_count


@dataclass(frozen=True, slots=True)
class Streams:
    """Names of the streams of one installation; the prefix is JS_STREAM_NAME."""

    prefix: str = "MD"

    @property
    def raw(self) -> str:
        """Verbatim venue frames and resync markers."""
        return f"{self.prefix}_RAW"

    @property
    def ticks(self) -> str:
        """Canonical messages."""
        return f"{self.prefix}_TICKS"

    @property
    def resync(self) -> str:
        """Work queue of resync requests."""
        return f"{self.prefix}_RESYNC"

    @property
    def state(self) -> str:
        """Last checkpoint of each product, one message per subject."""
        return f"{self.prefix}_STATE"

    @property
    def dead(self) -> str:
        """Frames that could not be understood, with the reason."""
        return f"{self.prefix}_DEAD"


def raw_subject(shard: int | str, venue: str, product: str) -> str:
    """Return `market.raw.<shard>.<venue>.<product>`."""
    return f"market.raw.{shard}.{token(venue)}.{token(product)}"


def ticks_subject(shard: int | str, venue: str, product: str) -> str:
    """Return `market.ticks.<shard>.<venue>.<product>`."""
    return f"market.ticks.{shard}.{token(venue)}.{token(product)}"


def state_subject(shard: int | str, venue: str, product: str) -> str:
    """Return `market.state.<shard>.<venue>.<product>`."""
    return f"market.state.{shard}.{token(venue)}.{token(product)}"


def resync_subject(venue: str, product: str) -> str:
    """Return `market.resync.<venue>.<product>`."""
    return f"market.resync.{token(venue)}.{token(product)}"


def dead_subject(venue: str, reason: str) -> str:
    """Return `market.dead.<venue>.<reason>`."""
    return f"market.dead.{token(venue)}.{token(reason)}"


def product_of(subject: str) -> tuple[str, str]:
    """Return (venue, product) of a raw, ticks or state subject."""
    _, _, _, venue, product = subject.split(".")
    return venue, product
