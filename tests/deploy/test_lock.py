"""The lock: it installs on every supported Python, with any pip, whatever has been published since.

What is published is pretended by an index of wheels without code: of every package the locked
release, which requires what the real one requires, and a newer one. Only the files' hashes are put
in the place of the lock's; the commands are those of `make install`. That the real files install is
shown by the gate itself, which begins with an empty environment.
"""

import base64
import hashlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cli.checks import here
from tests.deploy.composed import ROOT

LOCKS = ("build.txt", "run.txt", "dev.txt")
SOURCE_ALONE = "nkeys"
"""The one package that is published without a wheel."""

OLDEST_PIP = {
    "3.11": "pip==22.3 --hash=sha256:"
    "1daab4b8d3b97d1d763caeb01a4640a2250a0ea899e257b1e44b9eded91e15ab",
    "3.12": "pip==23.2.1 --hash=sha256:"
    "7ccf472345f20d35bdc9d1841ff5f313260c2c33fe417f48c30ac46cccabf5be",
    "3.13": "pip==24.2 --hash=sha256:"
    "2cd581cf58ab7fcfca4ce8efa6dcacd0de5bf8d0a3eb9ec927e07405f4d9e2a2",
}
"""What the first release of each supported Python brings."""

TAGS = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"

BACKEND = """
def prepare_metadata_for_build_wheel(directory, settings=None):
    import pathlib
    folder = pathlib.Path(directory, "{name}-{version}.dist-info")
    folder.mkdir()
    (folder / "METADATA").write_bytes({metadata!r})
    (folder / "WHEEL").write_bytes({tags!r})
    return folder.name


def build_wheel(directory, settings=None, metadata_directory=None):
    import pathlib
    name = "{name}-{version}-py3-none-any.whl"
    pathlib.Path(directory, name).write_bytes({wheel!r})
    return name
"""
"""Builds the package that is published as source alone."""


class Locked(NamedTuple):
    """A package of a lock. `line`: without its hashes."""

    name: str
    version: str
    line: str


def locked(name: str) -> list[Locked]:
    """Read a lock."""
    found = []
    for text in (ROOT / "requirements" / name).read_text(encoding="utf-8").splitlines():
        if re.match(r"[a-z0-9]", text):
            line = text.removesuffix("\\").strip()
            requirement = Requirement(line)
            (pin,) = requirement.specifier
            assert pin.operator == "=="
            found.append(Locked(canonicalize_name(requirement.name), pin.version, line))
    return found


def interpreter(version: str) -> str | None:
    """Return a Python of this version that is on the machine."""
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    home = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    names = [shutil.which(f"python{version}"), *home.glob(f"versions/{version}.*/bin/python3")]
    for name in filter(None, names):
        asked = [str(name), "-c", "import sys, ensurepip, venv; print(*sys.version_info[:2])"]
        said = subprocess.run(asked, capture_output=True, text=True, check=False)  # noqa: S603
        if said.returncode == 0 and said.stdout.split() == version.split("."):
            return str(name)
    return None


class Published:
    """An index of packages, and locks in which their hashes stand for the real ones."""

    def __init__(self, root: Path) -> None:
        self.index, self.locks = root / "simple", root / "requirements"
        self.index.mkdir()
        self.locks.mkdir()
        for lock in LOCKS:
            lines = [f"{one.line} --hash=sha256:{self._file(one)}" for one in locked(lock)]
            (self.locks / lock).write_text("\n".join(lines) + "\n", encoding="utf-8")
        for name in {one.name for lock in LOCKS for one in locked(lock)}:
            self._wheel(name, "9999", [])
            files = sorted(path.name for path in (self.index / name).iterdir())
            links = "".join(f'<a href="{file}">{file}</a>\n' for file in files)
            page = f"<!DOCTYPE html><html><body>\n{links}</body></html>\n"
            (self.index / name / "index.html").write_text(page, encoding="utf-8")

    def _file(self, one: Locked) -> str:
        try:
            requires = distribution(one.name).requires or []
            extras = distribution(one.name).metadata.get_all("Provides-Extra") or []
        except PackageNotFoundError:  # of another Python, or another system
            requires, extras = [], []
        if one.name == SOURCE_ALONE:
            return self._source(one.name, one.version, requires)
        return self._wheel(one.name, one.version, requires, extras)

    def _wheel(
        self, name: str, version: str, requires: list[str], extras: list[str] | None = None
    ) -> str:
        stem = name.replace("-", "_")
        data = _wheel(stem, version, _metadata(name, version, requires, extras or []))
        return self._write(name, f"{stem}-{version}-py3-none-any.whl", data)

    def _source(self, name: str, version: str, requires: list[str]) -> str:
        metadata = _metadata(name, version, requires, [])
        wheel = _wheel(name, version, metadata)
        files = {
            "PKG-INFO": metadata,
            "pyproject.toml": b'[build-system]\nrequires = []\nbuild-backend = "backend"\n'
            b'backend-path = ["."]\n',
            "backend.py": BACKEND.format(
                name=name, version=version, metadata=metadata, wheel=wheel, tags=TAGS
            ).encode(),
        }
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w:gz") as archive:
            for file, content in files.items():
                info = tarfile.TarInfo(f"{name}-{version}/{file}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        return self._write(name, f"{name}-{version}.tar.gz", data.getvalue())

    def _write(self, name: str, file: str, data: bytes) -> str:
        path = self.index / name / file
        path.parent.mkdir(exist_ok=True)
        if not path.exists():  # the same package of another lock
            path.write_bytes(data)
        return hashlib.sha256(path.read_bytes()).hexdigest()


def _metadata(name: str, version: str, requires: list[str], extras: list[str]) -> bytes:
    lines = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    lines += [f"Provides-Extra: {extra}" for extra in extras]
    lines += [f"Requires-Dist: {one}" for one in requires]
    return ("\n".join(lines) + "\n").encode()


def _wheel(stem: str, version: str, metadata: bytes) -> bytes:
    folder = f"{stem}-{version}.dist-info"
    files = {
        f"{folder}/METADATA": metadata,
        f"{folder}/WHEEL": TAGS,
    }
    record = "".join(
        f"{name},sha256={_urlsafe(content)},{len(content)}\n" for name, content in files.items()
    )
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in {**files, f"{folder}/RECORD": record.encode()}.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return data.getvalue()


def _urlsafe(content: bytes) -> str:
    digest = hashlib.sha256(content).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """Give what is published."""
    return Published(tmp_path_factory.mktemp("published"))


def recipe() -> list[list[str]]:
    """Return the commands by which `make install` installs the locks and checks them."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    said = subprocess.run(
        ["make", "--dry-run", "--always-make", "install"],  # noqa: S607
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.replace("\\\n", " ")
    commands = [shlex.split(line) for line in said.splitlines() if line.startswith(".venv/bin/pip")]
    return [words[1:] for words in commands if "-e" not in words]


def _run(command: list[str], **env: str) -> str:
    mine = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
    done = subprocess.run(  # noqa: S603
        command, capture_output=True, text=True, timeout=300, check=False, env={**mine, **env}
    )
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("version", OLDEST_PIP)
def test_lock_installs_with_the_oldest_pip_whatever_is_published(
    version: str, published: Published, tmp_path: Path
) -> None:
    """Into an empty environment: every package at its locked version, and none is missing."""
    python = interpreter(version)
    if python is None:
        pytest.skip(f"no Python {version} on this machine; CI runs the gate on each")
    wanted = tmp_path / "pip.txt"
    wanted.write_text(OLDEST_PIP[version] + "\n", encoding="utf-8")
    download = ["download", "--quiet", "--no-deps", "--require-hashes", "-d", str(tmp_path)]
    _run([sys.executable, "-m", "pip", *download, "-r", str(wanted)], **_pip_settings())
    (pip,) = tmp_path.glob("pip-*.whl")
    _run([python, "-m", "venv", "--without-pip", str(tmp_path / "venv")])
    here = str(tmp_path / "venv" / "bin" / "python")
    commands = recipe()
    assert [words[0] for words in commands] == ["install", "install", "check"]
    for words in commands:
        moved = [word.replace("requirements/", f"{published.locks}/") for word in words]
        _run(
            [here, f"{pip}/pip", *moved],
            PIP_INDEX_URL=published.index.as_uri(),
            PIP_DISABLE_PIP_VERSION_CHECK="1",
            PIP_CONFIG_FILE=os.devnull,
        )
    asked = "import importlib.metadata as m; [print(d.name, d.version) for d in m.distributions()]"
    installed = {tuple(line.split()) for line in _run([here, "-c", asked]).splitlines()}
    environment = {**default_environment(), "python_version": version}
    environment["python_full_version"] = f"{version}.0"
    assert installed == {
        (one.name, one.version)
        for lock in ("build.txt", "dev.txt")
        for one in locked(lock)
        if (marker := Requirement(one.line).marker) is None
        or marker.evaluate({key: str(value) for key, value in environment.items()})
    }


def _pip_settings() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key.startswith("PIP_")}


@pytest.mark.parametrize("lock", ["run.txt", "dev.txt"])
def test_lock_has_all_that_is_required_extras_too(lock: str) -> None:
    """Which `pip check` does not look at; on this Python and this system."""
    names = {one.name for one in locked(lock)}
    tops = [Requirement(one.line) for one in locked(lock)]
    for top in tops:
        if top.marker is None or top.marker.evaluate():
            for requirement in _required_by(top):
                assert canonicalize_name(requirement.name) in names, f"{top.name}: {requirement}"


def _required_by(top: Requirement) -> Iterator[Requirement]:
    for text in distribution(top.name).requires or []:
        requirement = Requirement(text)
        if requirement.marker is None or any(
            requirement.marker.evaluate({"extra": extra}) for extra in ("", *top.extras)
        ):
            yield requirement


def test_doctor_knows_every_package_of_the_lock() -> None:
    """Those with extras too: it says which are missing, or are not those of the lock."""
    names = {canonicalize_name(name) for name, *_ in here._PINNED.findall(here.LOCK.read_text())}
    assert names == {one.name for one in locked("run.txt")}


def test_only_what_has_no_wheel_is_built() -> None:
    """By what build.txt brings: nothing is fetched to build with, in the environment and image."""
    assert f"--only-binary :all: --no-binary {SOURCE_ALONE}" in " ".join(recipe()[0])
    assert "--no-build-isolation" in recipe()[0]
    assert {"setuptools", "hatchling", "editables"} <= {one.name for one in locked("build.txt")}
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert f"--only-binary :all: --no-binary {SOURCE_ALONE}" in dockerfile
