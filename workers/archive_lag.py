"""How old the oldest message is that is not in the lake yet: `md_archive_lag_seconds`.

Read from the log itself, behind the position that the lane's workflow tells, so it grows while
the store fails, while Temporal is away, and while no archiver runs but this process. Before any
workflow has told, the lake itself is asked how far it goes.
"""

import asyncio
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

import structlog
from temporalio.client import Client, ScheduleActionExecutionStartWorkflow, WorkflowQueryFailedError
from temporalio.service import RPCError

from activities.archive import lane_subjects, stream_name
from models.archiving import ArchiveProgress, LaneName
from models.subjects import Streams
from storage.errors import StorageError
from storage.lake import Lake
from storage.layout import Lane
from streaming.broker.jetstream import JetStreamLog
from streaming.metrics import Readings
from workflows.schedules import archive_id

EVERY_S = 5.0
"""How often each lane is looked at."""

_ANSWER = timedelta(seconds=3)
_log = structlog.get_logger(__name__)


class _Archived(NamedTuple):
    """Up to where a lane is in the lake, in the log that was made at `epoch`."""

    epoch: int
    position: int


class LagMonitor:
    """Watches lanes until it is cancelled.

    Attributes: lag, the collector; client, none while Temporal has not answered yet.
    """

    def __init__(
        self, log: JetStreamLog, streams: Streams, lake: Lake, lanes: Sequence[LaneName]
    ) -> None:
        self._log, self._streams, self._lake, self._lanes = log, streams, lake, lanes
        self._archived: dict[LaneName, _Archived] = {}
        self._oldest_s: dict[LaneName, float | None] = {}
        self.client: Client | None = None
        self.lag = Readings(
            "md_archive_lag_seconds",
            "Age of the oldest message that is not archived",
            ("stream", "venue", "shard"),
            self._read,
        )

    async def run(self) -> None:
        """Look at each lane, for ever."""
        while True:
            for lane in self._lanes:
                await self._learn(lane)
                await self._look(lane)
            await asyncio.sleep(EVERY_S)

    def _read(self) -> dict[tuple[str, ...], float]:
        now_s = time.time()
        return {
            (lane.stream, lane.venue, str(lane.shard)): 0.0 if at is None else max(0.0, now_s - at)
            for lane, at in self._oldest_s.items()
        }

    async def _learn(self, lane: LaneName) -> None:
        """Find out how far the lane is archived; without an answer the last one holds."""
        try:
            if self.client is not None:
                await self._ask(self.client, lane)
        except (RPCError, WorkflowQueryFailedError) as error:
            _log.debug("no word from the archive", lane=str(lane), error=str(error))
        try:
            async with asyncio.timeout(_ANSWER.total_seconds()):
                if lane not in self._archived:
                    await self._look_up(lane)
        except (StorageError, TimeoutError) as error:
            _log.debug("no word from the lake", lane=str(lane), error=repr(error))

    async def _ask(self, client: Client, lane: LaneName) -> None:
        """Note what the lane's newest workflow says."""
        schedule = await client.get_schedule_handle(archive_id(lane)).describe()
        actions = [one.action for one in schedule.info.recent_actions]
        for action in reversed([*actions, *schedule.info.running_actions]):
            if isinstance(action, ScheduleActionExecutionStartWorkflow):
                handle = client.get_workflow_handle(action.workflow_id)
                told = await handle.query(
                    "progress", result_type=ArchiveProgress, rpc_timeout=_ANSWER
                )
                if told.position is not None and told.epoch is not None:
                    self._archived[lane] = _Archived(told.epoch, told.position)
                    return

    async def _look_up(self, lane: LaneName) -> None:
        """Note what the lake lists, once: while no workflow runs nothing is added to it."""
        epoch = (await self._log.extent(stream_name(self._streams, lane))).created_us
        known = Lane(lane.stream, lane.venue, lane.shard, epoch)
        hour = await self._lake.newest_hour(known)
        ranges = [] if hour is None else (await self._lake.manifest(known, hour)).ranges()
        self._archived[lane] = _Archived(epoch, max((last for _, last in ranges), default=0))

    async def _look(self, lane: LaneName) -> None:
        """Find the oldest message behind the position."""
        stream, known = stream_name(self._streams, lane), self._archived.get(lane)
        epoch = (await self._log.extent(stream)).created_us
        after = known.position if known is not None and known.epoch == epoch else 0
        oldest = await self._log.fetch(
            stream, lane_subjects(lane), after=after, limit=1, max_bytes=1
        )
        self._oldest_s[lane] = oldest[0].time_us / 1e6 if oldest else None
