"""Turns each request on MD_RESYNC into a workflow; repeats of a request are one workflow.

A request leaves the queue only when its workflow has been started or exists. While Temporal is
away requests wait in the queue, and come again by themselves.
"""

import asyncio
from contextlib import aclosing, suppress

import msgspec
import structlog
from temporalio.client import Client
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError

from models.decoding import UNREADABLE
from models.resync import ResyncRequest
from models.subjects import Streams
from streaming.broker.jetstream import JetStreamLog
from streaming.broker.work import Job, WorkQueue
from workflows.starting import of_request, start_in_stretch, start_resync

CONSUMER = "dispatcher"
"""Name of the consumer that all dispatchers share."""

_AT_ONCE = 16
_LATER_FIRST_S = 0.1
_LATER_MAX_S = 2.0
_decode = msgspec.json.Decoder(ResyncRequest).decode
_log = structlog.get_logger(__name__)


class Dispatcher:
    """Starts workflows until it is cancelled. Attributes: taken, requests that left the queue."""

    def __init__(
        self, log: JetStreamLog, streams: Streams, client: Client, shards: int = 1
    ) -> None:
        """Take what normalizers of so many shards request."""
        self._queue = WorkQueue(log, streams.resync, CONSUMER)
        self._client = client
        self._shards = shards
        self.taken = 0

    async def run(self) -> None:
        """Take requests for ever, a bounded number at once."""
        room = asyncio.Semaphore(_AT_ONCE)

        async def handle(job: Job) -> None:
            try:
                await self._handle(job)
            finally:
                room.release()

        async with asyncio.TaskGroup() as tasks, aclosing(self._queue.jobs()) as jobs:
            async for job in jobs:
                await room.acquire()
                tasks.create_task(handle(job))

    async def _handle(self, job: Job) -> None:
        try:
            request = _decode(job.payload)
        except UNREADABLE as error:
            _log.error("dropping a request that nobody can read", error=str(error))
            await job.never()
            return
        try:
            await self._start(request)
        except WorkflowAlreadyStartedError:
            _log.debug("has been recovered before", resync_id=request.resync_id)
        except RPCError as error:
            _log.warning("request waits", resync_id=request.resync_id, error=str(error))
            await job.later(min(_LATER_MAX_S, _LATER_FIRST_S * 2 ** min(job.deliveries, 8)))
            return
        await job.done()
        self.taken += 1

    async def _start(self, request: ResyncRequest) -> None:
        """Start the gap's workflow, or have the one of its connection's lost stretch do it."""
        gap = of_request(request, self._shards)
        if request.stretch is not None:
            with suppress(WorkflowAlreadyStartedError):  # ended: this request came late
                await start_in_stretch(self._client, gap, request.stretch)
                return
        await start_resync(self._client, gap)
