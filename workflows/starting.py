"""Starts a recovery so that it is found again: ids, policies, what the list shows."""

from datetime import timedelta
from typing import Any

import msgspec
from temporalio.client import Client, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy

from models.recovery import (
    GAP_RESYNC,
    RESYNC_QUEUE,
    STRETCH_RESYNC,
    ResyncInput,
    ResyncReport,
    StretchInput,
)
from models.resync import ResyncRequest
from models.subjects import shard_of
from workflows import attributes

_RPC_TIMEOUT = timedelta(seconds=5)


def of_request(request: ResyncRequest, shards: int = 1) -> ResyncInput:
    """Return the workflow's input for a request of the normalizer, one of so many shards."""
    shard = shard_of(request.venue, request.product, shards)
    return ResyncInput.model_validate(msgspec.structs.asdict(request) | {"shard": shard})


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


async def start_in_stretch(client: Client, gap: ResyncInput, stretch: str) -> None:
    """Hand a gap to the workflow of the connection stretch whose loss has opened it.

    Raises:
        WorkflowAlreadyStartedError: that one has ended already; start the gap by itself.
        RPCError: the server did not take it; ask again.
    """
    await client.start_workflow(
        STRETCH_RESYNC,
        StretchInput(venue=gap.venue, stretch=stretch),
        id=f"stretch/{gap.venue}/{stretch}",
        task_queue=RESYNC_QUEUE,
        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY,
        start_signal="add",
        start_signal_args=[gap],
        search_attributes=attributes.of_stretch(gap.venue),
        static_summary=f"{gap.venue}: frames of connection {stretch} lost",
        rpc_timeout=_RPC_TIMEOUT,
    )
