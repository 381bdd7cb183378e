"""Canaries around real servers: Temporal, an object store with a past in it, candidates."""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker

from activities.canary import CanaryActivities
from models.canary import CANARY, CANARY_FAILED, CanaryInput, CanaryReport
from models.replaying import REPLAY_QUEUE
from models.settings import Settings
from storage.lake import Lake
from storage.objects import ObjectStore
from tests.judged_past import Story
from tests.recovery import TemporalServer
from tests.servers import Process, port_open
from tests.servers_s3 import LocalBucket, store_settings
from workers.candidate import candidate_activities, candidate_worker
from workflows.canary import CanaryReplayWorkflow
from workflows.connect import connect_patiently


@dataclass
class Court:
    """Everything that a canary needs. Attributes: activities, of the replay queue."""

    settings: Settings
    client: Client
    store: ObjectStore
    bucket: LocalBucket
    activities: CanaryActivities

    @property
    def lake(self) -> Lake:
        """The lake."""
        return Lake(self.store)

    @asynccontextmanager
    async def candidate(self, queue: str = "candidate", **more: Any) -> AsyncIterator[None]:
        """Serve a queue from this process; `make` gives a candidate that is broken."""
        judging = candidate_activities(self.lake, self.settings, **more)
        async with candidate_worker(self.client, queue, judging):
            yield

    async def start(self, name: str, **wanted: Any) -> WorkflowHandle[Any, CanaryReport]:
        """Start a canary."""
        return await self.client.start_workflow(
            CANARY,
            CanaryInput(**wanted),
            id=name,
            task_queue=REPLAY_QUEUE,
            result_type=CanaryReport,
        )

    async def judge(self, name: str, **wanted: Any) -> CanaryReport:
        """Run a canary to its end."""
        return await (await self.start(name, **wanted)).result()

    async def refused(self, name: str, **wanted: Any) -> CanaryReport:
        """Run a canary that cannot be judged; return the report of its failure."""
        with pytest.raises(WorkflowFailureError) as caught:
            await self.judge(name, **wanted)
        cause = caught.value.cause
        assert isinstance(cause, ApplicationError)
        assert (cause.type, cause.non_retryable) == (CANARY_FAILED, True)
        report = CanaryReport.model_validate(cause.details[0])
        assert report.verdict is None
        return report


@asynccontextmanager
async def court(
    root: Path, story: Story | None = None, *, messages: int = 100
) -> AsyncIterator[Court]:
    """Run Temporal, a store with a past in it, and the worker of the replay queue."""
    async with AsyncExitStack() as stack:
        temporal = stack.enter_context(TemporalServer(root / "temporal"))
        bucket = stack.enter_context(LocalBucket(root / "s3"))
        await port_open(bucket.port)
        settings = store_settings(bucket.port, temporal_address=temporal.address)
        store = await stack.enter_async_context(ObjectStore.connect(settings))
        await store.create_bucket()
        if story is not None:
            await story.archive(Lake(store), messages=messages)
        client = await connect_patiently(settings)
        activities = CanaryActivities(Lake(store))
        await stack.enter_async_context(
            Worker(
                client,
                task_queue=REPLAY_QUEUE,
                workflows=[CanaryReplayWorkflow],
                activities=[activities.plan_canary, activities.note_canary],
                max_cached_workflows=100,
            )
        )
        yield Court(settings, client, store, bucket, activities)


class CandidateProcess(Process):
    """A candidate as a process of its own, which a test can kill."""

    def __init__(self, root: Path, settings: Settings, *arguments: str, module: str) -> None:
        secret = settings.s3_secret_key
        assert secret is not None
        told = {
            "TEMPORAL_ADDRESS": settings.temporal_address,
            "S3_ENDPOINT": str(settings.s3_endpoint),
            "S3_BUCKET": settings.s3_bucket,
            "S3_REGION": str(settings.s3_region),
            "S3_ACCESS_KEY": str(settings.s3_access_key),
            "S3_SECRET_KEY": secret.get_secret_value(),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        command = [sys.executable, "-m", module, *arguments]
        super().__init__(command, root / "candidate.log", told, measured=False)
