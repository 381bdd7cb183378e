"""Starts a recovery so that it is found again: ids, policies, what the list shows."""

from datetime import timedelta
from typing import Any

import msgspec
from temporalio.client import Client, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy

from models.recovery import GAP_RESYNC, RESYNC_QUEUE, ResyncInput, ResyncReport
from models.resync import ResyncRequest
from workflows import attributes

_RPC_TIMEOUT = timedelta(seconds=5)


def of_request(request: ResyncRequest) -> ResyncInput:
    """Return the workflow's input for a request of the normalizer."""
    return ResyncInput.model_validate(msgspec.structs.asdict(request))


async def start_resync(client: Client, gap: ResyncInput) -> WorkflowHandle[Any, ResyncReport]:
    """Start the workflow of a gap, or return the one that runs; its id is the gap's.

    Raises:
        WorkflowAlreadyStartedError: it has ended, and not by failing: nothing is left to do.
        RPCError: the server did not take it; ask again.
    """
    return await client.start_workflow(
        GAP_RESYNC,
        gap,
        id=gap.resync_id,
        task_queue=RESYNC_QUEUE,
        result_type=ResyncReport,
        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        search_attributes=attributes.search_attributes(gap),
        static_summary=attributes.summary(gap),
        static_details=attributes.details(gap),
        # Where the client's own process has the worker, the first task comes with the answer.
        request_eager_start=True,
        rpc_timeout=_RPC_TIMEOUT,
    )
