"""One trace for a workflow with its activities, by Temporal's own interceptor and two additions.

What was started within a span goes on with that one's trace. What nobody's span has started (by a
schedule, or by a person) begins a trace whose id is the run's id, so that it can be found from the
workflow, and so does each run that continues another: a workflow that lives for ever would have a
trace without an end. And spans say what their workflow is about.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from temporalio import workflow
from temporalio.contrib.opentelemetry import TracingInterceptor, TracingWorkflowInboundInterceptor
from temporalio.worker import ExecuteWorkflowInput, WorkflowInterceptorClassInput

from streaming.tracing import TRACEPARENT, Fact, identity
from workflows.interceptors import facts_of

_RUN_ID = "temporalRunID"


class RunTracingInterceptor(TracingInterceptor):
    """Temporal's own tracing, with a trace for each run that nobody's span has started."""

    def workflow_interceptor_class(
        self,
        input: WorkflowInterceptorClassInput,  # noqa: A002  # its name
    ) -> type[TracingWorkflowInboundInterceptor]:
        """Return what traces a workflow from inside."""
        super().workflow_interceptor_class(input)
        return _TracedRun

    @contextmanager
    def _start_as_current_span(self, name: str, **options: Any) -> Iterator[None]:  # noqa: ANN401  # as they are
        """Leave out queries: each lane of the archive is asked every few seconds."""
        if name.startswith("QueryWorkflow:"):
            yield
        else:
            with super()._start_as_current_span(name, **options):
                yield

    def _completed_workflow_span(self, params: Any) -> Any:  # noqa: ANN401  # types of its own
        """Let the span of a run's beginning be the first of the run's own trace."""
        run_id = params.attributes[_RUN_ID]
        if not params.name.startswith("RunWorkflow:") or params.context != _own_trace(run_id):
            return super()._completed_workflow_span(params)
        with identity(*_ids_of(run_id)):
            return super()._completed_workflow_span(replace(params, context={}))


class _TracedRun(TracingWorkflowInboundInterceptor):
    """Runs in the sandbox: deterministic, and without a clock."""

    _facts: Mapping[str, Fact] = {}

    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:  # noqa: A002, ANN401  # its signature
        self._facts = facts_of(input.args)
        return await super().execute_workflow(input)

    def _load_workflow_context_carrier(self) -> Any:  # noqa: ANN401  # a type of its own
        info = workflow.info()
        started = None if info.continued_run_id else super()._load_workflow_context_carrier()
        return started or _own_trace(info.run_id)

    def _completed_span(self, span_name: str, **options: Any) -> None:  # noqa: ANN401  # as they are
        more = options.pop("additional_attributes", None) or {}
        super()._completed_span(span_name, additional_attributes={**more, **self._facts}, **options)


def _ids_of(run_id: str) -> tuple[int, int]:
    """Return the ids of a run's own trace and of its first span."""
    digits = run_id.replace("-", "")
    return int(digits, 16), int(digits[16:], 16)


def _own_trace(run_id: str) -> dict[str, str]:
    """Return the context that a run has which nobody's span has started."""
    trace_id, span_id = _ids_of(run_id)
    return {TRACEPARENT: f"00-{trace_id:032x}-{span_id:016x}-01"}
