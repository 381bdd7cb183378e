"""The trades feed: every print once, in order, or a gap that says which are missing.

Trade ids are contiguous per product, so a jump is a loss. Where the full channel feeds the
product its contiguous sequence is watched as well, and heartbeats tell of prints that never
came. While a gap is open later prints are held, within bounds; late arrivals may still close it.
"""

from collections.abc import Iterable

import msgspec

from models.canonical import State
from models.events import Heartbeat, OrderMessage, Trade, TradesMarker
from models.resync import GapReason
from streaming.core.coverage import Coverage
from streaming.core.gate import SequenceGate
from streaming.core.hold import Hold
from streaming.core.outputs import Outputs
from streaming.core.progress import Progress
from streaming.core.writer import Gap, Writer


class TradesCursor(msgspec.Struct):
    """What a checkpoint keeps. There is none while prints are held."""

    seq: int
    ids: SequenceGate | None
    orders: SequenceGate | None
    ts_event: int
    id_progress: Progress
    order_progress: Progress
    overflow_from: int | None
    fields: str
    state: State
    gap: Gap | None


class TradesFeed:
    """State of the trades of one product."""

    __slots__ = (
        "_coverage",
        "_emitted",
        "_fields",
        "_held",
        "_held_from",
        "_hold",
        "_id_progress",
        "_ids",
        "_order_progress",
        "_orders",
        "_overflow_from",
        "_ts",
        "writer",
    )

    def __init__(self, venue: str, product: str, hold: Hold, coverage: Coverage) -> None:
        self.writer = Writer(venue, product, "trades")
        self._coverage = coverage
        self._hold = hold
        self._ids: SequenceGate | None = None
        self._orders: SequenceGate | None = None
        self._emitted = 0
        self._held: dict[int, Trade] = {}
        self._held_from: int | None = None
        self._overflow_from: int | None = None
        self._id_progress = Progress()
        self._order_progress = Progress()
        self._ts = 0
        self._fields = "{}"

    @property
    def holding(self) -> bool:
        """Whether prints are held that are nowhere else but in the log."""
        return bool(self._held)

    def apply(self, event: Trade, position: int, out: Outputs) -> None:
        """Take a print; `position` is its record's place in MD_RAW."""
        if event.is_last and self._starts_chain(event):
            self._start_chain(event, out)
            return
        ids = self._ids
        if ids is None:
            self._emitted = event.trade_id - 1
            ids = self._ids = SequenceGate(self._emitted, self._emitted)
        orders = self._orders
        if len(self._coverage.lines) > 1:
            self._id_progress.note(event.conn, event.trade_id)
            self._order_progress.note(event.conn, event.seq)
        if orders is not None and not event.is_last:
            orders.offer(event.seq)
        if self._overflow_from is not None:
            ids.require(event.trade_id)
        elif ids.offer(event.trade_id):
            if self.writer.gap is None and not ids.open and (orders is None or not orders.open):
                self._emit(event, out)
            else:
                if self._held_from is None:
                    self._held_from = position
                self._held[event.trade_id] = event
        self._settle(event.ts_ingest, out)

    def order(self, event: OrderMessage, out: Outputs) -> None:
        """Take a message of the full channel that is no print."""
        if len(self._coverage.lines) > 1:
            self._order_progress.note(event.conn, event.seq)
        if self._orders is None:
            self._orders = SequenceGate(event.seq, event.seq)
        elif self._orders.offer(event.seq):
            self._settle(event.ts_ingest, out)

    def heartbeat(self, event: Heartbeat, out: Outputs) -> None:
        """Compare with the watermarks; one heartbeat's delay is normal."""
        due_id = self._id_progress.watermark(event.conn, event.last_trade_id)
        due_seq = self._order_progress.watermark(event.conn, event.seq)
        if self._ids is not None and self.writer.seq:
            self._ids.require(due_id)
        if self._orders is not None:
            self._orders.require(due_seq)
        self._settle(event.ts_ingest, out)

    def fill(self, event: TradesMarker, out: Outputs) -> None:
        """Take prints that a recovery has fetched; what is still missing stays missing."""
        for trade in event.trades:
            self._take_late(trade)
        if self._overflow_from is not None and event.last:
            out.reread = self._held_from = self._overflow_from
            self._overflow_from = None

    def refill(self, trades: Iterable[Trade], out: Outputs) -> None:
        """Take what was let go once more, from the log."""
        for trade in trades:
            self._take_late(trade)
        self._release(out)

    def finish(self, event: TradesMarker, out: Outputs) -> None:
        """Close the gap if the marker and the log together have filled it; answer the marker."""
        ids, orders, gap = self._ids, self._orders, self.writer.gap
        if event.last and orders is not None and orders.open and ids is not None and not ids.open:
            # The venue's history holds every print: what is missing of the sequence was none.
            self._orders = SequenceGate(orders.top, orders.top)
        # The history may be ahead of the feed, gap or not.
        self._release(out)
        if event.accept_loss and event.last:
            self._accept_loss(event.resync_id, out)
        self._settle(event.ts_ingest, out)
        closed = gap is not None and self.writer.gap is not gap
        if event.last and not (closed and gap is not None and gap.resync_id == event.resync_id):
            self.writer.answer(out, event.resync_id, event.ts_ingest)

    def _accept_loss(self, resync_id: str, out: Outputs) -> None:
        """Begin a new chain behind each hole that is left."""
        ids, orders, writer = self._ids, self._orders, self.writer
        if orders is not None:
            self._orders = SequenceGate(orders.top, orders.top)
        self._release(out)
        while ids is not None and ids.open:
            behind = ids.skip()
            trade, seq = self._held.pop(behind, None), writer.seq + 1
            if trade is not None:  # none: nothing has come behind the last hole
                self._ts, self._fields = trade.ts_event, trade.fields
                seq = max(trade.seq, seq)
            writer.snapshot(out, seq, self._ts, "resync", self._fields, resync_id)
            self._emitted = behind if trade is not None else ids.last
            self._release(out)

    def _take_late(self, trade: Trade) -> None:
        """Note a print that may have been missing."""
        if self._ids is not None and self._ids.offer(trade.trade_id):
            self._held[trade.trade_id] = trade

    def _starts_chain(self, event: Trade) -> bool:
        """Whether the venue's newest print begins a chain: the first ever, or counted anew."""
        ids = self._ids
        return ids is None or (event.trade_id < ids.last and event.ts_event > self._ts)

    def _start_chain(self, event: Trade, out: Outputs) -> None:
        self._emitted = event.trade_id
        self._ids = SequenceGate(event.trade_id, event.trade_id)
        self._orders, self._overflow_from = None, None
        self._id_progress, self._order_progress = Progress(), Progress()
        self._held.clear()
        self._held_from = None
        self._ts, self._fields = event.ts_event, event.fields
        self.writer.snapshot(out, event.seq, event.ts_event, "subscribe", event.fields)
        if self.writer.gap is not None:
            self.writer.close_gap(out, event.ts_ingest)
        self.writer.announce(out, "live", event.ts_ingest)

    def _emit(self, event: Trade, out: Outputs) -> None:
        self._ts, self._fields, self._emitted = event.ts_event, event.fields, event.trade_id
        writer = self.writer
        seq = event.seq if event.seq > writer.seq else writer.seq + 1
        writer.tick(out, seq, event.ts_event, event.ts_ingest, event.fields)

    def _settle(self, now_us: int, out: Outputs) -> None:
        """Bring the gap's state in line with what is missing."""
        ids, orders, writer = self._ids, self._orders, self.writer
        missing = (ids is not None and ids.open) or (orders is not None and orders.open)
        if not missing:
            self._id_progress.hole_since = self._order_progress.hole_since = None
        if not missing and writer.gap is None:
            if self._held:  # another line brought what one had skipped
                self._release(out)
            if writer.state == "stale":
                writer.announce(out, "live", now_us)
            return
        self._release(out)
        if not missing:
            self._overflow_from = None
            writer.close_gap(out, now_us)
            return
        self._note_gap(now_us, out)
        self._bound(now_us)

    def _release(self, out: Outputs) -> None:
        """Emit held prints that nothing is missing before."""
        if self._orders is not None and self._orders.open:
            return
        held, last = self._held, self._ids.last if self._ids is not None else 0
        for trade_id in sorted(trade_id for trade_id in held if trade_id <= last):
            self._emit(held.pop(trade_id), out)
        if not held:
            self._held_from = None

    def _note_gap(self, now_us: int, out: Outputs) -> None:
        """Open a gap, unless the one that is open is still the first hole."""
        reason, gate = self._hole()
        gap = self.writer.gap
        if gap is not None:
            same_numbering = (gap.reason == "sequence") == (reason == "sequence")
            if not same_numbering or gap.before is None or gate.last < gap.before:
                return
            self.writer.close_gap(out, now_us)
        elif self._may_come(gate, now_us):
            return
        request = self.writer.open_gap(out, reason, gate.last, gate.next_seen, now_us)
        out.requests.append(request)

    def _may_come(self, gate: SequenceGate, now_us: int) -> bool:
        """Whether another line may still bring what this one has skipped."""
        alive = self._coverage.alive(now_us)
        progress = self._id_progress if gate is self._ids else self._order_progress
        progress.keep(alive)
        return progress.may_come(gate.next_seen, alive, now_us)

    def _hole(self) -> tuple[GapReason, SequenceGate]:
        orders, ids = self._orders, self._ids
        if orders is not None and orders.open:
            return "sequence", orders
        assert ids is not None  # noqa: S101  # `_settle` found one of the two open
        return ("trade_id" if ids.ahead else "watermark"), ids

    def _bound(self, now_us: int) -> None:
        """Keep only the raw position when too much or for too long was held."""
        gap = self.writer.gap
        held_us = now_us - gap.since if gap is not None else 0
        if len(self._held) <= self._hold.messages and held_us <= self._hold.time_us:
            return
        if self._overflow_from is None:
            self._overflow_from = self._held_from
        self._held_from = None
        self._held.clear()
        if self._ids is not None:
            self._ids.rewind(self._emitted)
        if self._orders is not None:
            self._orders.rewind(self._orders.last)

    def doubt(self) -> None:
        """Count prints that were seen and not emitted as missing: the next one shows the hole."""
        if self._ids is not None and self.writer.gap is None and not self._held:
            self._ids.rewind(self._emitted)

    def state(self) -> str:
        """Return the newest print's fields."""
        return self._fields

    @property
    def ts_us(self) -> int:
        """Event time of the newest print."""
        return self._ts

    def cursor(self) -> TradesCursor:
        """Return what a checkpoint keeps."""
        writer = self.writer
        return TradesCursor(
            writer.seq,
            self._ids,
            self._orders,
            self._ts,
            self._id_progress,
            self._order_progress,
            self._overflow_from,
            self._fields,
            writer.state,
            writer.gap,
        )

    def restore(self, cursor: TradesCursor) -> None:
        """Go on from a checkpoint."""
        self.writer.restore(cursor.seq, cursor.state, cursor.gap)
        self._ids, self._orders, self._ts = cursor.ids, cursor.orders, cursor.ts_event
        self._id_progress, self._order_progress = cursor.id_progress, cursor.order_progress
        # Nothing was held when the checkpoint was taken, so all that was seen had been emitted.
        self._emitted = cursor.ids.last if cursor.ids is not None else 0
        self._overflow_from, self._fields = cursor.overflow_from, cursor.fields
