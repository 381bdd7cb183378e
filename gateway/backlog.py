"""The log as a rung of the resume ladder: MD_TICKS beyond what the ring holds.

Finds a number by bisection over positions, and reads on from there in pages. Pages are kept for a
while, since many come back at once and want the same. Proves nothing: the merge does.
"""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

from gateway.product import Batch, Product, read_batch
from gateway.protocol import Source
from models.canonical import Head
from models.decoding import UNREADABLE
from models.subjects import Streams, ticks_subject
from streaming.broker.log import Log, LogMessage
from streaming.core.resume import UnrecoverableError, links_to

MAX_AT_ONCE = 8
"""Requests to the log that may run at the same time; more wait their turn."""

PAGE_BYTES = 512 * 1024
"""Size of a page, about."""

PAGE_MESSAGES = 1000
"""Messages of the log in a page, at most."""

KEPT_BYTES = 16 * 1024**2
"""Pages that are kept, over all products."""

NEAR = 64
"""A search ends when so many positions are left, which reading passes over quickly."""

_FIRST_STEP = 4096
_STEP_GROWTH = 4


@dataclass(frozen=True, slots=True)
class Page:
    """All of a product's messages with a position above `after`, up to `upto`."""

    product: Product
    after: int
    upto: int
    batches: list[Batch]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Found:
    """The first message of a feed above a position: the message's own position, and its head."""

    position: int
    head: Head


class Backlog:
    """Reads a product's past from MD_TICKS."""

    source: Source = "log"

    def __init__(self, log: Log, streams: Streams) -> None:
        self._log = log
        self._stream, self._root = streams.ticks, streams.root
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)
        self._turns: dict[Product, asyncio.Lock] = {}
        self._pages: OrderedDict[tuple[Product, int], Page] = OrderedDict()
        self._kept_bytes = 0

    async def end(self) -> int:
        """Return the position of the newest message of all."""
        async with self._slots:
            return (await self._log.extent(self._stream)).last

    async def locate(self, product: Product, bit: int, seq: int, upto: int) -> tuple[int, bool]:
        """Return a position to read after, and whether the feed's oldest message links to `seq`.

        If it does not, the first message of the feed above the position is not beyond `seq`, and
        little is between, if the feed has the number. Looks at positions up to `upto`.

        Raises:
            UnrecoverableError: `too_old`: the feed's first message is beyond `seq` already.
        """
        async with self._turn(product):
            if (position := self._known(product, bit, seq)) is not None:
                return position, False
            async with self._slots:
                place = await self._search(product, bit, seq, upto)
                # Whoever waits for the same then finds it in what is kept.
                await self._load(product, place[0])
                return place

    async def page(self, product: Product, bit: int, after: int) -> list[Batch]:
        """Return the next messages of a product above a position, in order; none at the end.

        Raises:
            UnrecoverableError: `too_old`: the log does not reach back so far any more.
        """
        del bit  # a message has all feeds
        async with self._turn(product):
            kept = self._kept(product, after)
            if kept is not None:
                return [batch for batch in kept.batches if batch.position > after]
            async with self._slots:
                return await self._load(product, after)

    def _turn(self, product: Product) -> asyncio.Lock:
        """Return the lock by which those who want the same wait for the first, and share."""
        return self._turns.setdefault(product, asyncio.Lock())

    async def _load(self, product: Product, after: int) -> list[Batch]:
        """Read a page and keep it; see `page`."""
        batches = await self._read(product, after, PAGE_MESSAGES, PAGE_BYTES)
        # A snapshot starts a new chain, so the links alone would not show a hole before it.
        if (await self._log.extent(self._stream)).first > after + 1:
            raise UnrecoverableError("too_old")
        self._keep(product, after, batches)
        return batches

    async def _search(self, product: Product, bit: int, seq: int, upto: int) -> tuple[int, bool]:
        """Find the position by bisection: numbers grow with positions."""
        begin = (await self._log.extent(self._stream)).first - 1
        first = await self._first(product, bit, begin, upto)
        if first is not None and links_to(first.head, seq):
            return begin, True
        if first is None or first.head.seq > seq:
            raise UnrecoverableError("too_old")
        low, high, step = first.position - 1, upto, _FIRST_STEP
        # Most have not been away for long: look close to the end first, then further back.
        while high - step > low:
            found = await self._first(product, bit, high - step, high)
            if found is not None and found.head.seq <= seq:
                low = high - step
                break
            high -= step
            step *= _STEP_GROWTH
        while high - low > NEAR:
            middle = (low + high) // 2
            found = await self._first(product, bit, middle, high)
            if found is not None and found.head.seq <= seq:
                low = middle
            else:
                high = middle
        return low, False

    async def _first(self, product: Product, bit: int, after: int, upto: int) -> Found | None:
        """Return the first message of a feed in a range of positions, or none."""
        limit = 1
        while after < upto:
            batches = await self._read(product, after, limit, PAGE_BYTES)
            for batch in batches:
                if batch.position > upto:
                    return None
                for head in batch.only(bit)[0] if batch.mask & bit else ():
                    if head.type != "status":
                        return Found(batch.position, head)
            if not batches:
                return None
            # A feed with few messages among many of the others'.
            after, limit = batches[-1].position, PAGE_MESSAGES
        return None

    async def _read(self, product: Product, after: int, limit: int, max_bytes: int) -> list[Batch]:
        """Read the next messages, without those that are not canonical."""
        subject = ticks_subject("*", product.venue, product.name, self._root)
        batches: list[Batch] = []
        while not batches:
            messages = await self._log.fetch(
                self._stream, subject, after=after, limit=limit, max_bytes=max_bytes
            )
            if not messages:
                break
            after = messages[-1].seq
            batches = [batch for message in messages if (batch := _batch(message)) is not None]
        return batches

    def _kept(self, product: Product, after: int) -> Page | None:
        """Return a kept page that goes on from a position."""
        for key, page in self._pages.items():
            if key[0] is product and page.after <= after < page.upto:
                self._pages.move_to_end(key)
                return page
        return None

    def _known(self, product: Product, bit: int, seq: int) -> int | None:
        """Return the position before a number's message, if a kept page has it."""
        for page in self._pages.values():
            if page.product is product:
                after = page.after
                for batch in page.batches:
                    if batch.mask & bit and any(
                        head.seq == seq and head.type != "status" for head in batch.only(bit)[0]
                    ):
                        return after
                    after = batch.position
        return None

    def _keep(self, product: Product, after: int, batches: list[Batch]) -> None:
        """Keep a page; the ones that were used least recently make room."""
        if not batches:
            return
        size = sum(batch.size_bytes for batch in batches)
        page = Page(product, after, batches[-1].position, batches, size)
        self._pages[product, after] = page
        self._kept_bytes += size
        while self._kept_bytes > KEPT_BYTES:
            _, oldest = self._pages.popitem(last=False)
            self._kept_bytes -= oldest.size_bytes


def _batch(message: LogMessage) -> Batch | None:
    """Return the frames of a message; none if it is not canonical, as for those who are live."""
    try:
        return read_batch(message)[0]
    except UNREADABLE:
        return None
