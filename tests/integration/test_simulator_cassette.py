"""Playing recordings, and making them; and the command line around it."""

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.servers import PATIENCE_S, free_port
from tests.unit.simulator.client import listening, still
from venues.simulator import cassette
from venues.simulator.config import Limits, SimConfig
from venues.simulator.server import Simulator
from venues.simulator.taping import TapeError, Taping

RECORDING = Path(__file__).parents[3] / "shared" / "data" / "coinbase-exchange-2021-04-17.ws.txt"


@pytest.fixture
def recording() -> Path:
    """Give the public recording, which is not part of this project."""
    if not RECORDING.exists():
        pytest.skip(f"no recording at {RECORDING}")
    return RECORDING


async def test_cassette_plays_the_recording_verbatim(recording: Path) -> None:
    """Unpaced: every frame once, byte for byte, in order, after our own acknowledgement."""
    frames = [taped.text for taped in cassette.read(recording)]
    config = still(cassette=recording, speed=0, paused=False)
    async with Simulator(config) as simulator, listening(simulator) as feed:
        products = tuple(product.id for product in simulator.venue.products)
        assert len(products) == 10
        await feed.subscribe("level2", "ticker", products=products)
        await feed.subscribe("matches", products=products)
        assert len((await feed.next())["channels"]) == 2
        assert len((await feed.next())["channels"]) == 3
        played = [await feed.raw() for _ in frames]
        assert played == frames
        assert await feed.rest() == []
    kinds = Counter(json.loads(text)["type"] for text in played)
    assert kinds == {
        "l2update": 9719,
        "ticker": 107,
        "match": 97,
        "snapshot": 10,
        "last_match": 10,
    }


async def test_cassette_sends_only_what_was_subscribed_at_its_speed(recording: Path) -> None:
    """One product, one channel, two hundred times as fast as it was."""
    config = still(cassette=recording, speed=200, paused=False)
    async with Simulator(config) as simulator, listening(simulator) as feed:
        await feed.subscribe("matches", products=("SKL-BTC",))
        await feed.until("subscriptions")
        seen = await feed.rest(0.6)
        assert {one["product_id"] for one in seen} == {"SKL-BTC"}
        assert {one["type"] for one in seen} == {"last_match", "match"}


async def test_recording_of_the_simulator_plays_the_same_again(tmp_path: Path) -> None:
    """What is taped from one exchange comes out of another as it was."""
    path = tmp_path / "tape.ndjson"
    config = SimConfig(port=0, rate=500, limits=Limits.none(), levels=20)
    async with Simulator(config) as simulator:
        taping = Taping(simulator.ws_url, ["BTC-USD"], ["matches", "level2_batch"], 0.7)
        frames = await taping.run(path)
    assert frames == len(path.read_text().splitlines())
    taped = [json.loads(one.text) for one in cassette.read(path)]
    assert len(taped) == frames - 1
    again = still(cassette=path, speed=0, paused=False)
    async with Simulator(again) as simulator, listening(simulator) as feed:
        await feed.subscribe("matches", "level2_batch")
        await feed.until("subscriptions")
        assert await feed.rest(0.4) == taped


async def test_taping_that_is_refused_says_why(tmp_path: Path) -> None:
    """An error of the venue, an unreachable feed, a file that exists."""
    async with Simulator(still()) as simulator:
        with pytest.raises(TapeError, match="NO-NO is not a valid product"):
            await Taping(simulator.ws_url, ["NO-NO"], ["ticker"]).run(tmp_path / "a")
        with pytest.raises(FileExistsError):
            await Taping(simulator.ws_url, ["BTC-USD"], ["ticker"]).run(tmp_path / "a")
    with pytest.raises(TapeError, match=r"ws://127\.0\.0\.1:"):
        await Taping(f"ws://127.0.0.1:{free_port()}", ["A-B"], ["ticker"]).run(tmp_path / "b")


@pytest.fixture
def process(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Give address and ground truth of `ledgerflux sim` as a process; it must stop cleanly."""
    port = free_port()
    options = ["--port", str(port), "--rate", "200", "--data-dir", str(tmp_path), "--no-limits"]
    command = [*_command(), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as running:  # noqa: S603
        assert running.stdout is not None
        assert b"simulated exchange" in running.stdout.readline()
        try:
            yield f"http://127.0.0.1:{port}", tmp_path / "sim-truth.ndjson"
            running.send_signal(signal.SIGTERM)
            assert running.wait(10) == 0
        finally:
            running.kill()


def test_command_runs_takes_faults_and_stops(process: tuple[str, Path]) -> None:
    """Run as a user runs it: serve, inject, list, stop on SIGTERM."""
    url, truth = process
    assert httpx.get(f"{url}/time", trust_env=False).status_code == 200
    done = _run("fault", "drop", "--channel", "matches", "--count", "5", "--url", url)
    assert json.loads(done.stdout)["left"] == 5
    assert "kind=drop" in _run("faults", "--url", url).stdout
    assert '"cleared": 1' in _run("faults", "--clear", "--url", url).stdout
    refused = _run("fault", "explode", "--url", url)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert truth.exists()


def test_command_that_cannot_start_says_so_in_one_sentence(tmp_path: Path) -> None:
    """A missing file, a bad product, nobody there: status 1 and one line."""
    free = f"http://127.0.0.1:{free_port()}"
    for words in (
        ("--cassette", str(tmp_path / "none")),
        ("--products", "bitcoin"),
        ("--deep", "BTC-USD"),
        ("--port", "0", "--ground-truth", str(tmp_path / "no" / "where")),
        ("faults", "--url", free),
    ):
        done = _run(*words)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr


def _command() -> list[str]:
    return [sys.executable, "-c", "from cli.sim import app; app()"]


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603
        [*_command(), *words], capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
