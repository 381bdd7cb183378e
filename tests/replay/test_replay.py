"""Today's workflow code replays every recorded history, and refuses the known-bad one."""

import json
from pathlib import Path

import pytest
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer
from temporalio.workflow import NondeterminismError

from tests.replay.record import ARCHIVE_PATHS, BAD, CANARY_PATHS, HISTORIES, KEPT, PATHS
from tests.replay.replays import REPLAY_PATHS
from workflows.archive import ArchiveWorkflow
from workflows.canary import CanaryReplayWorkflow
from workflows.compact import CompactWorkflow
from workflows.connect import DATA_CONVERTER
from workflows.gap_resync import GapResyncWorkflow
from workflows.lake_audit import LakeAuditWorkflow
from workflows.replay import ForgetReplayWorkflow, ReplayWorkflow
from workflows.stretch_resync import StretchResyncWorkflow

RECORDED = sorted(HISTORIES.glob("*.json"))


def history(path: Path) -> WorkflowHistory:
    """Read a recorded history."""
    told = json.loads(path.read_text(encoding="utf-8"))
    return WorkflowHistory.from_json(told["workflow_id"], told["history"])


def replayer() -> Replayer:
    """Return a replayer of today's code."""
    return Replayer(
        workflows=[
            *(GapResyncWorkflow, StretchResyncWorkflow),
            *(ArchiveWorkflow, CompactWorkflow, LakeAuditWorkflow),
            *(CanaryReplayWorkflow, ReplayWorkflow, ForgetReplayWorkflow),
        ],
        data_converter=DATA_CONVERTER,
    )


def test_histories_of_every_path_are_there() -> None:
    """Without histories nothing would be proven: that is a failure, not a pass."""
    paths = (*PATHS, *ARCHIVE_PATHS, *CANARY_PATHS, *REPLAY_PATHS)
    expected = {path.__name__.strip("_") for path in paths} | {BAD, *KEPT}
    assert {path.stem for path in RECORDED} == expected


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
async def test_history_replays(path: Path) -> None:
    """Every workflow that began under an older release can go on under this one."""
    if path.stem == BAD:
        with pytest.raises(NondeterminismError):
            await replayer().replay_workflow(history(path))
    else:
        await replayer().replay_workflow(history(path))
