"""What reads the canonical log back: where things stand, the normalizer's answer, the chain.

Nothing here asks the venue or writes anything. Positions are MD_TICKS' own.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.heartbeats import Place, heartbeating
from activities.reading import ChainReader, newest_trade_id
from models.canonical import Status, decode_message
from models.recovery import (
    BY_TRADE_ID,
    CHAIN_BROKEN,
    UNREADABLE_MARKER,
    Answer,
    Await,
    Noted,
    ResyncInput,
    Verified,
    Verify,
)
from models.subjects import Streams, shard_of, ticks_subject
from streaming.broker.jetstream import JetStreamLog
from streaming.broker.log import LogMessage, LogUnavailableError
from streaming.broker.outbox import POSITION_HEADER
from streaming.broker.work import position_at
from streaming.tracing import annotate

_SLACK_US = 5_000_000
"""The log's clock may be so far behind that of the ingestor that saw the gap."""


class ChainActivities:
    """Activities of the `resync` task queue that read MD_TICKS."""

    def __init__(self, log: JetStreamLog, streams: Streams, shard_count: int) -> None:
        self._log, self._stream, self._shards = log, streams.ticks, shard_count
        self._state_stream = streams.state

    @activity.defn
    async def note_position(self, gap: ResyncInput) -> Noted:
        """Return where the canonical log of the product stands before anything is published."""
        subject = self._subject(gap.venue, gap.product)
        newest = await self._log.last(self._stream, subject)
        position = newest.seq if newest is not None else 0
        announced = max(0, position - 1)
        if gap.since is not None:
            since = gap.since - _SLACK_US
            announced = min(announced, await position_at(self._log, self._stream, subject, since))
        last_trade_id = None
        if gap.feed == "trades" and gap.reason not in BY_TRADE_ID:
            last_trade_id = await newest_trade_id(
                self._log, self._stream, self._state_stream, subject, position
            )
        return Noted(announced=announced, newest=position, last_trade_id=last_trade_id)

    @activity.defn
    async def await_reopening(self, wanted: Await) -> Answer:
        """Wait for the normalizer's answer to a marker.

        Raises:
            ApplicationError: it passed the marker without an answer, so it could not read it.
        """
        place = Place(wanted.after)
        reading = self._read(wanted.venue, wanted.product, place.at)
        async with heartbeating(place), aclosing(reading) as messages:
            async for message in messages:
                # The answer is in the first message that speaks for the marker's position.
                if int(message.headers.get(POSITION_HEADER, 0)) >= wanted.marker:
                    return _answer(message, wanted)
                place.at = message.seq
        raise LogUnavailableError("the connection to the log was closed")

    @activity.defn
    async def verify_chain(self, stretch: Verify) -> Verified:
        """Read back what the log says across the gap.

        Raises:
            ApplicationError: a link does not fit or a print is missing; repeating is no cure.
        """
        chain = ChainReader(stretch)
        reading = self._read(stretch.venue, stretch.product, stretch.first)
        async with heartbeating(), aclosing(reading) as messages:
            async for message in messages:
                chain.take(message.payload)
                if message.seq >= stretch.last:
                    break
        problem = chain.problem()
        if problem is not None:
            raise ApplicationError(problem, type=CHAIN_BROKEN, non_retryable=True)
        return chain.verified()

    def _subject(self, venue: str, product: str) -> str:
        shard = shard_of(venue, product, self._shards)
        annotate(shard=shard)
        return ticks_subject(shard, venue, product)

    def _read(self, venue: str, product: str, after: int) -> AsyncGenerator[LogMessage, None]:
        return self._log.read(self._stream, self._subject(venue, product), after=after)


def _answer(message: LogMessage, wanted: Await) -> Answer:
    """Find the last word about this recovery; an announcement of the gap may stand before it."""
    found: Status | None = None
    for line in message.payload.split(b"\n"):
        if b'"status"' in line and wanted.resync_id.encode() in line:
            status = decode_message(line)
            if isinstance(status, Status) and status.feed == wanted.feed:
                found = status
    if found is None:
        raise ApplicationError(
            f"the normalizer passed position {wanted.marker} of MD_RAW without answering: it "
            "could not read the marker there (see its dead letters), or it is an old release",
            type=UNREADABLE_MARKER,
            non_retryable=True,
        )
    return Answer(state=found.state, position=message.seq, gap_closed=found.gap is not None)
