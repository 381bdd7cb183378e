"""Whose namespace a replay's streams are: what its messages say of themselves.

Each message of the raw stream tells the position of its record in the source, how much was
published up to there, which replay it is of, and which attempt has written it.
"""

from temporalio import activity
from temporalio.client import WorkflowExecutionStatus
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from models.replaying import NAMESPACE_TAKEN
from streaming.broker.log import LogMessage

POSITION_HEADER = "LF-Lake-Position"
"""Position in the source up to which everything has been published."""
FRAMES_HEADER = "LF-Replay-Frames"
"""Lines published up to here, this message's included."""
OWNER_HEADER = "LF-Replay"
"""`<run of the workflow>/<workflow>`: whose namespace this is."""
WRITER_HEADER = "LF-Replay-Writer"
"""`<go>.<attempt>`: a later one makes an earlier one a zombie."""


def owner() -> str:
    """Return what the messages of this activity's replay say in their `OWNER_HEADER`."""
    info = activity.info()
    return f"{info.workflow_run_id}/{info.workflow_id}"


def is_ours(message: LogMessage) -> bool:
    """Tell whether this replay has written a message."""
    return message.headers.get(OWNER_HEADER) == owner()


def check_owner(namespace: str, message: LogMessage) -> None:
    """Make sure that a message of a namespace is of this replay.

    Raises:
        ApplicationError: it is another's; final.
    """
    if not is_ours(message):
        owner = message.headers.get(OWNER_HEADER, "")
        whose = owner.partition("/")[2] or "somebody else"
        raise ApplicationError(
            f"{namespace} holds the replay of {whose}: choose another name, or delete it with "
            f"`ledgerflux replay forget {namespace}`",
            type=NAMESPACE_TAKEN,
            non_retryable=True,
        )


async def is_running(workflow_id: str, run: str) -> bool:
    """Tell whether the workflow of a replay has not ended yet."""
    handle = activity.client().get_workflow_handle(workflow_id, run_id=run)
    try:
        return (await handle.describe()).status == WorkflowExecutionStatus.RUNNING
    except RPCError as error:
        if error.status == RPCStatusCode.NOT_FOUND:
            return False
        raise
