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
        msgspec.DecodeError: it is none.
    """
    if headers.get(ENCODING_HEADER) == "zlib":
        payload = zlib.decompress(payload)
    return _decode(payload)
