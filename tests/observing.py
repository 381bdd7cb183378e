"""The files of deploy/observability and docs/runbooks, and the programs of Prometheus."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.servers import PATIENCE_S

ROOT = Path(__file__).parents[1]
OBSERVABILITY = ROOT / "deploy" / "observability"
RUNBOOKS = ROOT / "docs" / "runbooks"
DASHBOARDS = ("pipeline", "gateway", "recovery", "archive")
TRIED = ("gap-resync.md", "archive-behind.md", "archive-hole.md", "audit-failed.md")
"""Pages whose every command other tests run: test_resync_runbook, test_archive_runbooks."""

VARIABLES = {"$__rate_interval": "1m", "$product": ".*", "$instance": ".*", "$stream": ".*"}

needs_prometheus = pytest.mark.skipif(
    not (shutil.which("promtool") and shutil.which("prometheus")) and "CI" not in os.environ,
    reason="there is no promtool here: install Prometheus; CI does",
)


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run promtool."""
    command = ["promtool", *arguments]
    return subprocess.run(  # noqa: S603
        command, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


def alerts() -> list[dict[str, Any]]:
    """Return the alert rules."""
    told = yaml.safe_load((OBSERVABILITY / "alerts.yml").read_text(encoding="utf-8"))
    return [rule for group in told["groups"] for rule in group["rules"]]


def page_of(alert: dict[str, Any]) -> Path:
    """Return an alert's page, where the external label does not say that it is elsewhere."""
    address: str = alert["annotations"]["runbook_url"]
    return ROOT / address.removeprefix("{{ $externalLabels.runbooks }}")


def dashboard(name: str) -> dict[str, Any]:
    """Return a dashboard."""
    path = OBSERVABILITY / "grafana" / "dashboards" / f"{name}.json"
    told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return told


def panel_queries() -> list[str]:
    """Return what the dashboards ask, with their variables filled in."""
    return [
        _filled(target["expr"])
        for name in DASHBOARDS
        for panel in dashboard(name)["panels"]
        for target in panel["targets"]
    ]


def runbook_queries() -> list[str]:
    """Return what the runbooks ask, a query a line."""
    return _boxes("promql")


def runbook_commands() -> list[str]:
    """Return the commands of the alerts' runbooks that stand in no page which has its own test."""
    tried = {line for page in TRIED for line in _boxed(RUNBOOKS / page, "sh")}
    return [line for line in dict.fromkeys(_boxes("sh")) if line not in tried]


def expressions() -> list[str]:
    """Return every query of dashboards and runbooks, each once."""
    return list(dict.fromkeys([*panel_queries(), *runbook_queries()]))


def documented() -> dict[str, dict[str, tuple[str, ...]]]:
    """Return what docs/observability.md says: by worker the labels of each metric."""
    text = (ROOT / "docs" / "observability.md").read_text(encoding="utf-8")
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for name, labels, workers in re.findall(
        r"^\| `(md_\w+)` \| (.*?) ?\| (.*?) \|", text, re.MULTILINE
    ):
        for worker in workers.split(", "):
            found.setdefault(worker, {})[name] = tuple(filter(None, labels.split(", ")))
    return found


def _boxes(kind: str) -> list[str]:
    pages = {page_of(alert) for alert in alerts()}
    return [line for page in sorted(pages) for line in _boxed(page, kind)]


def _boxed(page: Path, kind: str) -> list[str]:
    boxes = re.findall(rf"```{kind}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    return [line for box in boxes for line in box.splitlines()]


def _filled(query: str) -> str:
    for variable, value in VARIABLES.items():
        query = query.replace(variable, value)
    return query
