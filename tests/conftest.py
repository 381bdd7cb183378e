"""Fixtures that more than one test module uses."""

import asyncio
from collections.abc import AsyncIterator
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from models.settings import Settings, load_settings
from streaming.broker.jetstream import JetStreamLog
from tests.examples import register_profiles
from tests.servers import NatsServer, port_open
from tests.timing import pytest_runtest_logreport, pytest_terminal_summary  # noqa: F401  # hooks

_TESTS = Path(__file__).parent

register_profiles()

if TYPE_CHECKING:
    from tests.past import Told


_WITH_SERVERS = {"integration", "workflows", "contract", "deploy"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin each file that takes long beside one that does not, and end with what takes no time.

    Files with a test marked `long` use the processors, others wait for servers and clocks. Unit and
    property tests come last, so that no process of the run is alone with a long file at the end.
    """
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    long = [path for path, mine in files.items() if any(map(_is_long, mine))]
    others = [path for path in files if path not in long and _folder(path) in _WITH_SERVERS]
    quick = [path for path in files if path not in long and path not in others]
    mixed = [path for pair in zip_longest(long, others) for path in pair if path is not None]
    items[:] = [item for path in (*mixed, *quick) for item in files[path]]


def _is_long(item: pytest.Item) -> bool:
    return item.get_closest_marker("long") is not None


def _folder(path: Path) -> str:
    return path.relative_to(_TESTS).parts[0]


@pytest.fixture
async def nats_server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """Give a fresh nats-server with JetStream."""
    with NatsServer(tmp_path / "nats") as server:
        await port_open(server.port)
        yield server


@pytest.fixture
def settings(nats_server: NatsServer) -> Settings:
    """Give settings that point at the test's own server."""
    return load_settings(nats_urls=(nats_server.url,), js_max_bytes=1024**3)


@pytest.fixture
async def log(nats_server: NatsServer, settings: Settings) -> AsyncIterator[JetStreamLog]:
    """Give a connected log with its streams."""
    async with await JetStreamLog.connect([nats_server.url], name="test") as log:
        await log.ensure_streams(settings)
        yield log


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory) -> "Told":
    """Give a past in a lake: two hours, told once for all tests that begin with one."""
    from tests.past import FRAMES, tell  # noqa: PLC0415  # heavy, and most tests need none of it

    return asyncio.run(tell(tmp_path_factory.mktemp("past"), frames=FRAMES))
