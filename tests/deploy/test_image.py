"""The image: what its Dockerfile makes, as far as that can be had without a container engine."""

import ast
import re
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest

from tests.deploy.composed import ROOT, moved
from tests.servers import PATIENCE_S

DOCKERFILE = ROOT / "Dockerfile"
_IGNORED = shutil.ignore_patterns("__pycache__")  # as .dockerignore does


def _lines() -> list[str]:
    """Return the instructions, each on one line."""
    text = DOCKERFILE.read_text(encoding="utf-8").replace("\\\n", "")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give /app as the build stage makes it: its copies of the project and its last RUN, done here.

    With our Python in the place of the image's; the RUN before it installs the locked wheels.
    """
    root = tmp_path_factory.mktemp("image")
    (root / "src").mkdir()
    lines = _lines()
    lines = lines[: lines.index("FROM python:${PYTHON_VERSION}-slim-bookworm")]
    for copy in (line for line in lines if line.startswith("COPY ") and "/src/" in line):
        *sources, target = copy.split()[1:]
        for source in sources:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, f"{root}{target}", ignore=_IGNORED)
            else:
                shutil.copy(ROOT / source, f"{root}{target}")
    places = {
        "/opt/venv/bin/python": sys.executable,
        "pip ": f"{sys.executable} -m pip ",
        **{path: f"{root}{path}" for path in ("/src", "/tmp", "/app")},  # noqa: S108  # the image's
    }
    command = moved(lines[-1].removeprefix("RUN "), places)
    subprocess.run(["sh", "-c", command], check=True, timeout=PATIENCE_S)  # noqa: S603, S607
    return root / "app"


def _said(*command: str | Path, **env: str) -> str:
    done = subprocess.run(  # noqa: S603
        [*map(str, command)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        env=env,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_image_knows_the_version_of_what_is_in_it(app: Path) -> None:
    """Where nothing but /app is on the path; doctor, /v1/status and a candidate tell it."""
    asked = "import sys; sys.path.append(sys.argv[1]); from importlib.metadata import version"
    command = (sys.executable, "-I", "-S", "-c", f"{asked}; print(version('ledgerflux'))", app)
    assert _said(*command).strip() == version("ledgerflux")


def test_the_images_command_runs_what_is_in_it(app: Path) -> None:
    """By its name, from /app and not from elsewhere, with bytecode: the image is read-only."""
    assert "ENV PATH=/app/bin:" in DOCKERFILE.read_text(encoding="utf-8")
    assert "doctor" in _said(app / "bin" / "ledgerflux", "doctor", "--help", PYTHONPATH=str(app))
    asked = "import cli.main; print(cli.main.__file__, cli.main.__cached__)"
    file, cached = _said(sys.executable, "-P", "-c", asked, PYTHONPATH=str(app)).split()
    assert Path(file).is_relative_to(app)
    assert Path(cached).exists()


def test_the_image_has_what_the_services_run() -> None:
    """Every package of the project is copied, and the user is a number that is not root."""
    text = DOCKERFILE.read_text(encoding="utf-8")
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    for package in sorted(path.parent.name for path in ROOT.glob("*/__init__.py")):
        if package not in {"tests", "bench"}:
            assert f"COPY {package} /src/{package}\n" in text
            assert f"!{package}" in ignored
    assert "\nUSER 10001:10001\n" in text
    assert {"pyproject.toml", "README.md", "requirements/build.txt"} <= {
        name.removeprefix("!") for name in ignored
    }
    assert text.count("--no-deps --require-hashes --only-binary :all:") == 2


def test_the_image_has_every_dependency_that_is_imported() -> None:
    """The lock that the image installs is enough: nothing comes from the development's own."""
    locked = {
        re.split(r"==|\[", line)[0].lower()
        for line in (ROOT / "requirements/run.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    }
    assert "nkeys" in locked, "nats-py needs it for NATS_CREDS, and imports it only then"
    brought_by = packages_distributions()
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "bench"}
    for path in (path for room in rooms for path in (ROOT / room).rglob("*.py")):
        for name in _imported(path) - rooms - sys.stdlib_module_names:
            names = {package.lower().replace("_", "-") for package in brought_by[name]}
            assert names & locked, f"{path.relative_to(ROOT)} imports {name}"


def _imported(path: Path) -> set[str]:
    """Return the top-level names that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found
