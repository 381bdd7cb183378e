"""Fixtures that more than one test module uses."""

import asyncio
from collections.abc import AsyncIterator
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


_ORDER = ("integration", "workflows", "contract", "deploy")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that no process of the run is alone with it at the end.

    Files with a test marked `long` come first, unit and property tests last.
    """
    long = {item.path for item in items if item.get_closest_marker("long") is not None}

    def rank(item: pytest.Item) -> tuple[bool, int]:
        folder = item.path.relative_to(_TESTS).parts[0]
        return item.path not in long, _ORDER.index(folder) if folder in _ORDER else len(_ORDER)

    items.sort(key=rank)


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
