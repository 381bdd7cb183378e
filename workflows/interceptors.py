"""What every Temporal client and worker of ours does around calls: log context, and traces.

What an activity logs names its subject; where traces are on, spans do as well (see `tracing`).
"""

import time
from collections.abc import Sequence
from typing import Any

import structlog
from temporalio import activity
from temporalio.client import Interceptor as ClientInterceptor
from temporalio.client import OutboundInterceptor, StartWorkflowInput, WorkflowHandle
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from streaming.tracing import Fact, annotate, tracing

_FACTS = ("venue", "product", "feed", "stream", "shard")
_SUBJECTS = ("gap", "where")
_log = structlog.get_logger(__name__)


def interceptors() -> list[ClientInterceptor]:
    """Return the interceptors of a client, which hold for its workers as well."""
    active = tracing()
    if active is None:
        return [FactsInterceptor()]
    # Temporal's part for this loads the SDK, 7 MB that are not spent where traces are off.
    from workflows.tracing import RunTracingInterceptor  # noqa: PLC0415

    return [RunTracingInterceptor(active.tracer), FactsInterceptor()]


def facts_of(arguments: Sequence[object]) -> dict[str, Fact]:
    """Return what a call's argument says of its subject: venue, product, feed, stream, shard.

    Some activities have the gap or the hour that they are about as a field.
    """
    found: dict[str, Fact] = {}
    for argument in arguments[:1]:
        for subject in (argument, *(getattr(argument, name, None) for name in _SUBJECTS)):
            told = {name: getattr(subject, name, None) for name in _FACTS}
            found |= {name: fact for name, fact in told.items() if isinstance(fact, str | int)}
    return found


class FactsInterceptor(ClientInterceptor, Interceptor):
    """Puts the subject of a call into its span, and into what its activity logs."""

    def intercept_client(self, next: OutboundInterceptor) -> OutboundInterceptor:  # noqa: A002  # its name
        """Put the subject of a workflow into the span of its start."""
        return _Starting(next)

    def intercept_activity(
        self,
        next: ActivityInboundInterceptor,  # noqa: A002  # its name
    ) -> ActivityInboundInterceptor:
        """Put the subject of an activity into its span and its log lines."""
        return _Acting(next)


class _Starting(OutboundInterceptor):
    async def start_workflow(self, input: StartWorkflowInput) -> WorkflowHandle[Any, Any]:  # noqa: A002  # its name
        annotate(**facts_of(input.args))
        return await super().start_workflow(input)


class _Acting(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002, ANN401  # its signature
        facts, info, began_s = facts_of(input.args), activity.info(), time.perf_counter()
        annotate(**facts)
        with structlog.contextvars.bound_contextvars(**facts, workflow_id=info.workflow_id):
            try:
                return await super().execute_activity(input)
            finally:
                duration_ms = round((time.perf_counter() - began_s) * 1000)
                _log.debug("activity ended", activity=info.activity_type, duration_ms=duration_ms)
