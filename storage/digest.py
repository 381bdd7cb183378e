"""Digests of messages that do not depend on how they are stored.

The digest of some messages is the sum of the SHA-256 of each, modulo 2**256; each is hashed with
its position and product. So the digest of a whole is known from those of its parts, and a
compacted object can be held against the objects that it replaces.
"""

from collections.abc import Iterable
from hashlib import sha256

import numpy as np

from storage.rows import Message

_BYTES = 32
_MODULUS = 2 ** (8 * _BYTES)
_WORD_BITS = 32


def digest(messages: Iterable[Message]) -> str:
    """Return the digest of messages, as 64 hexadecimal digits."""
    hashes = b"".join(
        [
            sha256(b"%d %b\n%b" % (position, product.encode(), payload)).digest()
            for position, product, payload in messages
        ]
    )
    words = np.frombuffer(hashes, ">u4").reshape(-1, _BYTES * 8 // _WORD_BITS)
    total = 0
    for word in words.sum(axis=0, dtype=np.uint64).tolist():
        total = (total << _WORD_BITS) + word
    return _text(total)


def joined(digests: Iterable[str]) -> str:
    """Return the digest of all messages of which these are the digests, part by part."""
    return _text(sum(int(one, 16) for one in digests))


def _text(total: int) -> str:
    return f"{total % _MODULUS:0{2 * _BYTES}x}"
