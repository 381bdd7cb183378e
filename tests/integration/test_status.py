"""`ledgerflux status` and `ledgerflux doctor` on the whole system as `ledgerflux up` runs it."""

import asyncio
import io
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import pytest_asyncio
from pydantic import SecretStr
from rich.console import Console

from cli.situation.feeds import FeedRow, Feeds, feeds
from cli.situation.view import MOST_PRODUCTS, screen
from cli.situation.whole import Situation, look
from models.settings import Settings, load_settings
from storage.latest import LatestRow
from streaming.broker.inspection import Inspector
from tests.commands import run
from tests.embedded import command, pids, told
from tests.gateways import running_gateway
from tests.servers import PATIENCE_S, Process, eventually, free_port, free_ports

pytestmark = pytest.mark.long

pytestmark = pytest.mark.asyncio(loop_scope="module")

PRODUCTS = ("BTC-USD", "ETH-USD")
WITHIN_S = 12.0


@dataclass
class System:
    """Everything, running. `pids`: of its parts; `env`: what leads a command to it."""

    env: dict[str, str]
    settings: Settings
    pids: dict[str, int]
    sim: str

    async def look(self, **overrides: Any) -> Situation:
        """Look as the command does."""
        return await look(self.settings.model_copy(update=overrides), within_s=WITHIN_S)

    async def seen(
        self,
        right: Callable[[Situation], object],
        *,
        within_s: float = PATIENCE_S,
        **overrides: Any,
    ) -> Situation:
        """Look until it is right."""
        seen: list[Situation] = []

        async def check() -> object:
            seen.append(await self.look(**overrides))
            return right(seen[-1])

        await eventually(check, within_s=within_s)
        return seen[-1]

    @asynccontextmanager
    async def paused(self, part: str) -> AsyncIterator[None]:
        """Hold one part's process."""
        os.kill(self.pids[part], signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pids[part], signal.SIGCONT)

    async def fault(self, **fault: object) -> None:
        """Have the simulated venue do something wrong."""
        async with httpx.AsyncClient(timeout=PATIENCE_S) as http:
            (await http.post(f"{self.sim}/sim/faults", json=fault)).raise_for_status()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    """Run the whole system, and wait until data has come."""
    root = tmp_path_factory.mktemp("status")
    names = ("gateway", "temporal-ui", "temporal", "nats", "s3", "sim")
    ports = {**{name: free_port() for name in names}, "metrics": free_ports(8)}
    more = ("--data-dir", str(root / "data"), "--products", ",".join(PRODUCTS), "--rate", "60")
    env = {
        "NATS_URLS": f"nats://127.0.0.1:{ports['nats']}",
        "GATEWAY_PORT": str(ports["gateway"]),
        "TEMPORAL_ADDRESS": f"127.0.0.1:{ports['temporal']}",
        "TEMPORAL_UI_URL": f"http://127.0.0.1:{ports['temporal-ui']}",
        "S3_ENDPOINT": f"http://127.0.0.1:{ports['s3']}",
        "S3_ACCESS_KEY": "ledgerflux",
        "S3_SECRET_KEY": "ledgerflux",
        "COINBASE_PRODUCTS": ",".join(PRODUCTS),
        "COINBASE_WS_PRIMARY": f"ws://127.0.0.1:{ports['sim']}",
        "COINBASE_REST_URL": f"http://127.0.0.1:{ports['sim']}",
        "METRICS_PORT": str(ports["metrics"]),
    }
    settings = load_settings(**{name.lower(): value for name, value in env.items()})
    up = Process(command(ports, *more), root / "up.log", measured=False)
    with up:
        text = await told(up, "Ctrl-C stops everything")
        running = System(env, settings, pids(text), env["COINBASE_REST_URL"])
        await running.seen(lambda seen: seen.is_live and seen.feeds and len(seen.feeds.rows) == 6)
        yield running
        family = psutil.Process(up.pid).children(recursive=True)
        up.stop()
        assert not [one for one in family if one.is_running()]


def feed(seen: Situation, product: str, name: str) -> FeedRow:
    """Return one feed."""
    assert seen.feeds is not None
    (row,) = [row for row in seen.feeds.rows if (row.product, row.feed) == (product, name)]
    return row


def page_of(seen: Situation) -> str:
    """Return the screen as text."""
    page = Console(width=200, record=True, file=io.StringIO())
    page.print(screen(seen, links=False))
    return page.export_text()


async def test_whole_system_has_nothing_wrong(system: System) -> None:
    """The doctor finds no more than warnings, and ends with 0."""
    status, out, err = await run("ledgerflux doctor --within 40 --json", **system.env)
    found = [json.loads(line) for line in out.splitlines()]
    assert status == 0, out + err
    assert {"gateway", "schedules", "task queue resync"} <= {
        row["check"] for row in found if row["state"] == "ok"
    }
    assert {"ingestor", "normalizer", "snapshot"} <= {row["check"] for row in found}
    assert not [row for row in found if row["state"] == "broken"]


async def test_status_shows_everything_and_ends_with_0(system: System) -> None:
    """Feeds with pace and age, streams with bounds and readers, workers, archive, gateway."""
    status, out, err = await run("ledgerflux status --within 40 --json", **system.env)
    assert status == 0, out + err
    seen = json.loads(out)
    assert seen["unreached"] == []
    assert {row["state"] for row in seen["feeds"]["rows"]} == {"live"}
    assert sum(row["ticks_per_s"] for row in seen["feeds"]["rows"]) > 5
    assert all(seen["at_us"] - row["newest_us"] < 60_000_000 for row in seen["feeds"]["rows"])
    assert [row["line"] for row in seen["feeds"]["lines"]] == ["a"]
    streams = {row["name"]: row for row in seen["streams"]}
    assert streams["MD_TICKS"]["messages"] > 100
    assert 0 < streams["MD_RAW"]["share_of_age"] < 1
    assert [one["name"] for one in streams["MD_RESYNC"]["consumers"]] == ["dispatcher"]
    readers = [one["subjects"] for one in streams["MD_TICKS"]["consumers"]]
    assert readers == ["market.ticks.*.*.*"] * 2
    assert {one["reader"] for one in streams["MD_TICKS"]["consumers"]} == {"gateway", "snapshot"}
    assert [one["reader"] for one in streams["MD_RAW"]["consumers"]] == ["normalizer-0"]
    assert {"archive", "lake", "resync", "venue-rest"} <= {
        queue for row in seen["workers"] for queue in row["queues"]
    }
    assert {"ArchiveWorkflow"} <= {row["type"] for row in seen["runs"]}
    assert {row["lane"] for row in seen["archive"]} == {"raw/coinbase/0", "ticks/coinbase/0"}
    assert seen["gateways"][0]["reason"] is None


async def test_open_gap_is_shown_with_its_recovery(system: System) -> None:
    """The feed, since when, and the link to the workflow that runs; then it is live again."""
    async with system.paused("temporal-worker"):
        await system.fault(kind="drop", product="BTC-USD", channel="matches", count=3)
        seen = await system.seen(lambda seen: feed(seen, "BTC-USD", "trades").state == "gap")
        row = feed(seen, "BTC-USD", "trades")
        assert row.resync_id is not None
        assert row.since_us is not None
        assert "/workflows/resync%2Fcoinbase%2FBTC-USD%2Ftrades%2F" in row.link
        assert feed(seen, "ETH-USD", "trades").state == "live"
        assert not seen.is_live
        status, page, _ = await run("ledgerflux status --within 12", **system.env)
        assert status == 1
        assert row.resync_id.rpartition("/")[2] in page
        for words in ("1 gap", "5 live", "MD_TICKS", "ArchiveWorkflow", "ready", "lane"):
            assert words in page
    await system.seen(lambda seen: seen.is_live)


async def test_line_that_brings_nothing_is_silent(system: System) -> None:
    """The log says `live` of a feed whose ingestor hangs; the screen does not."""
    async with system.paused("ingestor"):
        quick = {"coinbase_silence_s": 0.5}
        seen = await system.seen(
            lambda seen: feed(seen, "BTC-USD", "book").state == "silent", **quick
        )
        assert feed(seen, "BTC-USD", "book").since_us is not None
        assert not seen.is_live
    await system.seen(lambda seen: seen.is_live)


async def test_normalizer_that_hangs_leaves_its_feeds_unknown(system: System) -> None:
    """Data keeps coming in and the log ends with `live`: both commands say what is wrong."""
    async with system.paused("normalizer-0"):
        seen = await system.seen(lambda seen: any("shard 0" in s for s in seen.unreached))
        assert seen.feeds is not None
        assert {row.state for row in seen.feeds.rows} == {"unknown"}
        (status, page, _), (examined, out, _) = await asyncio.gather(
            run("ledgerflux status --within 12", **system.env),
            run("ledgerflux doctor --within 12", **system.env),
        )
        assert (status, examined) == (1, 1)
        assert "6 unknown" in page
        assert "normalizer-0 has not normalized what came into shard 0" in page
        assert "✗ normalizer" in out
    await system.seen(lambda seen: seen.is_live and not seen.unreached)


async def test_rows_that_are_behind_are_not_believed(system: System) -> None:
    """While the snapshot worker hangs the gateway is asked; without one nobody knows."""
    async with system.paused("snapshot"):
        seen = await system.seen(lambda seen: any("behind the log" in s for s in seen.unreached))
        assert seen.is_live
        seen = await system.seen(
            lambda seen: feed(seen, "BTC-USD", "ticker").state == "unknown",
            gateway_port=free_port(),
        )
        assert not seen.is_live
    await system.seen(lambda seen: not seen.unreached)


async def test_rows_of_another_stream_count_for_nothing(system: System) -> None:
    """Their positions are other ones: a state from before must not be shown as today's."""
    async with Inspector.connect(system.settings, answer_s=WITHIN_S) as inspector:
        line = (
            b'{"v":1,"type":"status","venue":"coinbase","product":"BTC-USD","feed":"book",'
            b'"state":"stale","since":1}'
        )
        old = LatestRow("coinbase", "BTC-USD", 1, 2**60, 1, (line.decode(),))
        seen = await feeds(inspector, system.settings, [old], time.time_ns() // 1000)
    assert {row.state for row in seen.rows} == {"live"}
    assert ("coinbase", "BTC-USD") in seen.behind


async def test_what_cannot_be_reached_is_a_sentence_and_the_rest_is_shown(system: System) -> None:
    """Temporal and the gateway away: the feeds are known all the same, and live."""
    dead = {"temporal_address": f"127.0.0.1:{free_port()}", "gateway_port": free_port()}
    seen = await system.look(**dead)
    assert seen.is_live
    page = page_of(seen)
    assert "6 live" in page
    assert "✗ Temporal: " in page
    assert "✗ the gateway: " in page
    assert "MD_TICKS" in page


async def test_nothing_reached_ends_with_1() -> None:
    """Without the log nobody knows whether the feeds are live."""
    env = {
        "NATS_URLS": f"nats://127.0.0.1:{free_port()}",
        "TEMPORAL_ADDRESS": f"127.0.0.1:{free_port()}",
        "GATEWAY_PORT": str(free_port()),
    }
    status, page, err = await run("ledgerflux status --within 2", **env)
    assert status == 1
    assert "feeds are not known" in page
    assert "NATS_URLS" in page
    assert "Connection refused" in page
    assert "tonic" not in page
    assert err == ""


async def test_watch_looks_again_until_it_is_told_to_stop(system: System, tmp_path: Path) -> None:
    """A JSON line for each look; SIGINT ends it with the status of the last one."""
    arguments = ["status", "--watch", "--every", "0.5", "--within", "40", "--json"]
    watching = Process(
        [sys.executable, "-m", "cli.main", *arguments], tmp_path / "watch.log", system.env
    )
    with watching:
        await eventually(lambda: watching.log_file.read_text().count("\n") >= 2)
        watching.send(signal.SIGINT)
        await eventually(lambda: watching.returncode is not None)
    assert watching.returncode == 0
    looks = [json.loads(line)["at_us"] for line in watching.log_file.read_text().splitlines()]
    assert looks == sorted(set(looks))


async def test_key_is_asked_for_where_the_gateway_demands_one(system: System) -> None:
    """One sentence says how to give it; with the key there is none."""
    keys = (SecretStr("sesame-f8a1c3"),)
    async with running_gateway(system.settings, auth_api_keys=keys) as gateway:
        settings = system.settings.model_copy(update={"gateway_port": gateway.port})
        without, given = await asyncio.gather(
            look(settings, within_s=WITHIN_S), look(settings, "sesame-f8a1c3", WITHIN_S)
        )
    (sentence,) = without.unreached
    assert "LEDGERFLUX_API_KEY" in sentence
    assert given.unreached == []
    assert given.gateways is not None


async def test_screen_stays_one_screen_and_shows_trouble_first() -> None:
    """Of many products as many as fit, those in trouble among them; hostile text is no markup."""
    rows = [FeedRow("coinbase", f"P{number:03}-USD", "book", newest_us=1) for number in range(200)]
    rows[150].state, rows[150].resync_id = "gap", "resync/coinbase/P150-USD/book/1-2"
    seen = Situation(2_000_000, Feeds(rows, [], []), unreached=["the log: [red]no[/nothing]"])
    text = page_of(seen)
    assert "P150-USD" in text
    assert "199 live, 1 gap" in text
    assert f"and {200 - MOST_PRODUCTS} products more" in text
    assert "[red]no[/nothing]" in text
    assert len(text.splitlines()) < 50
