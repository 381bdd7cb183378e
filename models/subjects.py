"""Where each kind of message lives: stream names, subjects and the shard of a product.

Both ends of every stream use these functions and no string of their own. Subjects begin with
`market`; those of a replay with the name of its namespace, so that it never meets live data.
"""

import re
import string
import zlib
from dataclasses import dataclass
from typing import Self
from urllib.parse import unquote

LIVE = "market"
"""First token of the live data's subjects."""

NAMESPACE_PATTERN = "^replay-[a-z0-9][a-z0-9-]{0,40}$"
"""What the namespace of a replay looks like, as a regular expression."""

_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}").fullmatch
_NAMESPACE = re.compile(NAMESPACE_PATTERN).fullmatch

_PLAIN = frozenset(f"{string.ascii_letters}{string.digits}-")

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
        """Return the pattern of all products' subjects of a kind: `raw`, `ticks` or `state`.

        Whatever else somebody publishes below that kind is not among them.
        """
        return f"{self.root}.{kind}.*.*.*"

    def of_shard(self, kind: str, shard: int, venue: str) -> str:
        """Return the pattern of one shard's subjects of a kind: what its normalizer reads."""
        return f"{self.root}.{kind}.{shard}.{token(venue)}.*"

    def tree(self, kind: str) -> str:
        """Return the pattern of all that can be published of a kind, as a stream takes it."""
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

    @property
    def derivatives(self) -> str:
        """Futures and options out of DBN files; it exists only where such files are replayed."""
        return f"{self.prefix}_DERIVATIVES"


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


def derivatives_subject(kind: str, feed: str, venue: str, product: str, root: str = LIVE) -> str:
    """Return `<root>.<kind>.<feed>.<venue>.<product>`; any name of venue and product can be used.

    `kind`: futures or options. `unescaped` gives the names back.
    """
    return f"{root}.{token(kind)}.{token(feed)}.{escaped(venue)}.{escaped(product)}"


def escaped(name: str) -> str:
    """Return any name as one token, each byte that is no letter, digit or `-` as `_` and its hex.

    Two names never give the same token. Used where venues name their products freely, such as
    `ESH1 C3500` or `GLBX.MDP3`.
    """
    return "".join(chr(byte) if chr(byte) in _PLAIN else f"_{byte:02X}" for byte in name.encode())


def unescaped(escaped_name: str) -> str:
    """Return the name that `escaped` made a token of."""
    as_percent = escaped_name.replace("_", "%")
    return unquote(as_percent, errors="strict")


def product_of(subject: str) -> tuple[str, str]:
    """Return (venue, product) of a raw, ticks or state subject."""
    _, _, _, venue, product = subject.split(".")
    return venue, product
