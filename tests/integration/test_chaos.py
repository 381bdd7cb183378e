"""`make chaos` in its short form: the command itself, with everything in it real.

Each kind of process is killed, one is paused, one connection is cut, one after another is restarted
under subscribers: at 300 orders a second and with 20 subscribers, which is what two cores manage
beside the rest of a test run. The whole form has more of everything, and outages.
"""

import sys
from pathlib import Path

import pytest

from tests.servers import Process, eventually

WITHIN_S = 400
SEED = "7"


@pytest.mark.long
@pytest.mark.timeout(WITHIN_S + 30)
async def test_nothing_is_lost_doubled_or_reordered_whatever_fails(tmp_path: Path) -> None:
    """Canonical log against truth, subscribers and lake against the log, recoveries completed."""
    command = [sys.executable, "-m", "tests.chaos", "--short", "--seed", SEED]
    with Process(command, tmp_path / "chaos.log", measured=False) as chaos:
        await eventually(lambda: chaos.returncode is not None, within_s=WITHIN_S)
    said = chaos.log_file.read_text()
    assert chaos.returncode == 0, said
    assert "nothing lost, doubled or reordered" in said
