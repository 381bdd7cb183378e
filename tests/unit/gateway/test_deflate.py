"""Shared compression: the same messages for every client, each compressed once."""

import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import deflate
from gateway.deflate import CACHE_BYTES, MAX_BYTES, MIN_BYTES, WINDOW_BITS, Deflater
from gateway.frames import json_frame, line_frame
from tests.gateways import tick


def messages(frames: bytes) -> list[tuple[bool, bytes]]:
    """Take joined frames apart as a client with the smallest window does; tell which were RSV1."""
    found, at = [], 0
    while at < len(frames):
        first, size, at = frames[at], frames[at + 1], at + 2
        extra = {126: 2, 127: 8}.get(size, 0)
        if extra:
            size, at = int.from_bytes(frames[at : at + extra]), at + extra
        payload, at = frames[at : at + size], at + size
        assert first in {0x81, 0xC1}
        if first == 0xC1:
            inflate = zlib.decompressobj(-WINDOW_BITS)
            payload = inflate.decompress(payload + b"\x00\x00\xff\xff")
        found.append((first == 0xC1, payload))
    return found


LONG = st.builds(str.__mul__, st.text(min_size=1, max_size=20), st.integers(0, 5000))
TEXTS = st.lists(st.text(max_size=2000) | LONG)


@given(TEXTS)
def test_deflated_frames_have_the_same_messages(texts: list[str]) -> None:
    """In order and byte for byte, whatever their sizes; and never longer."""
    frames = b"".join(json_frame({"text": text}) for text in texts)
    deflated = Deflater().deflate(frames)
    assert [json.loads(text)["text"] for _, text in messages(deflated)] == texts
    assert len(deflated) <= len(frames)


def test_canonical_tick_gets_shorter_and_a_short_reply_stays() -> None:
    """Where compression does not pay, the message is as it was."""
    incr, pong = line_frame("incr", tick(1)), json_frame({"op": "pong", "id": None})
    (packed, _), (plain, _) = messages(Deflater().deflate(incr + pong))
    assert (packed, plain) == (True, False)
    assert len(pong) < MIN_BYTES


def test_message_is_compressed_once_for_groups_and_members(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Members of a group are given the same bytes; a message that another group had is known."""
    packed: list[bytes] = []
    once = deflate._deflated

    def counting(frame: bytes) -> bytes:
        packed.append(frame)
        return once(frame)

    monkeypatch.setattr(deflate, "_deflated", counting)
    deflater = Deflater()
    first, second, third = (line_frame("incr", tick(seq)) for seq in (1, 2, 3))
    blob = first + second
    assert deflater.deflate(blob) is deflater.deflate(blob)
    deflater.deflate(second + third)
    deflater.deflate(b"".join([third]))
    assert packed == [first, second, third]


def test_much_at_once_stays_plain() -> None:
    """Nobody waits for the compression of a long past."""
    frames = line_frame("incr", tick(1)) * (MAX_BYTES // 200)
    assert Deflater().deflate(frames) is frames


def test_memory_is_bounded_and_what_is_new_stays_known() -> None:
    """However many messages come by."""
    deflater = Deflater()
    frames = [line_frame("incr", tick(seq)) for seq in range(60_000)]
    for frame in frames:
        deflater.deflate(frame)
    kept = {**deflater._old, **deflater._new}
    used = sum(len(frame) + len(packed) for frame, packed in kept.items())
    assert CACHE_BYTES / 4 < used <= CACHE_BYTES
    assert frames[0] not in kept
    assert all(frame in kept for frame in frames[-1000:])
