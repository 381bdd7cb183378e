"""How old the oldest message is that is not in the lake yet: `md_archive_lag_seconds`.

Read from the log itself, behind the position that the lane's workflow tells, so it grows while
the store fails, while Temporal is away, and while no archiver runs but this process.
"""

import asyncio
import time
from collections.abc import Sequence
from datetime import timedelta

import structlog
from temporalio.client import Client, ScheduleActionExecutionStartWorkflow, WorkflowQueryFailedError
from temporalio.service import RPCError

from activities.archive import lane_subjects, stream_name
from models.archiving import ArchiveProgress, LaneName
from models.subjects import Streams
from streaming.broker.jetstream import JetStreamLog
from streaming.metrics import Readings
from workflows.schedules import archive_id

EVERY_S = 5.0
"""How often each lane is looked at."""

_ANSWER = timedelta(seconds=3)
_log = structlog.get_logger(__name__)


class LagMonitor:
    """Watches lanes until it is cancelled. Attributes: lag, the collector."""

    def __init__(
        self, client: Client, log: JetStreamLog, streams: Streams, lanes: Sequence[LaneName]
    ) -> None:
        self._client, self._log, self._streams, self._lanes = client, log, streams, lanes
        self._progress: dict[LaneName, ArchiveProgress] = {}
        self._oldest_s: dict[LaneName, float | None] = {}
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
                try:
                    await self._ask(lane)
                except (RPCError, WorkflowQueryFailedError) as error:
                    _log.debug("no word from the archive", lane=str(lane), error=str(error))
                await self._look(lane)
            await asyncio.sleep(EVERY_S)

    def _read(self) -> dict[tuple[str, ...], float]:
        now_s = time.time()
        return {
            (lane.stream, lane.venue, str(lane.shard)): 0.0 if at is None else max(0.0, now_s - at)
            for lane, at in self._oldest_s.items()
        }

    async def _ask(self, lane: LaneName) -> None:
        """Note what the lane's newest workflow says; without an answer the last one holds."""
        schedule = await self._client.get_schedule_handle(archive_id(lane)).describe()
        actions = [one.action for one in schedule.info.recent_actions]
        for action in reversed([*actions, *schedule.info.running_actions]):
            if isinstance(action, ScheduleActionExecutionStartWorkflow):
                handle = self._client.get_workflow_handle(action.workflow_id)
                told = await handle.query(
                    "progress", result_type=ArchiveProgress, rpc_timeout=_ANSWER
                )
                if told.position is not None:
                    self._progress[lane] = told
                    return

    async def _look(self, lane: LaneName) -> None:
        """Find the oldest message behind the position."""
        stream, known = stream_name(self._streams, lane), self._progress.get(lane)
        after = 0
        if known is not None and known.position is not None:
            epoch = (await self._log.extent(stream)).created_us
            after = known.position if known.epoch == epoch else 0
        oldest = await self._log.fetch(
            stream, lane_subjects(lane), after=after, limit=1, max_bytes=1
        )
        self._oldest_s[lane] = oldest[0].time_us / 1e6 if oldest else None
