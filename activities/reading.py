"""Reading a product's canonical log: its chain across a gap, and its newest print.

Pure but for `newest_trade_id`. The chain rule is `models.canonical`'s; subscribers check the
same one with `client.chain`.
"""

from contextlib import aclosing

import msgspec

from models.canonical import Feed
from models.checkpoint import decode_checkpoint
from models.recovery import Verified, Verify
from models.subjects import product_of, state_subject
from streaming.broker.jetstream import JetStreamLog


class _Line(msgspec.Struct, frozen=True):
    """The part of a canonical line that the chain needs; levels of books are not decoded."""

    type: str
    feed: Feed
    seq: int = 0
    prev_seq: int = 0
    resync_id: str | None = None
    fields: msgspec.Raw = msgspec.Raw()
    state: msgspec.Raw = msgspec.Raw()
    gap: msgspec.Raw = msgspec.Raw(b"null")


class _Id(msgspec.Struct, frozen=True):
    id: int


class _Print(msgspec.Struct, frozen=True):
    last_trade: _Id | None = None


_decode_lines = msgspec.json.Decoder(_Line).decode_lines
_decode_print = msgspec.json.Decoder(_Print).decode


class ChainReader:
    """Takes the canonical lines of one product in order and checks one feed's chain."""

    def __init__(self, stretch: Verify) -> None:
        self._stretch = stretch
        self._seq: int | None = None
        self._id: int | None = None
        self._problem: str | None = None
        self._open = False
        self._links = self._filled = self._replayed = 0
        self._snapshots = self._closed = 0

    def take(self, payload: bytes) -> None:
        """Take one NDJSON payload."""
        for line in _decode_lines(payload):
            if line.feed != self._stretch.feed:
                continue
            if line.type == "tick":
                self._tick(line)
            elif line.type == "snapshot":
                self._snapshot(line)
            else:
                self._status(line)

    def _status(self, line: _Line) -> None:
        state = bytes(line.state)
        if state == b'"live"' and bytes(line.gap) != b"null":
            self._closed += 1
        if line.resync_id == self._stretch.resync_id:
            self._open = state != b'"live"'

    def _snapshot(self, line: _Line) -> None:
        self._seq, self._id = line.seq, None
        if self._stretch.feed == "trades":
            self._id = _trade_id(line.state)
        if line.resync_id == self._stretch.resync_id:
            self._snapshots += 1
            self._open = True

    def _tick(self, line: _Line) -> None:
        if self._seq is not None:
            if line.prev_seq == self._seq:
                self._links += 1
            else:
                self._fail(f"tick {line.seq} links to {line.prev_seq}, not to {self._seq}")
        self._seq = line.seq
        trade_id = _trade_id(line.fields) if self._stretch.feed == "trades" else None
        if trade_id is not None:
            self._print(trade_id)
        if self._open and not self._is_lost(trade_id):
            self._replayed += 1

    def _print(self, trade_id: int) -> None:
        after = self._stretch.after
        expected = self._id + 1 if self._id is not None else trade_id
        if self._id is None and after is not None and trade_id > after + 1:
            expected = after + 1
        if trade_id != expected:
            self._fail(f"print {trade_id} came where {expected} was due")
        self._id = trade_id
        self._filled += self._is_lost(trade_id)

    def _is_lost(self, trade_id: int | None) -> bool:
        after, before = self._stretch.after, self._stretch.before
        if trade_id is None or after is None or before is None:
            return False
        return after < trade_id < before

    def _fail(self, problem: str) -> None:
        self._problem = self._problem or problem

    def problem(self) -> str | None:
        """Return the first thing that does not fit, or none."""
        stretch = self._stretch
        where = f"MD_TICKS {stretch.first + 1} to {stretch.last}"
        before = stretch.before
        if self._problem is None and stretch.feed == "trades" and before is not None:
            reached = self._id
            if reached is not None and reached < before - 1:
                self._fail(f"prints end at {reached}, but {before - 1} was lost as well")
        return None if self._problem is None else f"{where}: {self._problem}"

    def verified(self) -> Verified:
        """Return what was counted."""
        return Verified(
            links=self._links,
            filled=self._filled,
            replayed=self._replayed,
            snapshots=self._snapshots,
            closed=self._closed,
        )


def _trade_id(fields: bytes) -> int | None:
    last = _decode_print(fields).last_trade
    return None if last is None else last.id


async def newest_trade_id(
    log: JetStreamLog, ticks: str, state: str, subject: str, upto: int
) -> int | None:
    """Return the id of a product's newest canonical print up to a position, or none.

    From the checkpoint on, because the newest message need not hold a print.
    """
    shard = subject.split(".")[2]
    venue, product = product_of(subject)
    saved = await log.last(state, state_subject(shard, venue, product))
    newest, position = None, 0
    if saved is not None:
        checkpoint = decode_checkpoint(saved.payload, saved.headers)
        position = checkpoint.ticks_seq
        newest = _newest_in(b"\n".join(bytes(line) for line in checkpoint.messages), None)
    if position >= upto:
        return newest
    async with aclosing(log.read(ticks, subject, after=position)) as messages:
        async for message in messages:
            newest = _newest_in(message.payload, newest)
            if message.seq >= upto:
                break
    return newest


def _newest_in(payload: bytes, newest: int | None) -> int | None:
    if b'"trades"' not in payload:
        return newest
    for line in _decode_lines(payload):
        if line.feed == "trades" and line.type != "status":
            trade_id = _trade_id(line.fields if line.type == "tick" else line.state)
            newest = trade_id if trade_id is not None else newest
    return newest
