"""Exact decimals between numpy, Arrow and text.

A number is a DECIMAL(18, 8), for queries, and the count of decimal places with which the venue
wrote it, so that `0.50` comes back as `0.50`.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.scan import INTEGER_DIGITS, PLACES, Ints

DECIMAL = pa.decimal128(INTEGER_DIGITS + PLACES, PLACES)

_TEN = 10 ** np.arange(PLACES + 1, dtype=np.int64)


def decimal_array(values: Ints) -> pa.Array:
    """Return numbers from their values times 10**8; none may be negative."""
    halves = np.zeros((len(values), 2), np.int64)
    halves[:, 0] = values
    return pa.Array.from_buffers(DECIMAL, len(values), [None, pa.py_buffer(halves)])


def decimal_text(numbers: pa.Array, places: pa.Array) -> pa.Array:
    """Spell numbers, none of them null, with as many decimal places as are given for each."""
    halves = np.frombuffer(numbers.buffers()[1], np.int64).reshape(-1, 2)
    value = halves[numbers.offset : numbers.offset + len(numbers), 0]
    sent = places.to_numpy(zero_copy_only=False)
    whole, part = np.divmod(value, _TEN[PLACES])
    # A one in front keeps the zeros after the point, and is cut off again.
    marked = pa.array(part // _TEN[PLACES - sent] + _TEN[sent])
    digits = pc.utf8_slice_codeunits(pc.cast(marked, pa.string()), 1)
    point = pa.array(["", "."]).take(pa.array((sent > 0).astype(np.int8)))
    return pc.binary_join_element_wise(pc.cast(pa.array(whole), pa.string()), point, digits, "")
