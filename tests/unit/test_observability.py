"""Alert rules, dashboards and runbooks as files: whole, valid, and each leading to the next."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.observing import (
    DASHBOARDS,
    OBSERVABILITY,
    ROOT,
    RUNBOOKS,
    alerts,
    dashboard,
    expressions,
    needs_prometheus,
    page_of,
    promtool,
)

HEADINGS = ["What it means", "How to confirm", "What to do", "How to know it is over"]


def test_every_alert_has_its_runbook() -> None:
    """`runbook_url` is the page of the alert's name, with the four headings in order.

    All begin with the external label, so that one setting makes them links.
    """
    assert len(alerts()) >= 10
    for alert in alerts():
        name = re.sub(r"(?<!^)(?=[A-Z])", "-", alert["alert"]).lower()
        page = page_of(alert)
        assert alert["annotations"]["runbook_url"].startswith("{{ $externalLabels.runbooks }}docs/")
        assert page == RUNBOOKS / f"{name}.md"
        text = page.read_text(encoding="utf-8")
        found = re.findall(r"^## (.+)$", text, re.MULTILINE)
        assert [heading for heading in found if heading in HEADINGS] == HEADINGS, page.name
        assert alert["labels"]["severity"] in {"page", "ticket"}
        assert alert["annotations"]["summary"]


def test_every_page_that_a_runbook_names_exists() -> None:
    """No link leads nowhere."""
    for page in RUNBOOKS.glob("*.md"):
        named = re.findall(r"(?:\.\./)?[\w/-]+\.md", page.read_text(encoding="utf-8"))
        for name in named:
            found = [(where / name).exists() for where in (RUNBOOKS, RUNBOOKS.parent, ROOT)]
            assert any(found), f"{page.name}: {name}"


@needs_prometheus
def test_alert_rules_fire_when_they_must(tmp_path: Path) -> None:
    """`promtool test rules`, where every alert is tried; and it fails when a rule is changed."""
    tried = yaml.safe_load((OBSERVABILITY / "alerts_test.yml").read_text(encoding="utf-8"))
    fired = {
        case["alertname"]
        for test in tried["tests"]
        for case in test["alert_rule_test"]
        if case.get("exp_alerts")
    }
    assert fired == {alert["alert"] for alert in alerts()}
    done = promtool("test", "rules", str(OBSERVABILITY / "alerts_test.yml"))
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("alerts.yml", "alerts_test.yml"):
        text = (OBSERVABILITY / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(text.replace("> 180", "> 18000"), encoding="utf-8")
    broken = promtool("test", "rules", str(tmp_path / "alerts_test.yml"))
    assert broken.returncode != 0
    assert "ArchiveLag" in broken.stdout + broken.stderr


@needs_prometheus
def test_prometheus_accepts_its_configuration() -> None:
    """`promtool check config`, rules included."""
    done = promtool("check", "config", str(OBSERVABILITY / "prometheus.yml"))
    assert done.returncode == 0, done.stdout + done.stderr


def as_grafana_has(told: dict[str, Any]) -> Any:
    """Return a dashboard, read and written by the types that Grafana generates of its schema."""
    return json.loads(json.dumps(Dashboard.from_json(told), cls=JSONEncoder))


def strangers(told: Any, kept: Any, path: str = "") -> Iterator[str]:
    """Yield the path of each thing that was told and has not been kept."""
    if isinstance(told, dict) and isinstance(kept, dict):
        for key, value in told.items():
            yield from strangers(value, kept.get(key), f"{path}/{key}")
    elif isinstance(told, list) and isinstance(kept, list) and len(told) == len(kept):
        for index, pair in enumerate(zip(told, kept, strict=True)):
            yield from strangers(*pair, f"{path}/{index}")
    elif told != kept:
        yield path


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_is_one_that_grafana_knows(name: str) -> None:
    """Read and written again by Grafana's own types nothing is lost: no field is a stranger."""
    told = dashboard(name)
    assert list(strangers(told, as_grafana_has(told))) == []
    panels = told["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["title"] and panel["description"] for panel in panels)
    variables = {variable["name"] for variable in told["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(panels))) - {"__rate_interval"}
    assert used == variables
    assert told["uid"] == f"ledgerflux-{name}"
    named = re.findall(r"Runbook: ([\w-]+)\.", json.dumps(panels))
    assert all((RUNBOOKS / f"{page}.md").exists() for page in named)


def test_a_dashboard_with_a_strange_field_is_noticed() -> None:
    """The check above can fail: Grafana's types drop what they do not know."""
    told: dict[str, Any] = {**dashboard("pipeline"), "panles": []}
    told["panels"][0]["gridPos"]["with"] = 12
    assert list(strangers(told, as_grafana_has(told))) == ["/panels/0/gridPos/with", "/panles"]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_fill_the_grid_without_overlap(name: str) -> None:
    """No panel hides another or leaves the page."""
    taken: set[tuple[int, int]] = set()
    for panel in dashboard(name)["panels"]:
        grid = panel["gridPos"]
        cells = {(grid["x"] + x, grid["y"] + y) for x in range(grid["w"]) for y in range(grid["h"])}
        assert not taken & cells, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


@needs_prometheus
def test_every_query_is_promql(tmp_path: Path) -> None:
    """What dashboards and runbooks ask is written as rules, which promtool reads."""
    rules = [
        {"record": f"asked:{number}", "expr": asked} for number, asked in enumerate(expressions())
    ]
    path = tmp_path / "asked.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": rules}]}))
    done = promtool("check", "rules", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout


def test_grafana_finds_its_source_and_its_dashboards() -> None:
    """The provisioned source is the default of each dashboard's variable."""
    provisioning = OBSERVABILITY / "grafana" / "provisioning"
    sources = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())
    (source,) = sources["datasources"]
    for name in DASHBOARDS:
        chosen = dashboard(name)["templating"]["list"][0]
        assert (chosen["type"], chosen["current"]["value"]) == ("datasource", source["uid"])


def test_containers_that_the_runbooks_enter_are_there() -> None:
    """The index says how to run a command where nothing is published; compose has the services."""
    index = (RUNBOOKS / "README.md").read_text(encoding="utf-8")
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    entered = set(re.findall(r"docker compose exec (?:-e \S+ )?(\S+)", index))
    assert entered == {"gateway", "temporal"}
    assert entered <= set(services)


def test_a_worker_that_is_down_is_looked_for_by_the_names_of_the_jobs() -> None:
    """All jobs of ours; and those that must be there are missed when they are no target."""
    told = yaml.safe_load((OBSERVABILITY / "prometheus.yml").read_text(encoding="utf-8"))
    jobs = {job["job_name"] for job in told["scrape_configs"]} - {"prometheus"}
    (rule,) = (alert for alert in alerts() if alert["alert"] == "WorkerDown")
    (named,) = re.findall(r'up\{job=~"([^"]+)"\} == 0', rule["expr"])
    assert set(named.split("|")) == jobs
    missed = re.findall(r'absent\(up\{job="([^"]+)"\}\)', rule["expr"])
    assert set(missed) == jobs - {"replay", "candidate"}
