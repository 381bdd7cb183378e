"""Temporal: the server, its namespace and search attributes, who polls, and the schedules."""

import asyncio
import math
import re
from datetime import UTC, datetime, timedelta

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    DescribeNamespaceRequest,
    DescribeTaskQueueRequest,
    GetSystemInfoRequest,
)
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from cli.checks.finding import Finding, broken, ok, warning
from models.archiving import ARCHIVE_QUEUE, LAKE_QUEUE
from models.recovery import RESYNC_QUEUE, VENUE_QUEUE
from models.replaying import REPLAY_QUEUE
from models.settings import Settings
from workflows.attributes import KEYS
from workflows.connect import connect
from workflows.schedules import lanes_of, schedule_ids

POLLED_WITHIN_S = 90.0
"""A poll lasts up to a minute and is counted from its beginning; who is older has gone."""

_TEMPORAL, _ATTRIBUTES, _SCHEDULES = "temporal", "search attributes", "schedules"
_WORKFLOWS = TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW
_ACTIVITIES = TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY
_INNERMOST = re.compile(r'message: "([^"]+)"')
_BOTH = (_WORKFLOWS, _ACTIVITIES)
_OF_LAKE = frozenset({ARCHIVE_QUEUE, LAKE_QUEUE})
_ON_DEMAND = frozenset({REPLAY_QUEUE})
_UNKNOWABLE = frozenset({RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNIMPLEMENTED})

QUEUES = {
    RESYNC_QUEUE: (_BOTH, "gaps are not recovered: start a recovery worker (`make run-recovery`)"),
    VENUE_QUEUE: (
        (_ACTIVITIES,),
        "nothing is fetched from the venue: start a recovery worker (`make run-recovery`)",
    ),
    ARCHIVE_QUEUE: (_BOTH, "nothing is archived: start an archive worker (`make run-archive`)"),
    LAKE_QUEUE: (
        _BOTH,
        "the lake is neither compacted nor audited: start an archive worker (`make run-archive`)",
    ),
    REPLAY_QUEUE: (_BOTH, "no replay can run: start a replay worker (`make run-replay`)"),
}
"""Task queues that must be polled: for what, and what is amiss when nobody does."""


async def temporal(settings: Settings, answer_s: float) -> list[Finding]:
    """Look at the server, and, if it answers, at all that should be known to it."""
    within = timedelta(seconds=answer_s)
    place = f"{settings.temporal_address}, namespace {settings.temporal_namespace}"
    try:
        client = await connect(settings)
        namespace = DescribeNamespaceRequest(namespace=settings.temporal_namespace)
        await client.workflow_service.describe_namespace(namespace, timeout=within)
        info = await client.workflow_service.get_system_info(GetSystemInfoRequest(), timeout=within)
    except (RuntimeError, RPCError, OSError) as error:
        return [broken(_TEMPORAL, f"{place}: {_why(error, settings)}")]
    version = ok(_TEMPORAL, f"{place}: server {info.server_version}")
    lake = settings.has_lake
    queues = [name for name in QUEUES if lake or name not in _OF_LAKE]
    looks = [_attributes(client, within), *(_polled(client, name, within) for name in queues)]
    if lake:
        looks.append(_schedules(client, settings, within))
    return [version, *await asyncio.gather(*looks)]


def _why(error: Exception, settings: Settings) -> str:
    status = error.status if isinstance(error, RPCError) else None
    if status == RPCStatusCode.NOT_FOUND:
        name = settings.temporal_namespace
        return (
            "there is no such namespace; create it (`temporal operator namespace create "
            f"--namespace {name}`), or correct TEMPORAL_NAMESPACE"
        )
    if status in {RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNAUTHENTICATED}:
        return f"it does not let us in ({error}); check TEMPORAL_API_KEY and TEMPORAL_TLS_*"
    return f"no answer ({reason_of(error)}); start it, or set TEMPORAL_ADDRESS"


def reason_of(error: Exception) -> str:
    """Return why Temporal cannot be reached: the client's words wrap the system's several times."""
    innermost: list[str] = _INNERMOST.findall(str(error))
    return innermost[-1] if innermost else str(error)


async def _attributes(client: Client, within: timedelta) -> Finding:
    request = ListSearchAttributesRequest(namespace=client.namespace)
    try:
        known = await client.operator_service.list_search_attributes(request, timeout=within)
    except RPCError as error:
        if error.status in _UNKNOWABLE:
            return warning(_ATTRIBUTES, f"may not be listed here ({error}); see that they exist")
        return broken(_ATTRIBUTES, f"cannot be listed ({error})")
    missing = [key.name for key in KEYS if key.name not in known.custom_attributes]
    if not missing:
        return ok(_ATTRIBUTES, ", ".join(key.name for key in KEYS))
    options = " ".join(f"--name {name} --type Keyword" for name in missing)
    return broken(
        _ATTRIBUTES,
        f"{', '.join(missing)} missing; a worker that starts registers them, or: `temporal "
        f"operator search-attribute create {options}`",
    )


async def _polled(client: Client, queue: str, within: timedelta) -> Finding:
    """Tell who serves a task queue; it is served when all that it is for is polled for."""
    name, (kinds, amiss) = f"task queue {queue}", QUEUES[queue]
    try:
        ages = [await poller_ages_s(client, queue, kind, within) for kind in kinds]
    except RPCError as error:
        return broken(name, f"cannot be looked at ({error})")
    newest = max((min(one.values(), default=math.inf) for one in ages), default=math.inf)
    if newest <= POLLED_WITHIN_S:
        count = min(sum(age_s <= POLLED_WITHIN_S for age_s in one.values()) for one in ages)
        return ok(name, "one worker polls" if count == 1 else f"{count} workers poll")
    last = "" if newest == math.inf else f" (the last one did {newest / 60:.0f} min ago)"
    tell = warning if queue in _ON_DEMAND else broken
    return tell(name, f"no worker polls{last}: {amiss}")


async def poller_ages_s(
    client: Client, queue: str, kind: "TaskQueueType.ValueType", within: timedelta
) -> dict[str, float]:
    """Return how long ago each worker began its last poll, by the worker's identity.

    Raises:
        RPCError: the server does not tell.
    """
    request = DescribeTaskQueueRequest(
        namespace=client.namespace, task_queue=TaskQueue(name=queue), task_queue_type=kind
    )
    answer = await client.workflow_service.describe_task_queue(request, timeout=within)
    now = datetime.now(UTC)
    return {
        one.identity: (now - one.last_access_time.ToDatetime(UTC)).total_seconds()
        for one in answer.pollers
    }


async def _schedules(client: Client, settings: Settings, within: timedelta) -> Finding:
    wanted = schedule_ids(lanes_of(settings, []))
    paused: dict[str, str] = {}
    known: set[str] = set()
    try:
        async for one in await client.list_schedules(rpc_timeout=within):
            known.add(one.id)
            if one.schedule is not None and one.schedule.state.paused:
                paused[one.id] = one.schedule.state.note or "no reason given"
    except RPCError as error:
        return broken(_SCHEDULES, f"cannot be listed ({error})")
    missing = [name for name in wanted if name not in known]
    if missing:
        return broken(
            _SCHEDULES,
            f"{', '.join(missing)} missing; the archive worker makes them: start one (`make "
            "run-archive`)",
        )
    stopped = [f"{name} ({paused[name]})" for name in wanted if name in paused]
    if stopped:
        return warning(
            _SCHEDULES,
            f"paused: {', '.join(stopped)}; go on with `temporal schedule toggle --unpause "
            "--schedule-id <name>`",
        )
    return ok(_SCHEDULES, f"{len(wanted)} of the lake, none paused")
