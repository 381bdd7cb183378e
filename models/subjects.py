"""Where each kind of message lives: stream names, subjects and the shard of a product.

Both ends of every stream use these functions and no string of their own. Subjects begin with
`market`; those of a replay with the name of its namespace, so that it never meets live data.
"""

import re
import zlib
from dataclasses import dataclass
from typing import Self

LIVE = "market"
"""First token of the live data's subjects."""

_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}").fullmatch
_NAMESPACE = re.compile(r"replay-[a-z0-9][a-z0-9-]{0,40}").fullmatch

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


class NamespaceError(SubjectError):
    """A name that no replay can have. Attributes: name, the offending text."""

    def __init__(self, name: str) -> None:
        ValueError.__init__(
            self,
            f"{name!r} is no namespace of a replay: use `replay-` and 1 to 41 small letters, "
            "digits or '-', such as replay-monday",
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
    """Names of the streams of one installation, or of one replay.

    `prefix`: JS_STREAM_NAME, or a replay's namespace. `root`: first token of every subject.
    """

    prefix: str = "MD"
    root: str = LIVE

    @classmethod
    def of_replay(cls, namespace: str) -> Self:
        """Return the streams of a replay.

        Raises:
            NamespaceError: it is not `replay-` and up to 41 small letters, digits or `-`.
        """
        if not _NAMESPACE(namespace):
            raise NamespaceError(namespace)
        return cls(namespace, namespace)

    def every(self, kind: str) -> str:
        """Return the pattern of all subjects of a kind: `raw`, `ticks`, `state` and so on."""
        return f"{self.root}.{kind}.>"

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


def raw_subject(shard: int | str, venue: str, product: str, root: str = LIVE) -> str:
    """Return `<root>.raw.<shard>.<venue>.<product>`."""
    return f"{root}.raw.{shard}.{token(venue)}.{token(product)}"


def ticks_subject(shard: int | str, venue: str, product: str, root: str = LIVE) -> str:
    """Return `<root>.ticks.<shard>.<venue>.<product>`."""
    return f"{root}.ticks.{shard}.{token(venue)}.{token(product)}"


def state_subject(shard: int | str, venue: str, product: str, root: str = LIVE) -> str:
    """Return `<root>.state.<shard>.<venue>.<product>`."""
    return f"{root}.state.{shard}.{token(venue)}.{token(product)}"


def resync_subject(venue: str, product: str, root: str = LIVE) -> str:
    """Return `<root>.resync.<venue>.<product>`."""
    return f"{root}.resync.{token(venue)}.{token(product)}"


def dead_subject(venue: str, reason: str, root: str = LIVE) -> str:
    """Return `<root>.dead.<venue>.<reason>`."""
    return f"{root}.dead.{token(venue)}.{token(reason)}"


def product_of(subject: str) -> tuple[str, str]:
    """Return (venue, product) of a raw, ticks or state subject."""
    _, _, _, venue, product = subject.split(".")
    return venue, product
