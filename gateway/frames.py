"""WebSocket frames as bytes: built once, shared by every subscriber that is due one.

Server frames carry no mask and no compression (RFC 6455, 5.2), so the same bytes serve all.
Owns no connection; `fanout` hands the bytes to transports.
"""

import struct
from typing import Any, Literal

import msgspec

Op = Literal["incr", "snapshot", "status"]
"""What a frame with a canonical line in it is."""

OP_OF_TYPE: dict[str, Op] = {"tick": "incr", "snapshot": "snapshot", "status": "status"}
"""The `op` of a canonical message, by its `type`."""

_FIN_TEXT = 0x81
_SHORT, _MEDIUM = 125, 0xFFFF
_PREFIX = {op: b'{"op":"%b","data":' % op.encode() for op in OP_OF_TYPE.values()}
_DATA = b',"data":'
_TABLE_BYTES = 2048


def header(length: int, first: int = _FIN_TEXT) -> bytes:
    """Return the header of an unfragmented, unmasked text frame; `first`: its first byte."""
    if length <= _SHORT:
        return struct.pack(">BB", first, length)
    if length <= _MEDIUM:
        return struct.pack(">BBH", first, 126, length)
    return struct.pack(">BBQ", first, 127, length)


def _opening(op: Op, line_bytes: int) -> bytes:
    """Return what stands before a line of that length: header and the `op`."""
    prefix = _PREFIX[op]
    return header(len(prefix) + line_bytes + 1) + prefix


_INCR = tuple(_opening("incr", length) for length in range(_TABLE_BYTES))


def line_frame(op: Op, line: bytes) -> bytes:
    """Return the frame `{"op":<op>,"data":<line>}`; the line is taken verbatim."""
    length = len(line)
    if op == "incr" and length < _TABLE_BYTES:
        return b"%b%b}" % (_INCR[length], line)
    return b"%b%b}" % (_opening(op, length), line)


def unrecovered_frame(line: bytes) -> bytes:
    """Return the frame of a snapshot for somebody who wanted to resume and could not."""
    return _framed(b'{"op":"snapshot","recovered":false,"data":%b}' % line)


def line_of(frame: bytes) -> bytes:
    """Return the line that `line_frame` put into a frame."""
    return frame[frame.index(_DATA) + len(_DATA) : -1]


def json_frame(message: dict[str, Any]) -> bytes:
    """Return the frame of a reply."""
    return _framed(msgspec.json.encode(message))


def _framed(payload: bytes) -> bytes:
    return header(len(payload)) + payload
