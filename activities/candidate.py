"""Judges slices of the past by the build that this process runs: the candidate.

Nothing is kept between two attempts: a slice whose worker was killed is judged anew, and its file
of differences has the same name and content. `activities.rejudging` does the judging, in a thread;
the loop reads for it and heartbeats.
"""

import asyncio
import platform
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict
from importlib.metadata import version
from itertools import pairwise

from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.heartbeats import Place, heartbeating
from activities.lake_errors import lake_errors
from activities.rejudging import Bounds, CandidateError, ProductJudge, Shelf
from models.canary import (
    CANDIDATE_BROKE,
    CANNOT_GO_ON,
    MAX_TEXT_BYTES,
    Candidate,
    Divergence,
    FeedCount,
    SliceInput,
    SliceResult,
)
from models.checkpoint import Checkpoint
from models.decoding import UNREADABLE
from models.events import Decode
from storage.differences import encode_differences
from storage.errors import ObjectMissingError
from storage.lake import Found, Lake
from storage.layout import Hour, Lane
from storage.manifest import Entry
from storage.state import states_at
from streaming.core.compare import Difference
from streaming.core.hold import Hold
from streaming.core.normalizer import ProductNormalizer
from streaming.metrics import Counts

_KEPT_BYTES = 64 * 1024**2
"""Differences of a slice that are kept, beside their number."""

MakeCore = Callable[..., ProductNormalizer]
"""Makes the normalizer of a venue's product; a test gives one that is broken."""


class CandidateActivities:
    """Activities of the candidate's own task queue. Attributes: frames, the counter."""

    def __init__(
        self,
        lake: Lake,
        decoders: Mapping[str, Decode],
        hold: Hold,
        *,
        ticker_watermark: bool,
        make: MakeCore = ProductNormalizer,
    ) -> None:
        """Judge with these decoders, by venue, and settings where a slice does not tell others."""
        self._lake, self._decoders, self._make = lake, decoders, make
        self._hold, self._ticker_watermark = hold, ticker_watermark
        self.frames = Counts("md_canary_frames_total", "Raw frames that were judged", ())

    @activity.defn
    async def introduce(self) -> Candidate:
        """Tell which build serves this queue."""
        return Candidate(version=version("ledgerflux"), python=platform.python_version())

    @activity.defn
    async def judge_slice(self, wanted: SliceInput) -> SliceResult:
        """Apply a slice's raw messages to the candidate, and compare with the archived ticks.

        Raises:
            ApplicationError: an object is damaged or gone, the candidate cannot read a checkpoint,
                or a record makes it fail; none of these is cured by another attempt.
        """
        place = Place(0)
        async with heartbeating(place):
            with lake_errors(f"judging slice {wanted.number}"):
                judging = await self._prepare(wanted)
                result = await judging.result(place)
        self.frames.values[()] += result.frames
        return result

    async def _prepare(self, wanted: SliceInput) -> "_Slice":
        if wanted.venue not in self._decoders:
            raise ApplicationError(
                f"the candidate does not know the venue {wanted.venue!r}",
                type=CANNOT_GO_ON,
                non_retryable=True,
            )
        lane = Lane("raw", wanted.venue, wanted.shard, wanted.epoch)
        ticks_lane = Lane("ticks", wanted.venue, wanted.shard, wanted.ticks_epoch)
        hours = [Hour(number) for number in wanted.hours]
        around = sorted({Hour(hour.number + near) for hour in hours for near in (-1, 0, 1)})
        raw = await self._objects(lane, hours)
        ticks = await self._objects(ticks_lane, around)
        begins = await self._states(lane, wanted, around[-1], of_end=False)
        ends = await self._states(lane, wanted, around[-1], of_end=True)
        reader = _Reader(self._lake, asyncio.get_running_loop())
        shelves = (
            Shelf(lane, raw, reader.of(lane, raw)),
            Shelf(ticks_lane, ticks, reader.of(ticks_lane, ticks)),
        )
        go_on = any(one.entry.until_us >= wanted.until_us for one in ticks)
        judges = [
            self._judge(
                wanted,
                Bounds(
                    part.product,
                    part.after,
                    part.upto,
                    begins[part.product].ticks_seq if part.from_state else 0,
                    ends[part.product].ticks_seq if part.to_state else None,
                    go_on,
                ),
                begins.get(part.product),
                *shelves,
            )
            for part in wanted.parts
        ]
        return _Slice(self._lake, wanted, judges, shelves[0], reader)

    async def _objects(self, lane: Lane, hours: Sequence[Hour]) -> list[Found]:
        found = [
            Found(hour, entry)
            for hour in hours
            for entry in (await self._lake.manifest(lane, hour)).entries
        ]
        return sorted(found, key=lambda one: one.entry.first)

    async def _states(
        self, lane: Lane, wanted: SliceInput, until: Hour, *, of_end: bool
    ) -> dict[str, Checkpoint]:
        positions = {
            part.product: part.upto if of_end else part.after
            for part in wanted.parts
            if (part.to_state if of_end else part.from_state)
        }
        return await states_at(self._lake.store, lane, positions, until) if positions else {}

    def _judge(
        self,
        wanted: SliceInput,
        bounds: Bounds,
        state: Checkpoint | None,
        raw: Shelf,
        ticks: Shelf,
    ) -> ProductJudge:
        core = self._core(wanted, bounds.product)
        if state is not None:
            try:
                core.restore([bytes(line) for line in state.messages], bytes(state.cursors))
            except (*UNREADABLE, ValueError) as error:
                raise ApplicationError(
                    f"the candidate cannot read the archived checkpoint of {bounds.product} at raw "
                    f"position {bounds.after}: {error}; it could not go on where the running "
                    "release stops, either",
                    type=CANNOT_GO_ON,
                    non_retryable=True,
                ) from error
        feeds = None if wanted.feeds is None else frozenset(wanted.feeds)
        return ProductJudge(bounds, core, self._decoders[wanted.venue], raw, ticks, feeds)

    def _core(self, wanted: SliceInput, product: str) -> ProductNormalizer:
        told, hold = wanted.settings, self._hold
        if told.resync_max_queue_ms is not None:
            hold = hold._replace(time_us=told.resync_max_queue_ms * 1000)
        if told.resync_stale_ms is not None:
            hold = hold._replace(stale_us=told.resync_stale_ms * 1000)
        by_watermark = told.ticker_watermark
        if by_watermark is None:
            by_watermark = self._ticker_watermark
        return self._make(wanted.venue, product, hold=hold, ticker_watermark=by_watermark)


class _Reader:
    """Reads objects for a thread, on the loop, the next one ahead. `stopped` ends the thread."""

    def __init__(self, lake: Lake, loop: asyncio.AbstractEventLoop) -> None:
        self._lake, self._loop = lake, loop
        self._ahead: dict[Lane, tuple[Found, Future[tuple[bytes, Entry]]]] = {}
        self.stopped = threading.Event()

    def of(self, lane: Lane, objects: Sequence[Found]) -> Callable[[Found], tuple[bytes, Entry]]:
        """Return the function that reads a lane's objects."""
        after = {one.entry.first: other for one, other in pairwise(objects)}

        def fetch(found: Found) -> tuple[bytes, Entry]:
            known, reading = self._ahead.pop(lane, (None, None))
            if reading is None or known is not found:
                reading = self._begin(lane, found)
            following = after.get(found.entry.first)
            if following is not None:
                self._ahead[lane] = following, self._begin(lane, following)
            return reading.result()

        return fetch

    def close(self) -> None:
        """Let go what was read ahead."""
        self.stopped.set()
        for _, reading in self._ahead.values():
            reading.cancel()

    def _begin(self, lane: Lane, found: Found) -> Future[tuple[bytes, Entry]]:
        return asyncio.run_coroutine_threadsafe(self._read(lane, found), self._loop)

    async def _read(self, lane: Lane, found: Found) -> tuple[bytes, Entry]:
        """Return an object, or the one that it has been merged into meanwhile."""
        try:
            return await self._lake.fetch(lane, found.hour, found.entry), found.entry
        except ObjectMissingError:
            for entry in (await self._lake.manifest(lane, found.hour)).entries:
                if entry.first <= found.entry.first and found.entry.last <= entry.last:
                    return await self._lake.fetch(lane, found.hour, entry), entry
            raise


class _StoppedError(Exception):
    """The activity was cancelled while its thread was at work."""


class _Slice:
    """One slice at work: a thread judges, and the loop reads for it and heartbeats."""

    def __init__(
        self,
        lake: Lake,
        wanted: SliceInput,
        judges: Sequence[ProductJudge],
        raw: Shelf,
        reader: _Reader,
    ) -> None:
        self._lake, self._wanted, self._judges = lake, wanted, judges
        self._raw, self._reader = raw, reader
        self._kept: list[Divergence] = []
        self._kept_bytes = 0
        self._first: dict[str, Divergence] = {}

    async def result(self, place: Place) -> SliceResult:
        """Judge, store what differs, and return what came of it."""
        began = time.monotonic()
        working = asyncio.create_task(asyncio.to_thread(self._judge, place))
        try:
            cpu_s = await asyncio.shield(working)
        except CandidateError as error:
            raise ApplicationError(str(error), type=CANDIDATE_BROKE, non_retryable=True) from error
        finally:
            self._reader.close()
            await asyncio.gather(working, return_exceptions=True)
        key = f"{self._wanted.folder}{self._wanted.number:05d}.parquet" if self._kept else ""
        if key:
            data = await asyncio.to_thread(encode_differences, self._kept)
            await self._lake.store.put_new(key, data)
        firsts = sorted(self._first.values(), key=lambda one: (one.position, one.line))
        return SliceResult(
            number=self._wanted.number,
            frames=place.at,
            counts={
                judge.bounds.product: {
                    feed: FeedCount(**asdict(tally))
                    for feed, tally in judge.comparison.tallies.items()
                }
                for judge in self._judges
            },
            first=_shortened(firsts[0]) if firsts else None,
            object_=key,
            kept=len(self._kept),
            seconds=time.monotonic() - began,
            cpu_s=cpu_s,
        )

    def _judge(self, place: Place) -> float:
        """Go through the raw objects; return the processor time that it took."""
        began, place.at = time.thread_time(), 0
        having = {
            judge.bounds.product: set(
                self._raw.having(judge.bounds.product, judge.bounds.after, judge.bounds.upto)
            )
            for judge in self._judges
        }
        # In the order of an object's rows, so that each part of it is unpacked once.
        judges = sorted(self._judges, key=lambda judge: judge.bounds.product)
        for number in range(len(self._raw.objects)):
            for judge in judges:
                if number not in having[judge.bounds.product]:
                    continue
                for frames, found in judge.take(number):
                    self._note(judge, found)
                    judge.forget()
                    place.at += frames
                    if self._reader.stopped.is_set():
                        raise _StoppedError
        for judge in judges:
            self._note(judge, judge.finish())
        return time.thread_time() - began

    def _note(self, judge: ProductJudge, found: Sequence[Difference]) -> None:
        """Keep differences as long as there is room; the first of each product in any case."""
        for one in found:
            is_first = judge.bounds.product not in self._first
            has_room = len(self._kept) < self._wanted.keep and self._kept_bytes < _KEPT_BYTES
            if not is_first and not has_room:
                return
            divergence = judge.explain(one)
            self._first.setdefault(judge.bounds.product, divergence)
            if has_room:
                self._kept.append(divergence)
                self._kept_bytes += sum(
                    len(text or "")
                    for text in (divergence.expected, divergence.actual, divergence.raw)
                )


def _shortened(divergence: Divergence) -> Divergence:
    """Return a divergence whose texts fit into what Temporal carries."""
    texts = {
        name: None if text is None else text[:MAX_TEXT_BYTES]
        for name in ("expected", "actual", "raw")
        for text in (getattr(divergence, name),)
    }
    return divergence.model_copy(update=texts)
