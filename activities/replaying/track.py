"""How far a replay has come, for heartbeats, for the workflow, and for its report."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from temporalio import activity
from temporalio.service import RPCError

from activities.sources import Record
from models.replaying import FOR_EVER_US, ReplayProgress, ReplayStep, State
from streaming.normalize import Normalizer

_TELL_FIRST_S = 1.0
_TELL_SHARE = 0.02


class Track:
    """How far a go has come. Attributes: state; normalizers; until_us, the end of the records."""

    def __init__(self, step: ReplayStep) -> None:
        info = activity.info()
        known = step.so_far or ReplayProgress(namespace=step.namespace)
        if info.heartbeat_details:  # of an attempt that was lost
            known = ReplayProgress.model_validate(info.heartbeat_details[0])
        self._known, self._speed = known, step.speed
        self.state: State = "running"
        self.until_us = FOR_EVER_US
        self.normalizers: list[Normalizer] = []
        self._exact_ticks: tuple[int | None] | None = None
        self.is_recount_due = info.attempt > 1 or known.ticks is None
        self.position, self.time_us = known.position, known.time_us
        self.messages, self.frames = known.messages, known.frames
        self._first = known.first_position, known.first_time_us
        self._began_s = time.monotonic()
        self._began: tuple[float, int, int] | None = None

    def note(self, record: Record, seq: int) -> None:
        """Count a record in."""
        self.position, self.time_us, self.messages = record.position, record.time_us, seq
        self.frames += record.payload.count(b"\n") + 1
        if not self._first[0]:
            self._first = record.position, record.time_us
        if self._began is None:
            self._began = time.monotonic(), self.frames, record.time_us

    def recount(self, ticks: int | None) -> None:
        """Take the number of ticks as it was counted in the end; none where that cannot be done."""
        self._exact_ticks = (ticks,)

    @property
    def seconds(self) -> float:
        """How long the replay has run, all its goes together."""
        return self._known.seconds + time.monotonic() - self._began_s

    @property
    def at(self) -> ReplayProgress:
        """What heartbeats tell."""
        return self.progress()

    def progress(self) -> ReplayProgress:
        """Return where things stand."""
        first_position, first_us = self._first
        whole_us = max(1, self.until_us - first_us)
        fraction = 1.0 if self.state == "complete" else (self.time_us - first_us) / whole_us
        rate, eta_s = self._rate_and_eta()
        return ReplayProgress(
            namespace=self._known.namespace,
            state=self.state,
            speed=self._speed,
            position=self.position,
            time_us=self.time_us,
            first_position=first_position,
            first_time_us=first_us,
            messages=self.messages,
            frames=self.frames,
            ticks=self._ticks(),
            fraction=min(1.0, max(0.0, fraction)) if first_position else 0.0,
            rate=rate,
            eta_s=eta_s,
            seconds=self.seconds,
        )

    def _ticks(self) -> int | None:
        if self._exact_ticks is not None:
            return self._exact_ticks[0]
        counted = sum(sum(one.ticks.values.values()) for one in self.normalizers)
        return (self._known.ticks or 0) + counted

    def _rate_and_eta(self) -> tuple[float, float | None]:
        """Return frames a second since this go began to publish, and the seconds left."""
        if self._began is None:
            return 0.0, None
        began_s, frames, time_us = self._began
        took_s = max(1e-3, time.monotonic() - began_s)
        left_us = max(0, self.until_us - self.time_us)
        speed = self._speed or (self.time_us - time_us) / 1e6 / took_s
        return (self.frames - frames) / took_s, left_us / 1e6 / speed if speed > 0 else None


@asynccontextmanager
async def telling(track: Track) -> AsyncIterator[None]:
    """Tell the workflow how far it is while the body runs, ever more seldom.

    So its history stays short however long it takes; heartbeats tell it at once.
    """
    info = activity.info()
    workflow = activity.client().get_workflow_handle(
        info.workflow_id or "", run_id=info.workflow_run_id
    )

    async def tell() -> None:
        while True:
            await asyncio.sleep(max(_TELL_FIRST_S, _TELL_SHARE * track.seconds))
            with suppress(RPCError):
                await workflow.signal("note", track.progress())

    task = asyncio.create_task(tell(), name="telling")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
