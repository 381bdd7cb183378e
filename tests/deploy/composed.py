"""The compose file as a compose implementation understands it, and its services run natively."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.servers import PATIENCE_S

ROOT = Path(__file__).parents[2]
SECRETS = {
    "NATS_PASSWORD": "s-of-nats",
    "S3_ACCESS_KEY": "sofs3key",
    "S3_SECRET_KEY": "s-of-s3-secret",
    "GRAFANA_PASSWORD": "s-of-grafana",
}
SIMULATED = {
    "COINBASE_WS_PRIMARY": "ws://simulator:8900",
    "COINBASE_REST_URL": "http://simulator:8900",
}
_PROFILES = ("sim", "canary", "redis")

Service = dict[str, Any]


def is_ours(service: Service) -> bool:
    """Tell whether a service runs this project's image, or a candidate's."""
    return str(service["image"]).startswith("ledgerflux:")


def script(name: str) -> str:
    """Return the path of a program that a wheel brought."""
    return str(Path(sys.executable).with_name(name))


def composed(**env: str) -> dict[str, Any]:
    """Return what podman-compose makes of the file: merged, with variables filled in."""
    loaded: dict[str, Any] = YAML(typ="safe").load(_podman_compose(ROOT, env, "config"))
    return loaded


def given(root: Path, service: str) -> dict[str, str]:
    """Return the environment that a container of a compose file in `root` is given.

    Its environment files included, as podman is told; of a name that is told twice the last counts.
    """
    told = _podman_compose(root, SECRETS, "run", "--no-deps", service).split()
    pairs = (word for flag, word in pairwise(told) if flag == "-e")
    return dict(pair.split("=", 1) for pair in pairs)


def _podman_compose(root: Path, env: dict[str, str], *words: str) -> str:
    profiles = (word for profile in _PROFILES for word in ("--profile", profile))
    # In podman's place, `echo` says what podman would be told.
    command = [script("podman-compose"), "--podman-path", str(shutil.which("echo")), *profiles]
    done = subprocess.run(  # noqa: S603
        [*command, *words],
        cwd=root,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def natively(words: Sequence[str], places: dict[str, str]) -> list[str]:
    """Return a command of the image as it runs here: our Python, and places of this machine."""
    programs = {"python": sys.executable, "ledgerflux": script("ledgerflux")}
    return [programs.get(word, moved(word, places)) for word in words]


def moved(text: str, places: dict[str, str]) -> str:
    """Put an address of this machine in the place of each one of the compose network."""
    pattern = re.compile("|".join(map(re.escape, sorted(places, key=len, reverse=True))))
    return pattern.sub(lambda found: places[found[0]], text)
