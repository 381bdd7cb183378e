"""GitHub's workflows, and what `make` writes for the compose file."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.deploy.composed import ROOT, composed, script
from tests.servers import PATIENCE_S

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
_PINNED = re.compile(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}").fullmatch


def _loaded(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    return loaded


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)  # noqa: S603
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("vendor.github-workflows", WORKFLOWS),
        ("vendor.dependabot", [ROOT / ".github/dependabot.yml"]),
    ],
)
def test_github_understands_the_files(schema: str, files: list[Path]) -> None:
    """By the schemas that editors use."""
    assert files
    _run(script("check-jsonschema"), "--builtin-schema", schema, *map(str, files))


def test_workflows_have_no_known_weakness() -> None:
    """Templates in scripts, rights, caches, credentials: what zizmor knows of, from medium on."""
    _run(script("zizmor"), "--offline", "--min-severity", "medium", str(ROOT / ".github"))


def test_actions_are_of_one_commit_and_rights_are_few() -> None:
    """A moved tag changes nothing; nothing may write but the release, and that what it must."""
    for path in WORKFLOWS:
        workflow = _loaded(path)
        assert workflow["permissions"] in ({}, {"contents": "read"}), path.name
        for name, job in workflow["jobs"].items():
            rights = job.get("permissions", {})
            writes = {right for right, how in rights.items() if how == "write"}
            assert writes <= ({"contents", "packages"} if name == "publish" else set()), name
            for step in job.get("steps", []):
                assert "uses" not in step or _PINNED(step["uses"]), step


def test_ci_runs_all_that_is_promised() -> None:
    """The gate on three Pythons, both architectures' images, the chart, and an audit."""
    jobs = _loaded(ROOT / ".github/workflows/ci.yml")["jobs"]
    assert jobs["tests"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    archs = {one["arch"] for one in jobs["image"]["strategy"]["matrix"]["include"]}
    assert archs == {"amd64", "arm64"}
    said = " ".join(step.get("run", "") for job in jobs.values() for step in job["steps"])
    parts = ("make lint typecheck imports", "bash .ci/run", "bash .ci/run coverage")
    for part in (*parts, "make helm-check", "pip-audit"):
        assert part in said
    assert "sudo --preserve-env=PATH,CI " in said, "CI makes tests fail that could be skipped"
    assert "doctor --help" in said
    assert "version('ledgerflux')" in said


def test_the_long_forms_run_every_night() -> None:
    """Storms, chaos and the properties' many examples, each by its make target, each by itself."""
    workflow = _loaded(ROOT / ".github/workflows/nightly.yml")
    assert workflow["on"]["schedule"]
    (job,) = workflow["jobs"].values()
    assert set(job["strategy"]["matrix"]["target"]) == {"storm", "chaos", "properties"}
    targets = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in job["strategy"]["matrix"]["target"]:
        assert f"\n{target}: " in targets


def test_dependencies_are_audited_also_while_nothing_changes() -> None:
    """Every day, every lock; of the other jobs none runs then."""
    workflow = _loaded(ROOT / ".github/workflows/ci.yml")
    assert workflow["on"]["schedule"]
    (audit,) = (step["run"] for step in workflow["jobs"]["audit"]["steps"] if "run" in step)
    locks = {path.name for path in (ROOT / "requirements").glob("*.txt")}
    assert {name for name in locks if f"-r requirements/{name}" in audit} == locks
    daily = {name for name, job in workflow["jobs"].items() if "schedule" not in job.get("if", "")}
    assert daily == {"audit"}


@pytest.mark.parametrize(
    ("registry", "repository", "image"),
    [
        ("registry.example", "Some-Body/LedgerFlux", "registry.example/some-body/ledgerflux"),
        ("", "some-body/ledgerflux", None),
    ],
)
def test_a_release_knows_first_where_it_goes(
    registry: str, repository: str, image: str | None, tmp_path: Path
) -> None:
    """Before the gate, with a sentence if nowhere; in lower case, as an image's name must be."""
    jobs = _loaded(ROOT / ".github/workflows/release.yml")["jobs"]
    assert (jobs["gate"]["needs"], jobs["publish"]["needs"]) == ("where", ["where", "gate"])
    (step,) = jobs["where"]["steps"]
    output = tmp_path / "output"
    env = {"REGISTRY": registry, "REPOSITORY": repository, "GITHUB_OUTPUT": str(output)}
    done = subprocess.run(  # noqa: S603
        ["bash", "-e", "-c", step["run"]],  # noqa: S607
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    if image is None:
        assert done.returncode == 1
        assert "IMAGE_REGISTRY" in done.stdout
    else:
        assert output.read_text(encoding="utf-8") == f"name={image}\n"


def test_make_writes_secrets_that_compose_takes(tmp_path: Path) -> None:
    """Each one is random, begins with a letter, and only its owner can read it."""
    made = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        # Without the outer make's flags, if there is one.
        env = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
        subprocess.run(  # noqa: S603
            ["make", "-f", str(ROOT / "Makefile"), ".env"],  # noqa: S607
            cwd=tmp_path / name,
            env=env,
            check=True,
            capture_output=True,
            timeout=PATIENCE_S,
        )
        path = tmp_path / name / ".env"
        assert path.stat().st_mode & 0o777 == 0o600
        lines = path.read_text(encoding="utf-8").splitlines()
        made.append(dict(line.split("=", 1) for line in lines if not line.startswith("#")))
    secrets = {key for key in made[0] if key.endswith(("PASSWORD", "KEY"))}
    values = [one[key] for one in made for key in secrets]
    assert len(set(values)) == len(values) == 8
    assert all(re.fullmatch(r"[a-z][0-9a-f]{32}", value) for value in values)
    ingestor = composed(**made[0])["services"]["ingestor"]
    assert ingestor["environment"]["COINBASE_WS_PRIMARY"] == "ws://simulator:8900"
    assert ".env" in (ROOT / ".gitignore").read_text(encoding="utf-8").split()
