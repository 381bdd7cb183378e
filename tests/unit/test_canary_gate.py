"""The rollout gate in deploy/argo asks for what there is: options of the command, metrics."""

import re
from pathlib import Path
from typing import Any

import typer
import yaml

from cli.canary import canary
from models.canary import CanaryReport, FeedCount

GATE = Path(__file__).parents[2] / "deploy" / "argo" / "analysis-template.yaml"


def templates() -> dict[str, dict[str, Any]]:
    """Return the templates by name."""
    parts = yaml.safe_load_all(GATE.read_text(encoding="utf-8"))
    return {one["metadata"]["name"]: one["spec"] for one in parts}


def options() -> set[str]:
    """Return the long options of `ledgerflux canary`."""
    app = typer.Typer()
    app.command()(canary)
    command = typer.main.get_command(app)
    return {name for one in command.params for name in one.opts if name.startswith("--")}


def test_job_runs_the_command_with_options_that_it_has() -> None:
    """A misspelled option would end with 2 and stop every rollout."""
    spec = templates()["ledgerflux-canary"]
    job = spec["metrics"][0]["provider"]["job"]["spec"]
    container = job["template"]["spec"]["containers"][0]
    program, command, *words = container["command"]
    assert (program, command) == ("ledgerflux", "canary")
    assert {word.partition("=")[0] for word in words} <= options()
    assert job["backoffLimit"] == 0
    told = {one["name"] for one in spec["args"]}
    used = set(re.findall(r"{{args\.([a-z-]+)}}", yaml.safe_dump(spec)))
    assert used <= told


def test_queries_name_metrics_that_are_told() -> None:
    """A gate on a metric that nobody tells would never open, or never close."""
    spec = templates()["ledgerflux-canary-metrics"]
    queries = [one["provider"]["prometheus"]["query"] for one in spec["metrics"]]
    source = (GATE.parents[2] / "activities" / "canary.py").read_text(encoding="utf-8")
    asked = {name for query in queries for name in re.findall(r"md_\w+", query)}
    assert asked == {"md_canary_verdict", "md_canary_ended_seconds", "md_canary_compared_total"}
    assert asked <= set(re.findall(r'"(md_canary_\w+)"', source))


def test_counts_add_up() -> None:
    """What was judged is what is equal and what is not; a report's counts survive JSON."""
    one, other = FeedCount(equal=5, changed=1, missing=2), FeedCount(extra=3, unjudged=4)
    both = one.plus(other)
    assert (both.compared, both.differences, both.unjudged) == (11, 6, 4)
    report = CanaryReport(
        verdict="diverges", sentence="", venue="coinbase", counts={"BTC-USD": {"book": both}}
    )
    assert CanaryReport.model_validate_json(report.model_dump_json()) == report
