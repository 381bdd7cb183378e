"""What asks the venue: one REST request per activity, published into MD_RAW as a marker.

One request each, so that the task queue's rate limit is the venue's. Books and prints go from
here to the log; Temporal sees counts and positions.
"""

import random
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

import msgspec
import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.heartbeats import heartbeating
from models.numbers import iso_to_us
from models.records import ResyncMarker, marker_line
from models.recovery import BY_TRADE_ID, UNKNOWN_VENUE, Fetch, Fetched, ResyncInput
from models.subjects import raw_subject, shard_of
from streaming.broker.log import Log
from streaming.tracing import annotate
from venues.coinbase.rest import MAX_PAGE, CoinbaseRest
from venues.coinbase.rest_errors import CoinbaseRestError, MissingTradesError
from venues.coinbase.rest_types import RestBook, RestTrade

CLOCKS_APART_US = 2_000_000
"""A gap without a bound in the venue's own time is bounded by our receipt, less this."""

_BOOK_LEVEL = 2
_log = structlog.get_logger(__name__)


class VenueActivities:
    """Activities of the `venue-rest` task queue."""

    def __init__(self, rests: Mapping[str, CoinbaseRest], log: Log, shard_count: int) -> None:
        """Prepare; `rests` has the client for each venue by its name in subjects."""
        self._rests, self._log, self._shards = rests, log, shard_count

    @activity.defn
    async def fetch_and_publish(self, fetch: Fetch) -> Fetched:
        """Make one request and publish what came, unless it is older than the gap.

        May be repeated: within two minutes the log takes each marker once.

        Raises:
            ApplicationError: typed by the REST error; final ones are not to be repeated.
        """
        gap, rest = fetch.gap, self._rests.get(fetch.gap.venue)
        if rest is None:
            raise ApplicationError(
                f"no REST client for venue {gap.venue!r}; known: {', '.join(self._rests)}",
                type=UNKNOWN_VENUE,
                non_retryable=True,
            )
        async with heartbeating(), _venue_errors():
            if gap.feed == "book":
                fetched = await self._book(rest, fetch)
            elif gap.feed == "ticker":
                fetched = await self._ticker(rest, fetch)
            elif fetch.upto is None:
                fetched = await self._newest(rest, fetch)
            else:
                fetched = await self._page(rest, fetch)
        return fetched.model_copy(update={"attempt": activity.info().attempt})

    async def _book(self, rest: CoinbaseRest, fetch: Fetch) -> Fetched:
        book = await rest.book(fetch.gap.product, level=_BOOK_LEVEL)
        time_us, too_old = _age(fetch.gap, book)
        if too_old:
            return Fetched(too_old=too_old, newest=time_us)
        marker = await self._publish(fetch, msgspec.json.encode(book))
        return Fetched(marker=marker, items=len(book.bids) + len(book.asks), newest=time_us)

    async def _newest(self, rest: CoinbaseRest, fetch: Fetch) -> Fetched:
        """Publish the venue's newest page if that is all; else tell up to where there is more."""
        gap, after = fetch.gap, fetch.after
        page = await rest.trades(gap.product, limit=MAX_PAGE)
        newest = max((trade.trade_id for trade in page), default=0)
        wanted_to = (gap.before or 0) - 1 if gap.reason in BY_TRADE_ID else 0
        if newest < max(wanted_to, after or 0):
            sentence = f"the venue's newest print is {newest}, but {wanted_to} is missing as well"
            return Fetched(too_old=sentence, newest=newest)
        if after is None:
            after = newest - len(page)
        elif newest - after > MAX_PAGE and not gap.accept_loss:
            return Fetched(newest=newest, more=fetch.model_copy(update={"upto": newest}))
        wanted = [trade for trade in page if trade.trade_id > after]
        return await self._publish_trades(fetch, wanted, after, newest, last=True)

    async def _page(self, rest: CoinbaseRest, fetch: Fetch) -> Fetched:
        """Publish the page next to `after`, by asking for what is older than its end."""
        after, upto = fetch.after or 0, fetch.upto or 0
        end = min(after + MAX_PAGE, upto)
        page = await rest.trades(fetch.gap.product, limit=end - after, after=end + 1)
        wanted = [trade for trade in page if after < trade.trade_id <= end]
        return await self._publish_trades(fetch, wanted, after, end, last=end == upto)

    async def _publish_trades(
        self, fetch: Fetch, trades: Sequence[RestTrade], after: int, newest: int, *, last: bool
    ) -> Fetched:
        """Publish prints, oldest first, after making sure that none is missing among them."""
        oldest_first = sorted(trades, key=lambda trade: trade.trade_id)
        missing = _holes([trade.trade_id for trade in oldest_first], after, newest)
        if missing and not fetch.gap.accept_loss:
            raise MissingTradesError(f"/products/{fetch.gap.product}/trades", missing)
        marker = await self._publish(fetch, msgspec.json.encode(oldest_first), last=last)
        more = None if last else fetch.model_copy(update={"after": newest})
        return Fetched(marker=marker, items=len(oldest_first), newest=newest, more=more)

    async def _ticker(self, rest: CoinbaseRest, fetch: Fetch) -> Fetched:
        """Get the best prices first, then, by another request, the print that goes with them."""
        if fetch.quote is None:
            book = await rest.book(fetch.gap.product)
            time_us, too_old = _age(fetch.gap, book)
            if too_old:
                return Fetched(too_old=too_old, newest=time_us)
            quote = msgspec.json.encode(book).decode()
            return Fetched(newest=time_us, more=fetch.model_copy(update={"quote": quote}))
        trades = await rest.trades(fetch.gap.product, limit=1)
        quote_body = msgspec.Raw(fetch.quote.encode())
        body = msgspec.json.encode({"book": quote_body, "trade": trades[0] if trades else None})
        marker = await self._publish(fetch, body)
        return Fetched(marker=marker, items=1 + len(trades))

    async def _publish(self, fetch: Fetch, body: bytes, *, last: bool = True) -> int:
        gap = fetch.gap
        marker = ResyncMarker(
            gap.resync_id, gap.feed, msgspec.Raw(body), last, accept_loss=gap.accept_loss
        )
        shard = shard_of(gap.venue, gap.product, self._shards)
        annotate(shard=shard)
        return await self._log.publish(
            raw_subject(shard, gap.venue, gap.product),
            marker_line(time.time_ns() // 1000, marker),
            message_id=f"{gap.resync_id}#{fetch.run}-{fetch.round_}-{fetch.after or 0}",
        )


def _age(gap: ResyncInput, book: RestBook) -> tuple[int, str]:
    """Return the time of a book, and a sentence if it does not reach past the gap."""
    if book.time is None:
        return 0, "the venue's book names no time, so nobody can tell whether it is new enough"
    time_us = iso_to_us(book.time)
    if gap.feed == "book" and gap.before is not None:
        wanted = gap.before
    else:
        wanted = (gap.since or 0) - CLOCKS_APART_US
    if time_us >= wanted:
        return time_us, ""
    return time_us, f"the venue's book is {(wanted - time_us) / 1e6:.3f} s older than the gap's end"


def _holes(found: Sequence[int], after: int, newest: int) -> list[tuple[int, int]]:
    """Return what is missing between the two, as inclusive ranges."""
    holes, expected = [], after + 1
    for trade_id in [*found, newest + 1]:
        if trade_id > expected:
            holes.append((expected, trade_id - 1))
        expected = trade_id + 1
    return holes


@asynccontextmanager
async def _venue_errors() -> AsyncIterator[None]:
    """Translate the REST client's errors into what Temporal's retry policy knows."""
    try:
        yield
    except CoinbaseRestError as error:
        # Many are turned away in the same moment; they must not all come back in the same one.
        wait_s = error.retry_after_s
        delay = None if wait_s is None else timedelta(seconds=wait_s * random.uniform(1, 1.5))  # noqa: S311
        _log.warning("the venue did not answer as hoped", error=str(error), final=error.is_final)
        raise ApplicationError(
            str(error),
            type=type(error).__name__,
            non_retryable=error.is_final,
            next_retry_delay=delay,
        ) from error
