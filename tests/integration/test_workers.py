"""Workers that cannot use their settings say so in one sentence."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("worker", "env", "words"),
    [
        ("ingestor", {"COINBASE_WS_PRIMARY": "http://x"}, "COINBASE_WS_PRIMARY='http://x'"),
        ("ingestor", {"INGEST_LINE": "a b"}, "INGEST_LINE='a b'"),
        ("normalizer", {"SHARD_COUNT": "none"}, "SHARD_COUNT='none'"),
        ("gateway", {"GATEWAY_PORT": "70000"}, "GATEWAY_PORT='70000'"),
        ("snapshot", {"LATEST_STORE": "redis"}, "LATEST_STORE='redis'"),
        ("archive", {"ARCHIVE_FLUSH_S": "0"}, "ARCHIVE_FLUSH_S='0'"),
    ],
)
def test_worker_with_a_bad_setting_names_it(worker: str, env: dict[str, str], words: str) -> None:
    """Exit status 2 and a sentence with the variable and its value; no traceback."""
    result = subprocess.run(  # noqa: S603
        [sys.executable, "-m", f"workers.{worker}"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **env},
        check=False,
    )
    assert result.returncode == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr
