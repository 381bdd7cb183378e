"""A product's checkpoint: what MD_STATE holds, one message per product, the newest only.

The normalizer writes it and goes on from it; the gateway warms up from it. It may lag behind
without harm: whoever loads it reads the log from its positions on.
"""

import zlib
from collections.abc import Mapping

import msgspec

ENCODING_HEADER = "LF-Encoding"
"""`zlib` when the payload is compressed: deep books exceed a message otherwise."""

_COMPRESS_ABOVE_BYTES = 1024**2


class Checkpoint(msgspec.Struct):
    """State of one product between two records.

    `raw_seq`: everything of the product in MD_RAW up to here is part of it. `ticks_seq`: so is
    everything of the product in MD_TICKS up to here, and nothing after. `messages`: canonical
    snapshot and status lines that restore the latest state of each feed (a feed that is absent
    has never had a message). `cursors`: the normalizer's own counters.
    """

    venue: str
    product: str
    raw_seq: int
    ticks_seq: int
    messages: list[msgspec.Raw]
    cursors: msgspec.Raw
    v: int = 1


_MAX_BYTES = 256 * 1024**2
"""What a checkpoint may unpack to; one with 100,000 levels has 3 MB."""

_decode = msgspec.json.Decoder(Checkpoint).decode


def encode_checkpoint(checkpoint: Checkpoint) -> tuple[bytes, dict[str, str]]:
    """Return payload and headers."""
    payload = msgspec.json.encode(checkpoint)
    if len(payload) <= _COMPRESS_ABOVE_BYTES:
        return payload, {}
    return zlib.compress(payload, 1), {ENCODING_HEADER: "zlib"}


def decode_checkpoint(payload: bytes, headers: Mapping[str, str]) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        msgspec.DecodeError: it is none, however it is damaged.
    """
    try:
        if headers.get(ENCODING_HEADER) == "zlib":
            payload = _unpacked(payload)
        return _decode(payload)
    except (zlib.error, UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(f"{type(error).__name__}: {error}") from error


def _unpacked(payload: bytes) -> bytes:
    unpacking = zlib.decompressobj()
    unpacked = unpacking.decompress(payload, _MAX_BYTES)
    if not unpacking.eof:
        raise msgspec.DecodeError(f"is cut, or unpacks to more than {_MAX_BYTES:,} bytes")
    return unpacked
