"""The archive's storm in its short form: kills, restarts, an outage, and a lake that is equal."""

from pathlib import Path

import pytest

from tests.archive_storm import SHORT, storm

pytestmark = pytest.mark.long


@pytest.mark.timeout(SHORT.within_s + 60)
async def test_lake_equals_the_log_whatever_fails(tmp_path: Path) -> None:
    """Every message of both streams once, byte for byte; every chain whole; the audit agrees."""
    assert await storm(tmp_path, SHORT) == []
