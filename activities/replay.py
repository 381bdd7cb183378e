"""Replays a stretch of the past into a namespace: opens it, publishes record after record, ends it.

The namespace itself says how far it is: each message of its raw stream carries the position of the
record in its source, and is accepted only behind the message before it. So a replay goes on at the
exact record after whatever has happened, and two writers of one namespace cannot both be heard.
"""

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import msgspec
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.heartbeats import heartbeating
from activities.lake_errors import lake_errors
from activities.replaying.namespace import (
    OWNER_HEADER,
    POSITION_HEADER,
    check_owner,
    is_ours,
    is_running,
    owner,
)
from activities.replaying.normalizing import Normalizing
from activities.replaying.publishing import Publisher, until_told_to_stop
from activities.replaying.track import Track, telling
from activities.sources import DbnSource, LakeSource, Source
from models.canonical import FEEDS
from models.checkpoint import Checkpoint, encode_checkpoint
from models.replaying import (
    BAD_REPLAY,
    FOR_EVER_US,
    NAMESPACE_TAKEN,
    ForgetInput,
    Forgotten,
    LanePlan,
    ReplayInput,
    ReplayOpen,
    ReplayPlan,
    ReplayProgress,
    ReplayStep,
    moment_us,
)
from models.settings import Settings
from models.subjects import Streams, state_subject
from storage.history import LaneRange, NothingThereError, Past, lanes, text_of
from storage.lake import Lake
from storage.state import lane_states
from streaming.broker.appender import Appender
from streaming.broker.jetstream import JetStreamLog
from streaming.broker.log import FencedError, LogError, StreamMissingError
from streaming.broker.pages import Pages
from streaming.normalize import Normalizer

MAX_LEAD_BYTES = 32 * 1024**2
"""So far may publishing be ahead of normalizing; less where the stream itself is small."""

_LEAD_SHARE = 4
_TICK = b'{"v":1,"type":"tick",'

MakeNormalizer = Callable[[Streams, str, int, asyncio.TaskGroup], Normalizer]
"""Makes the normalizer of a venue's shard as the live one is made, on other streams."""


class ReplayActivities:
    """Activities of the `replay` task queue that fill and delete namespaces."""

    def __init__(
        self,
        log: JetStreamLog,
        settings: Settings,
        lake: Lake,
        venues: Collection[str],
        make_normalizer: MakeNormalizer,
    ) -> None:
        self._log, self._settings, self._lake = log, settings, lake
        self._venues, self._make = venues, make_normalizer

    @activity.defn
    async def open_replay(self, opening: ReplayOpen) -> ReplayPlan:
        """Find out what is to be replayed, and make the namespace ready for it. May be repeated.

        Raises:
            ApplicationError: final, with a sentence, if it cannot be: what is asked for is not in
                the lake, not whole, or the namespace holds another replay.
        """
        what, streams = opening.what, Streams.of_replay(opening.namespace)
        async with heartbeating():
            with lake_errors(f"opening {opening.namespace}"):
                if what.dbn:
                    return await self._open_dbn(what.dbn)
                if what.normalize and what.venue not in self._venues:
                    raise ApplicationError(
                        f"there is no decoder for venue {what.venue}: give normalize=false",
                        type=BAD_REPLAY,
                        non_retryable=True,
                    )
                await self._claim(streams)
                settings = self._settings.model_copy(update={"replay_namespace": streams.prefix})
                past = _past(what)
                ranges = await _ranges(self._lake, past, what.shards)
                states = [
                    (one.lane.shard, state)
                    for one in ranges
                    for state in (await lane_states(self._lake, one, past.products)).values()
                ]
                await self._log.ensure_streams(settings)
                after = {
                    state.product: await self._seed(streams, shard, state)
                    for shard, state in states
                }
                return _plan(past, ranges, after)

    async def _open_dbn(self, names: Sequence[str]) -> ReplayPlan:
        """Make the stream of DBN files' ticks ready, behind what other replays have put there.

        Raises:
            ApplicationError: final; another replay is writing it.
        """
        stream = self._settings.streams.derivatives
        await self._log.ensure_derivatives(self._settings)
        newest = await Appender(self._log, stream).newest()
        if newest is not None and not is_ours(newest):
            run, _, workflow_id = newest.headers.get(OWNER_HEADER, "").partition("/")
            if run and await is_running(workflow_id, run):
                raise ApplicationError(
                    f"{stream} is being written by the replay {workflow_id}: wait for its end, or "
                    "abort it",
                    type=NAMESPACE_TAKEN,
                    non_retryable=True,
                )
        return ReplayPlan(sentence=f"the DBN files {', '.join(names)}")

    async def _claim(self, streams: Streams) -> None:
        """Make sure that the namespace is ours, or nobody's.

        Raises:
            ApplicationError: final; it holds another replay.
        """
        with suppress(StreamMissingError):
            newest = await Appender(self._log, streams.raw).newest()
            if newest is not None:
                check_owner(streams.prefix, newest)

    async def _seed(self, streams: Streams, shard: int, state: Checkpoint) -> int:
        """Give the namespace a product's checkpoint, at position 0; return the one it has.

        An attempt before this one may have given it an older one.
        """
        position = state.raw_seq
        payload, headers = encode_checkpoint(_at_the_beginning(state))
        subject = state_subject(shard, state.venue, state.product, streams.root)
        told = {**headers, POSITION_HEADER: str(position), OWNER_HEADER: owner()}
        try:
            await self._log.publish(subject, payload, headers=told, expected_last=0)
        except FencedError:
            known = await self._log.last(streams.state, subject)
            if known is None:  # deleted in this very moment
                raise
            check_owner(streams.prefix, known)
            return int(known.headers[POSITION_HEADER])
        return position

    @activity.defn
    async def replay(self, step: ReplayStep) -> ReplayProgress:
        """Publish what is left, paced, and have it normalized; return how far it came.

        Ends as `complete`, or as `paused` at an exact record when it is cancelled. Heartbeats with
        its progress, and tells the workflow of it now and then.

        Raises:
            ApplicationError: typed by the error; details: what was done up to there.
        """
        track = Track(step)
        async with heartbeating(track), telling(track):
            with lake_errors(f"replaying {step.namespace}", track.progress):
                try:
                    await self._replay(step, track)
                except LogError as error:
                    raise ApplicationError(
                        str(error), track.progress(), type=type(error).__name__
                    ) from error
        return track.progress()

    async def _replay(self, step: ReplayStep, track: Track) -> None:
        streams = Streams.of_replay(step.namespace)
        source = await self._source(step, streams)
        track.until_us = source.until_us
        with _one_error():
            async with asyncio.TaskGroup() as tasks:
                normalizing = Normalizing(self._log, streams, self._max_lead())
                for lane in step.plan.lanes if step.what.normalize else ():
                    normalizer = self._make(streams, step.what.venue, lane.shard, tasks)
                    normalizer.feeds = frozenset(step.what.feeds or FEEDS)
                    await normalizing.add(lane.shard, normalizer, tasks)
                track.normalizers = normalizing.normalizers
                publisher = Publisher(self._log, source, step, track, normalizing)
                error = await until_told_to_stop(publisher, track)
                # What came before a failure is worth having, and is what the failure tells of.
                await normalizing.finish()
        if track.is_recount_due and normalizing.normalizers:
            track.recount(await self._count_ticks(streams))
        if error is not None:
            raise error
        if track.state != "paused":
            track.state = "complete"

    async def _source(self, step: ReplayStep, streams: Streams) -> Source:
        """Return what is replayed, the same for every go."""
        what, plan = step.what, step.plan
        if what.dbn:
            return DbnSource(what.dbn, self._lake.store, what.dbn_kind, self._settings.streams)
        past = _past(what, plan)
        shards = {lane.shard: lane for lane in plan.lanes}
        ranges = [
            one._replace(first=shards[one.lane.shard].first, last=shards[one.lane.shard].last)
            for one in await _ranges(self._lake, past, list(shards), plan.after)
        ]
        return LakeSource(self._lake, ranges, plan.after, past.products, streams, plan.since_us)

    def _max_lead(self) -> int:
        """Return how many bytes may wait for the normalizers: nothing unread may be dropped."""
        return min(MAX_LEAD_BYTES, self._settings.js_max_bytes // _LEAD_SHARE)

    async def _count_ticks(self, streams: Streams) -> int | None:
        """Count the ticks in the namespace; none where it does not have them all any more."""
        extent = await self._log.extent(streams.ticks)
        if extent.first > 1:
            return None
        pages, ticks = Pages(self._log, streams.ticks, streams.every("ticks"), after=0), 0
        while pages.cursor < extent.last and not pages.at_end:
            ticks += sum(one.payload.count(_TICK) for one in await pages.next())
        return ticks

    @activity.defn
    async def forget_replay(self, wanted: ForgetInput) -> Forgotten:
        """Delete a namespace's streams, unless they are another's than is meant. May be repeated.

        Raises:
            ApplicationError: it is still being written: abort the replay first.
        """
        streams = Streams.of_replay(wanted.namespace)
        async with heartbeating():
            run, workflow_id = await self._owner_of(streams)
            if wanted.owner and run not in {"", wanted.owner}:
                return Forgotten(namespace=wanted.namespace)
            if run and await is_running(workflow_id, run):
                raise ApplicationError(
                    f"{wanted.namespace} is still being written by {workflow_id}: abort it first"
                )
            return Forgotten(
                namespace=wanted.namespace, streams=await self._log.delete_streams(streams)
            )

    async def _owner_of(self, streams: Streams) -> tuple[str, str]:
        """Return run and id of the workflow that has filled a namespace; nothing if it is empty."""
        with suppress(StreamMissingError):
            newest = await Appender(self._log, streams.raw).newest()
            if newest is not None:
                run, _, workflow_id = newest.headers.get(OWNER_HEADER, "").partition("/")
                return run, workflow_id
        return "", ""


@contextmanager
def _one_error() -> Iterator[None]:
    """Raise the first of a group's errors by itself: it says what is wrong."""
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None


def _past(what: ReplayInput, plan: ReplayPlan | None = None) -> Past:
    """Return what is asked for; with a plan, what that found there."""
    since_us = 0 if what.since is None else moment_us(what.since)
    until_us = FOR_EVER_US if what.until is None else moment_us(what.until)
    epoch = what.epoch
    if plan is not None:
        since_us, until_us, epoch = plan.since_us, plan.until_us, plan.epoch
    products = None if what.products is None else tuple(what.products)
    return Past("raw", what.venue, since_us, until_us, products, epoch)


async def _ranges(
    lake: Lake,
    past: Past,
    shards: Collection[int] | None,
    after: Mapping[str, int] | None = None,
) -> list[LaneRange]:
    found = await lanes(lake, past, after=after)
    chosen = [one for one in found if shards is None or one.lane.shard in shards]
    if not chosen:
        there = ", ".join(str(one.lane.shard) for one in found)
        raise NothingThereError(str(past), f"nothing in these shards; there are {there}")
    return chosen


def _plan(past: Past, ranges: Sequence[LaneRange], after: Mapping[str, int]) -> ReplayPlan:
    """Pin down a range, so that what is archived later does not change it."""
    newest_us = max(found.entry.until_us for one in ranges for found in one.objects)
    until_us = min(past.until_us, newest_us + 1)
    oldest_us = min(one.objects[0].entry.since_us for one in ranges)
    since_us = max(past.since_us, oldest_us)
    first, last = min(one.first for one in ranges), max(one.last for one in ranges)
    return ReplayPlan(
        since_us=past.since_us,
        until_us=until_us,
        epoch=ranges[0].lane.epoch,
        lanes=[LanePlan(shard=one.lane.shard, first=one.first, last=one.last) for one in ranges],
        after=dict(after),
        sentence=f"{past.venue} from {text_of(since_us)} to {text_of(until_us)}, raw positions "
        f"{first:,} to {last:,} of epoch {ranges[0].lane.epoch}",
    )


def _at_the_beginning(state: Checkpoint) -> Checkpoint:
    """Return a checkpoint for streams that have nothing yet."""
    return msgspec.structs.replace(state, raw_seq=0, ticks_seq=0)
