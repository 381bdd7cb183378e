"""permessage-deflate (RFC 7692), shared: a message is compressed once, for every client at once.

That is possible because each message is compressed by itself (server_no_context_takeover) and
with the smallest window, which every client's offer allows. Takes frames as `frames` builds them
and gives others for the same messages; where that does not pay they stay as they are, which is
legal for each message.
"""

import zlib

from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory

from gateway.frames import header

LEVEL, WINDOW_BITS, MEM_LEVEL = 6, 9, 5
"""Measured over recorded lines (ARCHITECTURE.md): a larger window makes nothing smaller."""

MIN_BYTES = 128
"""A shorter frame hardly gets smaller."""

MAX_BYTES = 512 * 1024
"""More than this at once, such as a long past or a very deep book, stays as it is: compressing it
would keep the event loop for more than 20 ms."""

CACHE_BYTES = 16 * 1024**2
"""Frames that are kept with their compressed form, at most."""

OFFER_ANSWER = ServerPerMessageDeflateFactory(
    server_no_context_takeover=True,
    # Without this each client would need a window of its own here.
    client_no_context_takeover=True,
)
"""How an offer of a client is answered."""

_FIN_TEXT_RSV1 = 0xC1
_SYNC_MARK = b"\x00\x00\xff\xff"


class Deflater:
    """Compresses frames and keeps what it has compressed, the newest half of the bound at least."""

    def __init__(self) -> None:
        self._last: tuple[bytes, bytes] = (b"", b"")
        self._new: dict[bytes, bytes] = {}
        self._old: dict[bytes, bytes] = {}
        self._new_bytes = 0

    def deflate(self, frames: bytes) -> bytes:
        """Return joined frames with the same messages, compressed where that pays."""
        if len(frames) > MAX_BYTES:
            return frames
        last, deflated = self._last
        if frames is last:  # the next member of the same group
            return deflated
        deflated = b"".join(map(self._frame, _cut(frames)))
        self._last = (frames, deflated)
        return deflated

    def _frame(self, frame: bytes) -> bytes:
        if len(frame) < MIN_BYTES:
            return frame
        found = self._new.get(frame)
        if found is None:
            found = self._old.get(frame) or _deflated(frame)
            self._keep(frame, found)
        return found

    def _keep(self, frame: bytes, deflated: bytes) -> None:
        self._new[frame] = deflated
        self._new_bytes += len(frame) + len(deflated)
        if self._new_bytes > CACHE_BYTES // 2:
            self._old, self._new, self._new_bytes = self._new, {}, 0


def _cut(frames: bytes) -> list[bytes]:
    """Return joined frames one by one."""
    cut, at = [], 0
    while at < len(frames):
        start, size = _payload(frames, at)
        cut.append(frames[at : start + size])
        at = start + size
    return cut


def _payload(frames: bytes, at: int) -> tuple[int, int]:
    """Return where the payload of the frame at a place begins, and its size."""
    size, start = frames[at + 1], at + 2
    if size <= 125:  # noqa: PLR2004  # RFC 6455, 5.2
        return start, size
    end = start + (2 if size == 126 else 8)  # noqa: PLR2004
    return end, int.from_bytes(frames[start:end])


def _deflated(frame: bytes) -> bytes:
    """Return the compressed frame of the same message, or this one if it is not longer."""
    start, _ = _payload(frame, 0)
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, -WINDOW_BITS, MEM_LEVEL)
    packed = packer.compress(memoryview(frame)[start:]) + packer.flush(zlib.Z_SYNC_FLUSH)
    packed = packed.removesuffix(_SYNC_MARK)  # as RFC 7692, 7.2.1 says
    deflated = header(len(packed), _FIN_TEXT_RSV1) + packed
    return deflated if len(deflated) < len(frame) else frame
