"""The ticker feed: each message is the whole state, so it heals itself.

The venue's sequence only grows here, and its jumps prove nothing (COINBASE.md section 2). What
proves a loss: a heartbeat's trade id that no ticker has reached one heartbeat later, a record
that our own numbering misses, or a connection that was away. Then the next ticker starts a new
chain as a snapshot; the loss is announced before it.
"""

import msgspec

from models.canonical import State
from models.events import Heartbeat, Lost, Ticker, TickerMarker
from models.resync import MANUAL
from streaming.core.coverage import Coverage
from streaming.core.outputs import Outputs
from streaming.core.progress import Progress
from streaming.core.writer import Gap, Writer


class TickerCursor(msgspec.Struct):
    """What a checkpoint keeps."""

    seq: int
    trade_id: int | None
    ts_event: int
    conn: str
    progress: Progress
    suspect: bool
    fields: str
    state: State
    gap: Gap | None


class TickerFeed:
    """State of the ticker of one product."""

    __slots__ = (
        "_by_watermark",
        "_conn",
        "_coverage",
        "_fields",
        "_progress",
        "_suspect",
        "_trade_id",
        "_ts",
        "writer",
    )

    def __init__(self, venue: str, product: str, coverage: Coverage, *, by_watermark: bool) -> None:
        """Begin; `by_watermark` is false for the batched channel, which may lag a heartbeat."""
        self.writer = Writer(venue, product, "ticker")
        self._coverage = coverage
        self._by_watermark = by_watermark
        self._conn = ""
        self._trade_id: int | None = None
        self._ts = 0
        self._progress = Progress()
        self._suspect = False
        self._fields = "{}"

    def doubt(self) -> None:
        """Note that tickers may have been missed: the next one must prove that none was."""
        self._suspect = True

    def apply(self, event: Ticker, out: Outputs) -> None:
        """Take a ticker: a tick, the start of a new chain, or nothing if it is old."""
        writer, seq = self.writer, event.seq
        suspect, self._suspect = self._suspect, False
        if event.by_time and seq <= writer.seq and event.conn == self._conn:
            seq = writer.seq + 1
        self._conn = event.conn
        if event.trade_id is not None and len(self._coverage.lines) > 1:
            self._progress.note(event.conn, event.trade_id)
        counts_anew = suspect and seq < writer.seq and event.ts_event > self._ts
        if seq <= writer.seq and not counts_anew:
            # Seen before. After a doubt that is good news: nothing was missed.
            if writer.state == "stale" and writer.gap is None:
                writer.announce(out, "live", event.ts_ingest)
            return
        broken = writer.gap is not None or (suspect and not self._follows(event))
        self._trade_id, self._ts, self._fields = event.trade_id, event.ts_event, event.fields
        if not broken or writer.seq == 0:
            writer.tick(out, seq, event.ts_event, event.ts_ingest, event.fields)
            writer.announce(out, "live", event.ts_ingest)
            return
        if writer.gap is None:  # no request: this very message is the new state
            writer.open_gap(out, "lost_record", writer.seq, seq, event.ts_ingest)
        writer.snapshot(out, seq, event.ts_event, "resync", event.fields)
        writer.close_gap(out, event.ts_ingest)

    def lose(self, event: Lost, stretch: str, out: Outputs) -> None:
        """Open a gap: frames of the connection are missing, and a quiet product would not tell."""
        if self.writer.gap is None and self.writer.seq:
            request = self.writer.open_gap(
                out, "connection", self.writer.seq, None, event.ts_ingest, stretch
            )
            out.requests.append(request)

    def _follows(self, event: Ticker) -> bool:
        """Whether no trade can lie between the last ticker and this one."""
        last, new = self._trade_id, event.trade_id
        return event.seq > self.writer.seq and last is not None and new in (last, last + 1)

    def heartbeat(self, event: Heartbeat, out: Outputs) -> None:
        """Compare with the watermark; one heartbeat's delay is normal."""
        progress = self._progress
        alive = self._coverage.alive(event.ts_ingest)
        progress.keep(alive)
        due = progress.watermark(event.conn, event.last_trade_id)
        if not self._by_watermark or self._trade_id is None or self.writer.gap is not None:
            return
        if self._trade_id >= due:
            progress.hole_since = None
        elif not progress.may_come(due, alive, event.ts_ingest):
            request = self.writer.open_gap(out, "watermark", self.writer.seq, None, event.ts_ingest)
            out.requests.append(request)

    def fill(self, event: TickerMarker, out: Outputs) -> None:
        """Take the state that a recovery has fetched, if it is newer than what is known."""
        writer, ticker = self.writer, event.ticker
        wanted = writer.gap is not None or MANUAL in event.resync_id
        if not wanted or ticker.seq <= writer.seq or writer.seq == 0:
            writer.answer(out, event.resync_id, event.ts_ingest)
            return
        self._trade_id, self._ts, self._fields = ticker.trade_id, ticker.ts_event, ticker.fields
        writer.snapshot(out, ticker.seq, ticker.ts_event, "resync", ticker.fields, event.resync_id)
        gap = writer.gap
        if gap is not None:
            writer.close_gap(out, event.ts_ingest)
        if gap is None or gap.resync_id != event.resync_id:
            writer.answer(out, event.resync_id, event.ts_ingest)

    def state(self) -> str:
        """Return the newest ticker's fields."""
        return self._fields

    @property
    def ts_us(self) -> int:
        """Event time of the newest ticker."""
        return self._ts

    def cursor(self) -> TickerCursor:
        """Return what a checkpoint keeps."""
        writer = self.writer
        return TickerCursor(
            writer.seq,
            self._trade_id,
            self._ts,
            self._conn,
            self._progress,
            self._suspect,
            self._fields,
            writer.state,
            writer.gap,
        )

    def restore(self, cursor: TickerCursor) -> None:
        """Go on from a checkpoint."""
        self.writer.restore(cursor.seq, cursor.state, cursor.gap)
        self._trade_id, self._ts = cursor.trade_id, cursor.ts_event
        self._conn = cursor.conn
        self._progress, self._suspect = cursor.progress, cursor.suspect
        self._fields = cursor.fields
