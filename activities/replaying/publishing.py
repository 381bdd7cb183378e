"""Publishing a source's records into a namespace: paced, each once, from wherever it stands."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import aclosing, suppress

import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.replaying.namespace import (
    FRAMES_HEADER,
    OWNER_HEADER,
    POSITION_HEADER,
    WRITER_HEADER,
    check_owner,
    is_ours,
    owner,
)
from activities.replaying.normalizing import Normalizing
from activities.replaying.track import Track
from activities.sources import Record, Source
from models.replaying import ReplayStep
from storage.errors import StorageError
from streaming.broker.appender import Appender, DoubtError
from streaming.broker.jetstream import JetStreamLog
from streaming.broker.log import LogMessage
from streaming.core.pace import Pace

_EARLY_US = 1000
"""A record may be this early: to wait for less is not worth while."""

_DOUBT_PAUSE_S = 0.05
_log = structlog.get_logger(__name__)


class Publisher:
    """Publishes a source's records, each once, whatever happens on the way."""

    def __init__(
        self,
        log: JetStreamLog,
        source: Source,
        step: ReplayStep,
        track: Track,
        normalizing: Normalizing,
    ) -> None:
        self._source, self._track, self._normalizing = source, track, normalizing
        self._namespace = step.namespace
        self._appender = Appender(log, source.stream)
        self._pace = Pace(step.speed)
        self._writer = step.round_, activity.info().attempt
        self._headers = {
            OWNER_HEADER: owner(),
            WRITER_HEADER: "{}.{}".format(*self._writer),
        }

    async def run(self) -> None:
        """Publish everything that is left."""
        while True:
            after = await self.settle()
            try:
                await self._publish(after)
                await self._appender.flush()
            except DoubtError as error:
                _log.warning("looking at what is stored", stream=self._namespace, error=str(error))
                await asyncio.sleep(_DOUBT_PAUSE_S)
            else:
                return

    async def settle(self) -> int:
        """Find out what is stored, and return the position of its newest record.

        Raises:
            ApplicationError: it is not ours any more, or cannot be known any more.
        """
        with suppress(DoubtError):
            # The server may tell what a stream holds before it has stored what came first.
            await self._appender.flush()
        newest = await self._appender.newest()
        self._normalizing.forget(self._appender.last)
        track = self._track
        if self._is_first(newest):
            return 0
        if newest is None:
            if self._appender.last:
                raise ApplicationError(
                    f"{self._namespace} has dropped its newest record, so where to go on is not "
                    "known; forget it, and start the replay again",
                    track.progress(),
                    non_retryable=True,
                )
            track.position = track.messages = track.frames = 0
            return 0
        check_owner(self._namespace, newest)
        go, _, attempt = newest.headers[WRITER_HEADER].partition(".")
        if (int(go), int(attempt)) > self._writer:
            raise ApplicationError(f"a later attempt writes {self._namespace}")
        track.position = int(newest.headers[POSITION_HEADER])
        track.messages = track.position if self._source.is_shared else newest.seq
        track.frames = int(newest.headers[FRAMES_HEADER])
        return track.position

    def _is_first(self, newest: LogMessage | None) -> bool:
        """Tell whether a stream of several replays has nothing of this one yet."""
        is_nobodys = newest is None or not is_ours(newest)
        return self._source.is_shared and not self._track.position and is_nobodys

    async def _publish(self, after: int) -> None:
        track, append = self._track, self._appender.append
        async with aclosing(self._source.records(after)) as batches:
            async for batch in batches:
                track.until_us = self._source.until_us
                for record in batch:
                    if self._pace.speed and record.time_us >= self._source.since_us:
                        await self._until_due(record)
                    unfinished = self._told(track.position, track.frames)
                    alone = not self._source.is_shared
                    track.note(record, self._appender.last + 1 if alone else record.position)
                    told = self._told(record.position, track.frames)
                    seq = await append(record.subject, record.payload, told, unfinished)
                    await self._normalizing.publish(record.subject, seq, len(record.payload))

    def _told(self, position: int, frames: int) -> Mapping[str, str]:
        return {**self._headers, POSITION_HEADER: str(position), FRAMES_HEADER: str(frames)}

    async def _until_due(self, record: Record) -> None:
        """Wait until a record is due; meanwhile nothing is left in doubt."""
        now_us = time.monotonic_ns() // 1000
        due_us = self._pace.due_us(record.time_us, now_us)
        if due_us - now_us > _EARLY_US:
            await self._appender.flush()
            now_us = time.monotonic_ns() // 1000
            await asyncio.sleep(max(0, due_us - now_us) / 1e6)


async def until_told_to_stop(publisher: Publisher, track: Track) -> StorageError | None:
    """Publish to the end, or until the workflow has cancelled; return a failure that is final.

    Either way everything before is stored, and `track` says exactly how far.
    """
    publishing = asyncio.create_task(publisher.run(), name="publisher")
    try:
        await asyncio.wait([publishing])
    except asyncio.CancelledError:
        publishing.cancel()
        await asyncio.wait([publishing])
        details, task = activity.cancellation_details(), asyncio.current_task()
        if details is None or not details.cancel_requested or task is None:
            raise
        task.uncancel()
        track.state = "paused"
    error = None if publishing.cancelled() else publishing.exception()
    if error is not None and not (isinstance(error, StorageError) and error.is_final):
        raise error
    await publisher.settle()
    return error
