"""Workers as processes: settings that they cannot use, and servers that they wait for."""

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.servers import PATIENCE_S, NatsServer, Process, eventually, free_port, port_open


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
        timeout=PATIENCE_S,
        env={**os.environ, **env},
        check=False,
    )
    assert result.returncode == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr


async def test_worker_whose_metrics_port_is_taken_says_so(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    """Exit status 1 and a sentence; no traceback."""
    env = {"NATS_URLS": nats_server.url, "METRICS_PORT": str(nats_server.port)}
    command = [sys.executable, "-m", "workers.normalizer"]
    with Process(command, tmp_path / "log", env, measured=False) as worker:
        await eventually(lambda: worker.returncode is not None)
    text = worker.log_file.read_text()
    assert worker.returncode == 1
    assert f"cannot listen on 127.0.0.1 port {nats_server.port}" in text
    assert "METRICS_PORT" in text
    assert "Traceback" not in text


async def test_worker_that_waits_for_temporal_is_healthy_and_tells_its_metrics(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    """Whoever probes it must not kill it; and it ends at once when it is told to."""
    ports = {"archive": free_port(), "candidate": free_port()}
    env = {
        "NATS_URLS": nats_server.url,
        "TEMPORAL_ADDRESS": f"127.0.0.1:{free_port()}",
        "S3_ENDPOINT": f"http://127.0.0.1:{free_port()}",
        "S3_ACCESS_KEY": "test",
        "S3_SECRET_KEY": "test",
        "S3_REGION": "us-east-1",
    }
    with ExitStack() as stack:
        workers: list[Process] = []
        for name, port in ports.items():
            command = [sys.executable, "-m", f"workers.{name}"]
            told = env | {"METRICS_PORT": str(port)}
            worker = Process(command, tmp_path / f"{name}.log", told, measured=False)
            workers.append(stack.enter_context(worker))
        for port in ports.values():
            await port_open(port)
            address = f"http://127.0.0.1:{port}"
            async with httpx.AsyncClient(
                base_url=address, trust_env=False, timeout=PATIENCE_S
            ) as http:
                assert (await http.get("/healthz")).status_code == httpx.codes.OK
                assert "# HELP md_" in (await http.get("/metrics")).text
        assert [worker.stop() for worker in workers] == [0, 0]
