"""Plans a canary, and tells of its end: the activities that know no candidate.

A plan is made of what the lake has: hours, states, products. `activities.candidate` judges its
slices.
"""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.heartbeats import heartbeating
from activities.lake_errors import lake_errors
from models.canary import (
    BAD_CANARY,
    MAX_DIFFERENCES,
    CanaryInput,
    CanaryPlan,
    CanaryReport,
    Part,
    SliceInput,
)
from models.checkpoint import Checkpoint
from models.replaying import BadReplayError
from models.subjects import META_PRODUCT, SubjectError
from storage.history import LaneRange, NothingThereError, Past, PastError, SeveralEpochsError, lanes
from storage.lake import Lake
from storage.layout import Lane
from storage.manifest import Entry
from storage.state import kept_states, lane_states
from streaming.metrics import Counts, Readings

SLICE_FRAMES = 500_000
"""An hour of a lane with more raw frames than this is split by products, so that it is shared."""

MOST_SPLIT = 4
"""But into no more groups: each group opens the same objects."""

MAX_PARTS = 10_000
"""Products times hours of one canary: Temporal carries their list."""

MAX_SLICES = 4000
"""Activities of one canary: Temporal keeps its history."""

_MIN_KEPT = 1000
_log = structlog.get_logger(__name__)


class TooMuchError(PastError):
    """More than one canary can judge."""


class CanaryActivities:
    """Activities of the `replay` task queue.

    Attributes: compared, differences, verdict, ended, the collectors.
    """

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._verdicts: dict[tuple[str, ...], float] = {}
        self._ended_s: dict[tuple[str, ...], float] = {}
        self.compared = Counts("md_canary_compared_total", "Canonical messages judged", ("queue",))
        self.differences = Counts(
            "md_canary_differences_total", "Messages that a candidate got wrong", ("queue", "feed")
        )
        self.verdict = Readings(
            "md_canary_verdict",
            "The newest canary: 1 it agrees, 0 it diverges, -1 it could not be judged",
            ("queue",),
            lambda: self._verdicts,
        )
        self.ended = Readings(
            "md_canary_ended_seconds",
            "When the newest canary ended, in seconds since 1970",
            ("queue",),
            lambda: self._ended_s,
        )

    @property
    def collectors(self) -> tuple[Counts | Readings, ...]:
        """What /metrics shows."""
        return self.compared, self.differences, self.verdict, self.ended

    @activity.defn
    async def plan_canary(self, wanted: CanaryInput) -> CanaryPlan:
        """Cut a range into slices that stand alone.

        Raises:
            ApplicationError: the range is not there, not whole, or no state leads into it.
        """
        try:
            since_us, until_us = wanted.range_us()
        except (BadReplayError, SubjectError) as error:
            raise ApplicationError(str(error), type=BAD_CANARY, non_retryable=True) from error
        products = None if wanted.products is None else tuple(wanted.products)
        past = Past("raw", wanted.venue, since_us, until_us, products, wanted.epoch)
        async with heartbeating():
            with lake_errors("planning a canary"):
                return await _Planner(self._lake, wanted, past).plan()

    @activity.defn
    async def note_canary(self, queue: str, report: CanaryReport) -> None:
        """Count and log what became of a canary; a crash at this moment may lose or double it."""
        self.compared.values[queue,] += report.total.compared
        for feed, count in report.feeds.items():
            self.differences.values[queue, feed] += count.differences
        known = {"agrees": 1.0, "diverges": 0.0}
        self._ended_s[queue,] = time.time()
        self._verdicts[queue,] = -1.0 if report.verdict is None else known[report.verdict]
        say = _log.info if report.verdict == "agrees" else _log.error
        say("canary ended", queue=queue, verdict=report.verdict, told=report.sentence)


class _Planner:
    """Plans one canary."""

    def __init__(self, lake: Lake, wanted: CanaryInput, past: Past) -> None:
        self._lake, self._wanted, self._past = lake, wanted, past

    async def plan(self) -> CanaryPlan:
        """Return the slices, in order of lane and time."""
        lake, past = self._lake, self._past
        states: dict[Lane, dict[str, Checkpoint]] = {}
        for one in await lanes(lake, past):
            states[one.lane] = await lane_states(lake, one, past.products)
        known = {name: state for each in states.values() for name, state in each.items()}
        # Once more, now with what lies between the states and the range.
        ranges = await lanes(lake, past, after={name: one.raw_seq for name, one in known.items()})
        ticks = await self._ticks({name: one.ticks_seq for name, one in known.items()}, ranges)
        slices: list[SliceInput] = []
        for one in ranges:
            chains = await self._chains(one, states[one.lane])
            slices += self._slices(one, ticks[one.lane.shard], chains)
        if len(slices) > MAX_SLICES or sum(len(one.parts) for one in slices) > MAX_PARTS:
            raise TooMuchError(
                str(past),
                f"more than {MAX_SLICES:,} slices, or {MAX_PARTS:,} times products and hours: "
                "choose a shorter range or fewer products",
            )
        keep = max(_MIN_KEPT, MAX_DIFFERENCES // max(len(slices), 1))
        objects = [found.entry for one in ranges for found in one.objects]
        return CanaryPlan(
            slices=[
                one.model_copy(update={"number": number, "keep": keep})
                for number, one in enumerate(slices)
            ],
            frames=sum(one.frames for one in slices),
            products=len({part.product for one in slices for part in one.parts}),
            first=min(one.first for one in ranges),
            last=max(one.last for one in ranges),
            since_us=max(past.since_us, min(one.since_us for one in objects)),
            until_us=min(past.until_us, max(one.until_us for one in objects) + 1),
        )

    async def _ticks(
        self, after: Mapping[str, int], ranges: Sequence[LaneRange]
    ) -> dict[int, LaneRange]:
        """Return the archived ticks of each shard, once they are known to be whole.

        Raises:
            PastError: they are not, or there are none, or several logs'.
        """
        past, wanted = self._past, self._wanted
        of_ticks = Past("ticks", past.venue, past.since_us, past.until_us, epoch=wanted.ticks_epoch)
        try:
            found = {one.lane.shard: one for one in await lanes(self._lake, of_ticks, after=after)}
        except SeveralEpochsError as error:
            raise SeveralEpochsError(
                str(of_ticks),
                f"there are the epochs {error.epochs}: choose one with --ticks-epoch",
                error.epochs,
            ) from error
        for one in ranges:
            if one.lane.shard not in found:
                raise NothingThereError(
                    str(of_ticks),
                    f"shard {one.lane.shard} has raw messages there but no archived ticks: "
                    "there is nothing to compare with",
                )
        return found

    async def _chains(
        self, one: LaneRange, states: Mapping[str, Checkpoint]
    ) -> dict[str, list[Part]]:
        """Return the parts of each product, which lead from one of its states to the next."""
        hours = sorted({found.hour for found in one.objects if found.entry.last >= one.first})
        kept = [await kept_states(self._lake.store, one.lane, hour) for hour in hours[1:]]
        chains: dict[str, list[Part]] = {}
        for product in sorted(one.products - {META_PRODUCT}):
            if not _has(one, product, one.first - 1, one.last) or not self._wants(product):
                continue
            begin = states[product].raw_seq if product in states else 0
            cuts = [each[product] for each in kept if product in each]
            inside = sorted({cut for cut in cuts if max(begin, one.first) < cut < one.last})
            starts, ends = [begin, *inside], [*inside, one.last]
            chains[product] = [
                Part(
                    product=product,
                    after=after,
                    upto=upto,
                    from_state=after in inside or product in states,
                    to_state=upto in inside,
                )
                for after, upto in zip(starts, ends, strict=True)
            ]
        return chains

    def _wants(self, product: str) -> bool:
        return self._past.products is None or product in self._past.products

    def _slices(
        self, one: LaneRange, ticks: LaneRange, chains: Mapping[str, Sequence[Part]]
    ) -> Iterator[SliceInput]:
        """Put the parts of about the same time together, and share what is large."""
        by_hour: dict[int, list[Part]] = defaultdict(list)
        for parts in chains.values():
            for part in parts:
                by_hour[_hour_at(one, part.upto)].append(part)
        for _, parts in sorted(by_hour.items()):
            for group in _groups(one, parts):
                hours = {
                    found.hour.number
                    for part in group
                    for found in one.objects
                    if _touches(found.entry, part)
                }
                yield SliceInput(
                    number=0,
                    venue=one.lane.venue,
                    shard=one.lane.shard,
                    epoch=one.lane.epoch,
                    ticks_epoch=ticks.lane.epoch,
                    hours=sorted(hours),
                    parts=group,
                    until_us=self._past.until_us,
                    frames=sum(_frames(one, part) for part in group),
                    feeds=self._wanted.feeds,
                    settings=self._wanted.settings,
                )


def _touches(entry: Entry, part: Part) -> bool:
    """Tell whether an object has anything of a part."""
    return any(
        span.last > part.after and span.first <= part.upto
        for span in entry.spans.get(part.product, {}).values()
    )


def _has(one: LaneRange, product: str, after: int, upto: int) -> bool:
    """Tell whether a range has anything of a product within bounds."""
    part = Part(product=product, after=after, upto=upto, from_state=False, to_state=False)
    return any(_touches(found.entry, part) for found in one.objects)


def _frames(one: LaneRange, part: Part) -> int:
    """Return about how many raw frames a part has."""
    return sum(
        span.rows
        for found in one.objects
        if _touches(found.entry, part)
        for span in found.entry.spans[part.product].values()
    )


def _hour_at(one: LaneRange, position: int) -> int:
    """Return the hour in which a position is."""
    hours = [found.hour.number for found in one.objects if found.entry.first <= position]
    return hours[-1]


def _groups(one: LaneRange, parts: Sequence[Part]) -> list[list[Part]]:
    """Share parts so that each group has about as many frames."""
    sizes = {part.product: _frames(one, part) for part in parts}
    count = min(MOST_SPLIT, len(parts), -(-sum(sizes.values()) // SLICE_FRAMES) or 1)
    groups: list[list[Part]] = [[] for _ in range(count)]
    loads = [0] * count
    for part in sorted(parts, key=lambda part: -sizes[part.product]):
        least = loads.index(min(loads))
        groups[least].append(part)
        loads[least] += sizes[part.product]
    return groups
