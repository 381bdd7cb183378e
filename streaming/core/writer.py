"""Renders the canonical lines of one product and feed, and keeps their chain.

The only place where canonical messages are spelled. Text instead of an encoder because prices
must keep the venue's digits as JSON numbers, and because most of each line never changes.
"""

import msgspec

from models.canonical import Feed, SnapshotReason, State
from models.resync import GapReason, ResyncRequest, resync_id
from streaming.core.outputs import Outputs


class Gap(msgspec.Struct, frozen=True):
    """An open gap: exclusive bounds of what is missing, and when it was seen."""

    reason: GapReason
    after: int
    before: int | None
    since: int
    resync_id: str


def _text(value: str | None) -> str:
    return "null" if value is None else f'"{value}"'


class Writer:
    """Attributes: seq, of the newest message of the chain; state, as last announced; gap, if open.

    Until something else is announced a feed counts as live.
    """

    __slots__ = (
        "_snapshot",
        "_status",
        "_tick",
        "_venue",
        "feed",
        "gap",
        "product",
        "seq",
        "state",
    )

    def __init__(self, venue: str, product: str, feed: Feed) -> None:
        head = f'"venue":"{venue}","product":"{product}","feed":"{feed}"'
        self._tick = f'{{"v":1,"type":"tick",{head},"seq":'
        self._snapshot = f'{{"v":1,"type":"snapshot",{head},"seq":'
        self._status = f'{{"v":1,"type":"status",{head},"state":'
        self._venue, self.product, self.feed = venue, product, feed
        self.seq = 0
        self.state: State = "live"
        self.gap: Gap | None = None

    def tick(self, out: Outputs, seq: int, ts_event: int, ts_ingest: int, fields: str) -> None:
        """Append a tick that links to the message before it. `seq` must be above that one's."""
        out.lines.append(
            f'{self._tick}{seq},"prev_seq":{self.seq},"ts_event":{ts_event},'
            f'"ts_ingest":{ts_ingest},"fields":{fields}}}'
        )
        out.ticks += 1
        self.seq = seq

    def snapshot_line(
        self,
        seq: int,
        ts_us: int,
        reason: SnapshotReason,
        state: str,
        resync_id: str | None = None,
    ) -> str:
        """Render a snapshot without appending it or touching the chain."""
        return (
            f'{self._snapshot}{seq},"ts_snapshot":{ts_us},"reason":"{reason}",'
            f'"resync_id":{_text(resync_id)},"state":{state}}}'
        )

    def snapshot(
        self,
        out: Outputs,
        seq: int,
        ts_us: int,
        reason: SnapshotReason,
        state: str,
        resync_id: str | None = None,
    ) -> None:
        """Append a snapshot: a new chain starts at `seq`."""
        out.lines.append(self.snapshot_line(seq, ts_us, reason, state, resync_id))
        self.seq = seq

    def status_line(self, since: int) -> str:
        """Render the present state and gap."""
        if self.gap is None:
            return self._state_line(self.state, since, None)
        before = "null" if self.gap.before is None else self.gap.before
        bounds = f'{{"after":{self.gap.after},"before":{before}}}'
        return self._state_line(self.state, since, self.gap.resync_id, bounds)

    def _state_line(
        self, state: State, since: int, resync_id: str | None, gap: str = "null"
    ) -> str:
        return (
            f'{self._status}"{state}","since":{since},"gap":{gap},"resync_id":{_text(resync_id)}}}'
        )

    def announce(self, out: Outputs, state: State, since: int) -> None:
        """Append a status line, unless this state has been announced already."""
        if state != self.state:
            self.state = state
            out.lines.append(self.status_line(since))

    def open_gap(
        self,
        out: Outputs,
        reason: GapReason,
        after: int,
        before: int | None,
        since: int,
        stretch: str | None = None,
    ) -> ResyncRequest:
        """Announce a gap and return the request that would have it recovered."""
        name = resync_id(self._venue, self.product, self.feed, after, before)
        self.gap = Gap(reason, after, before, since, name)
        self.state = "gap"
        out.lines.append(self.status_line(since))
        out.gaps += 1
        return ResyncRequest(
            self._venue, self.product, self.feed, name, reason, after, before, since, stretch
        )

    def age(self, out: Outputs, now_us: int, stale_us: int) -> None:
        """Announce that the feed is stale when its gap has been open for longer than it may."""
        gap = self.gap
        if gap is not None and now_us - gap.since > stale_us:
            self.announce(out, "stale", now_us)

    def give_up(self, out: Outputs, resync_id: str, now_us: int) -> None:
        """Announce that the feed is stale: the recovery of its gap has ended without success."""
        if self.gap is not None and self.gap.resync_id == resync_id:
            self.announce(out, "stale", now_us)

    def close_gap(self, out: Outputs, since: int) -> None:
        """Announce that the feed is live, with the gap that was closed."""
        self.state = "live"
        out.lines.append(self.status_line(since))
        self.gap = None

    def answer(self, out: Outputs, resync_id: str, since: int) -> None:
        """Tell a recovery whose marker changed nothing how things stand.

        Its gap is still open: `gap` once more, so fetch again. It is not: `live`, and what is
        true of the feed now, should another gap be open.
        """
        if self.gap is None or self.gap.resync_id != resync_id:
            out.lines.append(self._state_line("live", since, resync_id))
        if self.state != "live":
            out.lines.append(self.status_line(since))

    def restore(self, seq: int, state: State, gap: Gap | None) -> None:
        """Go on from a checkpoint."""
        self.seq, self.state, self.gap = seq, state, gap
