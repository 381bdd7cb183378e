"""Feeds as the canonical log tells them: state, since when, pace, and age of the newest tick.

The latest-state rows say how each feed stands, and the last seconds of MD_TICKS what has changed
since. Whether anything comes at all is read off MD_RAW: a dead line leaves every feed `live`. So
does a dead normalizer, so where what came is not normalized nothing is believed.
"""

import time
from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from cli.situation.shards import ShardRow, shards
from models.canonical import FEEDS, Feed
from models.settings import Settings
from models.subjects import META_PRODUCT, product_of
from storage.latest import LatestRow
from streaming.broker.inspection import Inspector
from streaming.broker.log import LogMessage
from workflows.connect import ui_link

WINDOW_US = 5_000_000
"""The pace is that of so long before the look."""

SILENCES = 2
"""A product that brought nothing for so many times COINBASE_SILENCE_S is silent."""

_MAX_MESSAGES = 20_000
_MAX_BYTES = 16 * 1024**2

BEHIND_US = 2_000_000
"""A row that lacks a message of so long ago is not being written."""

Standing = Literal["live", "gap", "resyncing", "stale", "silent", "no data", "unknown"]
"""States of the canonical log, and three that are not in it: nothing comes, nothing ever came, and
it could not be learnt."""


class FeedRow(msgspec.Struct):
    """One feed of one product. Times in µs; none where they are not known.

    `since_us`: of its state; `newest_us`: of its newest tick, by the venue's clock. `resync_id`
    and `link`: of the recovery, while a gap is open.
    """

    venue: str
    product: str
    feed: Feed | Literal[""]
    state: Standing = "live"
    since_us: int | None = None
    ticks_per_s: float = 0.0
    newest_us: int | None = None
    resync_id: str | None = None
    link: str = ""


class LineRow(msgspec.Struct):
    """One ingestor's line, known by what it brought. `newest_us`: when it received that."""

    line: str
    newest_us: int


class Feeds(msgspec.Struct):
    """All feeds; `lines`: who brings them.

    `behind`: products whose latest-state rows lack something, so that the state which is shown may
    be that of before. `waiting`: shards of which nobody normalizes what has come.
    """

    rows: list[FeedRow]
    lines: list[LineRow]
    behind: list[tuple[str, str]]
    waiting: list[ShardRow] = []

    @property
    def all_live(self) -> bool:
        """Whether there is a feed, and none that is not live."""
        return bool(self.rows) and all(row.state == "live" for row in self.rows)


class _Line(msgspec.Struct):
    """What a canonical line tells of its feed."""

    type: str
    feed: Feed
    ts_event: int = 0
    ts_snapshot: int = 0
    state: msgspec.Raw = msgspec.Raw(b"null")
    since: int = 0
    resync_id: str | None = None


class _Received(msgspec.Struct):
    ts_ingest: int = 0
    conn: str = ""


_decode_line = msgspec.json.Decoder(_Line).decode
_decode_lines = msgspec.json.Decoder(_Line).decode_lines
_decode_state = msgspec.json.Decoder(Standing).decode
_decode_received = msgspec.json.Decoder(_Received).decode


class _Board:
    """Feeds by name, while lines about them are taken in the log's order."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str, Feed | Literal[""]], FeedRow] = {}

    def take(self, venue: str, product: str, line: _Line) -> FeedRow:
        """Take the next line of a product; return its feed."""
        key = (venue, product, line.feed)
        row = self.rows.setdefault(key, FeedRow(*key))
        if line.type == "status":
            row.state, row.since_us = _decode_state(line.state), line.since
            row.resync_id = None if row.state == "live" else line.resync_id
        else:
            row.newest_us = max(row.newest_us or 0, line.ts_event, line.ts_snapshot) or None
        return row


async def feeds(
    inspector: Inspector, settings: Settings, rows: Iterable[LatestRow], asked_us: int
) -> Feeds:
    """Return every feed that has rows or recent ticks, and the configured products at least.

    `asked_us`: when the rows were asked for.

    Raises:
        LogError: the log does not answer.
    """
    streams, board, positions = settings.streams, _Board(), dict[tuple[str, str], int]()
    facts = await inspector.stream(streams.ticks)
    # Rows of a stream that was made anew, or of the live one beside a replay, mean nothing here.
    for row in (one for one in rows if facts is not None and one.epoch == facts.created_us):
        positions[row.venue, row.product] = row.position
        for line in row.lines:
            board.take(row.venue, row.product, _decode_line(line))
    recent = await inspector.since(
        streams.ticks,
        streams.every("ticks"),
        asked_us - WINDOW_US,
        limit=_MAX_MESSAGES,
        max_bytes=_MAX_BYTES,
    )
    _take_recent(board, positions, recent, asked_us - WINDOW_US)
    said = await inspector.newest(streams.ticks, streams.every("ticks"))
    received = await inspector.newest(streams.raw, streams.every("raw"))
    _note_silence(board, received, settings)
    waiting = await _waiting(inspector, settings, asked_us)
    _disbelieve(board, received, waiting)
    for shown in board.rows.values():
        if shown.resync_id is not None:
            shown.link = ui_link(settings, shown.resync_id)
    rows_of_all = sorted(board.rows.values(), key=_order)
    behind = _behind(positions, [*recent, *said], asked_us)
    return Feeds(rows_of_all, _lines(received), behind, waiting)


def _behind(
    positions: Mapping[tuple[str, str], int], said: list[LogMessage], asked_us: int
) -> list[tuple[str, str]]:
    """Return the products of which the log has said something that the rows should have."""
    lacking = {
        product_of(one.subject)
        for one in said
        if one.time_us < asked_us - BEHIND_US
        and one.seq > positions.get(product_of(one.subject), 0)
    }
    return sorted(lacking)


def _take_recent(
    board: _Board,
    positions: dict[tuple[str, str], int],
    recent: list[LogMessage],
    began_us: int,
) -> None:
    """Count ticks, and apply what the rows do not have yet."""
    # Where there are more than were read, the pace is that of those.
    cut = sum(len(one.payload) for one in recent) >= _MAX_BYTES // 2 or len(recent) >= _MAX_MESSAGES
    span_s = ((recent[-1].time_us if cut else now_us()) - began_us) / 1e6
    for message in recent:
        venue, product = product_of(message.subject)
        newer = message.seq > positions.get((venue, product), 0)
        for line in _decode_lines(message.payload):
            row = board.rows.get((venue, product, line.feed))
            if newer or row is None:
                row = board.take(venue, product, line)
            row.ticks_per_s += (line.type == "tick") / span_s


def _note_silence(board: _Board, received: list[LogMessage], settings: Settings) -> None:
    """Mark configured products of which nothing has come lately, or never."""
    newest = {product_of(message.subject): message.time_us for message in received}
    venue = settings.ingest_venue
    earliest_us = now_us() - SILENCES * settings.coinbase_silence_s * 1e6
    for product in settings.coinbase_products:
        rows = [row for key, row in board.rows.items() if key[:2] == (venue, product)]
        if not rows:
            board.rows[venue, product, ""] = FeedRow(venue, product, "", state="no data")
        # Where heartbeats name no product, they speak for all.
        last_us = max(newest.get((venue, name), 0) for name in (product, META_PRODUCT))
        if last_us < earliest_us:
            for row in rows:
                if row.state == "live":
                    row.state, row.since_us = "silent", last_us or None


async def _waiting(inspector: Inspector, settings: Settings, asked_us: int) -> list[ShardRow]:
    """Return the shards in which something waits; of a replay that ended nobody would read on."""
    if settings.replay_namespace is not None:
        return []
    known = await shards(inspector, settings, asked_us)
    return [row for row in known if row.waits_since_us is not None]


def _disbelieve(board: _Board, received: list[LogMessage], waiting: list[ShardRow]) -> None:
    """Mark the feeds of which what came may say something that was never normalized."""
    stuck = {row.shard for row in waiting}
    shard_of = {product_of(one.subject): int(one.subject.split(".")[2]) for one in received}
    for row in board.rows.values():
        if row.state == "live" and shard_of.get((row.venue, row.product)) in stuck:
            row.state = "unknown"


def _lines(received: list[LogMessage]) -> list[LineRow]:
    """Return the lines that the newest records came over."""
    newest: dict[str, int] = {}
    for message in received:
        told = _decode_received(message.payload.partition(b"\n")[0])
        if told.conn:  # a recovery's marker has none
            line = told.conn.partition("-")[0]
            newest[line] = max(newest.get(line, 0), message.time_us)
    return [LineRow(line, newest_us) for line, newest_us in sorted(newest.items())]


def _order(row: FeedRow) -> tuple[str, str, int]:
    return row.venue, row.product, FEEDS.index(row.feed) if row.feed else 0


def now_us() -> int:
    """Return the time."""
    return time.time_ns() // 1000
