"""Everything runs, a real Prometheus watches it, and all that is documented can be asked."""

import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.commands import run
from tests.embedded import PORTS, command, told
from tests.observing import (
    OBSERVABILITY,
    documented,
    expressions,
    needs_prometheus,
    runbook_commands,
)
from tests.servers import PATIENCE_S, Process, eventually, free_port, free_ports, port_open

pytestmark = pytest.mark.long

PRODUCTS = "BTC-USD,ETH-USD"
METRICS_PORTS = 12
SERVICES = {"normalizer-0": "normalizer"}
"""Parts of `ledgerflux up` that have another name than the job and the documentation have."""


@dataclass(frozen=True)
class System:
    """All that `ledgerflux up` runs. `metrics`: address of each worker's; `ports`: of each part."""

    metrics: dict[str, str]
    ports: dict[str, int]
    http: httpx.AsyncClient

    async def families(self, worker: str) -> dict[str, Metric]:
        """Return what a worker serves at this moment, by family."""
        answer = await self.http.get(f"http://{self.metrics[worker]}/metrics")
        answer.raise_for_status()
        return {family.name: family for family in text_string_to_metric_families(answer.text)}

    async def fault(self, **spec: object) -> None:
        """Have the simulated exchange do something wrong."""
        url = f"http://127.0.0.1:{self.ports['sim']}/sim/faults"
        (await self.http.post(url, json=spec)).raise_for_status()

    @property
    def environment(self) -> dict[str, str]:
        """What a person would have set who is at this system."""
        return {
            "NATS_URLS": f"nats://127.0.0.1:{self.ports['nats']}",
            "GATEWAY_PORT": str(self.ports["gateway"]),
            "TEMPORAL_ADDRESS": f"127.0.0.1:{self.ports['temporal']}",
            "S3_ENDPOINT": f"http://127.0.0.1:{self.ports['s3']}",
            "S3_ACCESS_KEY": "ledgerflux",
            "S3_SECRET_KEY": "ledgerflux",
            "COINBASE_PRODUCTS": PRODUCTS,
            "COINBASE_REST_URL": f"http://127.0.0.1:{self.ports['sim']}",
            "COINBASE_WS_PRIMARY": f"ws://127.0.0.1:{self.ports['sim']}",
        }


@asynccontextmanager
async def system(root: Path) -> AsyncIterator[System]:
    """Run everything, with gaps that have been recovered, and input that could not be read."""
    ports = {name: free_port() for name in PORTS} | {"metrics": free_ports(METRICS_PORTS)}
    options = ("--data-dir", str(root / "data"), "--products", PRODUCTS, "--rate", "200")
    with ExitStack() as stack:
        up = Process(
            command(ports, *options), root / "up.log", {"ARCHIVE_FLUSH_S": "1"}, measured=False
        )
        stack.enter_context(up)
        text = await told(up, "Ctrl-C stops everything")
        found = re.findall(r"│ ([a-z0-9-]+) +│ http://(127\.0\.0\.1:\d+)/metrics", text)
        metrics = {SERVICES.get(name, name): address for name, address in found}
        metrics["gateway"] = f"127.0.0.1:{ports['gateway']}"
        metrics["candidate"] = f"127.0.0.1:{(port := free_port())}"
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as http:
            running = System(metrics, ports, http)
            env = running.environment | {"METRICS_PORT": str(port)}
            candidate = [sys.executable, "-m", "workers.candidate"]
            stack.enter_context(Process(candidate, root / "candidate.log", env, measured=False))
            await port_open(port)
            yield running


async def with_history(running: System) -> None:
    """Wait until everything that can be counted has been."""
    await running.fault(kind="drop", product="BTC-USD", channel="matches", count=3)
    await running.fault(kind="malformed", product="ETH-USD", channel="ticker", count=1)

    async def counted() -> bool:
        resyncs = (await running.families("temporal-worker"))["md_resync"].samples
        archive = await running.families("archive")
        return (
            any(sample.value for sample in resyncs)
            and len(archive["md_archive_lag_seconds"].samples) == 2
            and all(sample.value for sample in archive["md_archive_rows"].samples)
        )

    await eventually(counted)


def names_of(families: dict[str, Metric]) -> set[str]:
    """Return the project's metrics as they are asked for: counters with their ending."""
    return {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in families.values()
        if family.name.startswith("md_") and not family.name.endswith("_created")
    }


async def check_metrics(running: System) -> None:
    """Compare what each process serves with the documentation, names and labels."""
    wanted = documented()
    assert set(wanted) == set(running.metrics)
    for worker, metrics in wanted.items():
        families = await running.families(worker)
        assert names_of(families) == set(metrics), worker
        assert "process_resident_memory_bytes" in families, worker
        for name, labels in metrics.items():
            for sample in families[name.removesuffix("_total")].samples:
                assert set(sample.labels) - {"le"} == set(labels), (worker, name)
    lag = (await running.families("normalizer"))["md_ingest_lag_seconds"].samples
    assert all(0 <= sample.value < 60 for sample in lag)


@asynccontextmanager
async def prometheus(root: Path, running: System) -> AsyncIterator[str]:
    """Run Prometheus with the project's rules and jobs, at this system's addresses."""
    told = yaml.safe_load((OBSERVABILITY / "prometheus.yml").read_text(encoding="utf-8"))
    told["rule_files"] = [str(OBSERVABILITY / "alerts.yml")]
    told["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    port = free_port()
    addresses = {**running.metrics, "prometheus": f"127.0.0.1:{port}"}
    jobs = [job for job in told["scrape_configs"] if job["job_name"] in addresses]
    for job in jobs:
        job.pop("dns_sd_configs", None)
        job["static_configs"] = [{"targets": [addresses[job["job_name"]]]}]
    told["scrape_configs"] = jobs
    assert set(addresses) == {job["job_name"] for job in jobs}
    path = root / "prometheus.yml"
    path.write_text(yaml.safe_dump(told), encoding="utf-8")
    server = [
        *("prometheus", f"--config.file={path}", f"--storage.tsdb.path={root / 'tsdb'}"),
        *(f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"),
    ]
    with Process(server, root / "prometheus.log"):
        await port_open(port)
        yield f"http://127.0.0.1:{port}/api/v1"


async def check_queries(running: System, api: str) -> None:
    """Ask everything that dashboards and runbooks ask, and have every rule evaluated."""

    async def ask(path: str, **parameters: str) -> Any:
        answer = await running.http.get(f"{api}/{path}", params=parameters)
        assert answer.status_code == httpx.codes.OK, (parameters, answer.text)
        return answer.json()["data"]

    async def scraped() -> bool:
        targets = (await ask("targets"))["activeTargets"]
        # A rate needs two scrapes.
        two = await ask("query", query="min(count_over_time(up[1m])) > 2")
        return all(target["health"] == "up" for target in targets) and bool(two["result"])

    await eventually(scraped)
    asked = {query: (await ask("query", query=query))["result"] for query in expressions()}
    silent = {query for query, result in asked.items() if not result}
    # A condition has no answer while all is well; all else is counted, but for who was refused.
    silent -= {query for query in silent if re.search(r"(==|[<>]) [\d.]+$", query)}
    assert {query for query in silent if "md_gateway_refused_total" not in query} == set()

    async def evaluated() -> bool:
        groups = (await ask("rules"))["groups"]
        return all(rule["health"] == "ok" for group in groups for rule in group["rules"])

    await eventually(evaluated)
    firing = (await ask("alerts"))["alerts"]
    assert [alert for alert in firing if alert["state"] == "firing"] == []


async def check_commands(running: System) -> None:
    """Run the commands of the alerts' runbooks as they are written."""
    assert "ledgerflux status" in runbook_commands()
    for line in runbook_commands():
        status, out, err = await run(line, **running.environment)
        assert status == 0, f"{line}\n{out}\n{err}"


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `curl` reach loopback."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@needs_prometheus
@pytest.mark.usefixtures("no_proxies")
async def test_all_that_is_documented_can_be_asked(tmp_path: Path) -> None:
    """Metrics, labels, the dashboards' and the runbooks' queries and commands, and no alarm."""
    async with system(tmp_path) as running:
        await with_history(running)
        await check_metrics(running)
        async with prometheus(tmp_path, running) as api:
            await check_queries(running, api)
        await check_commands(running)
