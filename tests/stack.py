"""The whole pipeline as processes, each of which a test can kill, and the exchange's own truth."""

import asyncio
import json
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import nats

from cli.stack import temporal_command
from models.canonical import Snapshot, Status, Tick
from models.numbers import iso_to_us
from models.subjects import Streams
from streaming.broker.jetstream import JetStreamLog
from streaming.core.book import Book
from tests.chains import messages
from tests.servers import (
    PATIENCE_S,
    NatsServer,
    Process,
    Server,
    eventually,
    free_port,
    port_open,
    stop_together,
)
from venues.simulator.config import Keys


class Stack:
    """nats-server, simulator, ingestor, normalizer and gateway; `kill` and `start` any of them."""

    def __init__(
        self,
        root: Path,
        products: Sequence[str],
        channels: Sequence[str],
        simulator: Sequence[str] = (),
        *,
        recovery: bool = False,
        two_lines: bool = False,
        venue: str = "coinbase",
        env: Mapping[str, str] | None = None,
    ) -> None:
        # A kept connection may be closed by the server in the moment in which it is used again.
        self.http = httpx.AsyncClient(
            limits=httpx.Limits(max_keepalive_connections=0), timeout=PATIENCE_S
        )
        self.truth_file = root / "truth.ndjson"
        self.nats = NatsServer(root / "nats")
        self.sim_port, self.gateway_port = free_port(), free_port()
        keys = Keys()
        env = {
            **(env or {}),
            "INGEST_VENUE": venue,
            "COINBASE_ADVANCED_WS": f"ws://127.0.0.1:{self.sim_port}/advanced",
            "NATS_URLS": self.nats.url,
            "GATEWAY_PORT": str(self.gateway_port),
            "COINBASE_WS_PRIMARY": f"ws://127.0.0.1:{self.sim_port}",
            "COINBASE_REST_URL": self.sim_url,
            "COINBASE_PRODUCTS": ",".join(products),
            "COINBASE_CHANNELS": ",".join(channels),
            "COINBASE_API_KEY": keys.key,
            "COINBASE_API_SECRET": keys.secret,
            "COINBASE_API_PASSPHRASE": keys.passphrase,
        }
        sim = [
            *(sys.executable, "-m", "cli.main", "sim", "--port", str(self.sim_port)),
            *("--products", ",".join(products), "--no-limits"),
            *("--ground-truth", str(self.truth_file), *simulator),
        ]
        self.processes: dict[str, Process] = {
            "nats": self.nats,
            "simulator": Server(sim, root / "simulator.log", env, measured=False),
        }
        workers = ["normalizer", "gateway", "ingestor"]
        if recovery:
            self.temporal_port = free_port()
            (root / "temporal").mkdir(parents=True)
            env["TEMPORAL_ADDRESS"] = f"127.0.0.1:{self.temporal_port}"
            env["COINBASE_REST_PER_S"] = "1000"
            server = [*temporal_command(root / "temporal", self.temporal_port), "--headless"]
            self.processes["temporal-server"] = Server(server, root / "temporal.log")
            workers.insert(1, "temporal")
        for name in workers:
            command = [sys.executable, "-m", f"workers.{name}"]
            self.processes[name] = Process(
                command, root / f"{name}.log", env, measured=not recovery
            )
        if two_lines:
            command = [sys.executable, "-m", "workers.ingestor"]
            line = env | {"INGEST_LINE": "b"}
            self.processes["ingestor-b"] = Process(
                command, root / "ingestor-b.log", line, measured=False
            )

    @property
    def sim_url(self) -> str:
        """The simulator's REST address."""
        return f"http://127.0.0.1:{self.sim_port}"

    @property
    def gateway_url(self) -> str:
        """Where subscribers connect."""
        return f"ws://127.0.0.1:{self.gateway_port}/ws"

    async def ready(self) -> None:
        """Wait until the gateway serves."""

        async def check() -> bool:
            url = f"http://127.0.0.1:{self.gateway_port}/readyz"
            return (await self.http.get(url)).status_code == httpx.codes.OK

        await eventually(lambda: _quietly(check))

    async def gateway(self, path: str) -> Any:
        """Read something of the gateway's REST."""
        answer = await self.http.get(f"http://127.0.0.1:{self.gateway_port}{path}")
        answer.raise_for_status()
        return answer.json()

    async def simulator(self, method: str, path: str, body: Any = None) -> Any:
        """Call the simulator's control or REST."""
        answer = await self.http.request(method, self.sim_url + path, json=body)
        answer.raise_for_status()
        return answer.json()


async def _quietly(check: Any) -> bool:
    try:
        return bool(await check())
    except httpx.HTTPError:
        return False


@asynccontextmanager
async def running(
    root: Path,
    products: Sequence[str],
    channels: Sequence[str],
    simulator: Sequence[str] = (),
    *,
    without: Sequence[str] = (),
    **options: Any,
) -> AsyncIterator[Stack]:
    """Run the stack with its options; processes in `without` are left for the test to start."""
    stack = Stack(root, products, channels, simulator, **options)
    with ExitStack() as exits:
        for process in stack.processes.values():
            exits.callback(process.kill)
        workers = [one for one in stack.processes.values() if not isinstance(one, Server)]
        exits.callback(stop_together, workers)
        for name, process in stack.processes.items():
            if name not in without:
                process.start()
            if name == "nats":
                await port_open(stack.nats.port)
            if name == "simulator":
                await port_open(stack.sim_port)
            if name == "temporal-server":
                await port_open(stack.temporal_port)
        async with stack.http:
            await stack.ready()
            yield stack


@dataclass(frozen=True)
class Emitted:
    """What the exchange emitted, in order: per product, by feed, the key of each message."""

    keys: Mapping[tuple[str, str], list[Any]]


def emitted(truth_file: Path, book_channel: str) -> Emitted:
    """Read the ground truth."""
    feed_of = {"matches": "trades", "ticker": "ticker", book_channel: "book"}
    keys: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for line in truth_file.read_text().splitlines():
        told = json.loads(line)
        feed, frame = feed_of.get(told.get("channel", "")), told.get("frame", {})
        if feed == "trades":
            keys[told["product"], feed].append(frame["trade_id"])
        elif feed == "ticker":
            keys[told["product"], feed].append(frame["sequence"])
        elif feed == "book" and frame["type"] == "l2update":
            sides = {"buy": "bid", "sell": "ask"}
            changes = tuple((sides[side], price, size) for side, price, size in frame["changes"])
            keys[told["product"], feed].append((iso_to_us(frame["time"]), changes))
    return Emitted(dict(keys))


def key_of(tick: Tick) -> Any:
    """Return what `emitted` calls the same message."""
    if tick.feed == "trades":
        assert tick.fields.last_trade is not None
        return tick.fields.last_trade.id
    if tick.feed == "ticker":
        return tick.seq
    assert tick.fields.changes is not None
    return tick.ts_event, tuple(tuple(change) for change in tick.fields.changes)


@dataclass
class Audit:
    """How a canonical log compares with the truth."""

    delivered: int = 0
    new_chains: int = 0
    """Snapshots other than a chain's first."""
    announced_breaks: int = 0
    open_gaps: int = 0


def audit(lines: Sequence[bytes], truth: Emitted) -> Audit:
    """Assert that nothing is doubled, out of order or lost without an announcement.

    Linked ticks must be neighbours in the truth; between chains (a snapshot in between) the truth
    may go on; what is missing at the end must be behind an open gap.
    """
    result = Audit()
    index = {key: {k: at for at, k in enumerate(keys)} for key, keys in truth.keys.items()}
    at: dict[tuple[str, str], int | None] = {}
    newest: dict[tuple[str, str], int] = {}
    state: dict[tuple[str, str], str] = {}
    for message in messages(lines):
        key: tuple[str, str] = (message.product, message.feed)
        if isinstance(message, Status):
            state[key] = message.state
            result.announced_breaks += message.state == "gap"
        elif isinstance(message, Snapshot):
            # Ticker and trades name their place; a book's is not in the truth.
            result.new_chains += key in newest
            at[key] = _place(message, index.get(key, {}))
            newest[key] = message.seq
        else:
            assert message.prev_seq == newest.get(key, 0), f"broken link: {message}"
            newest[key] = message.seq
            place = index[key][key_of(message)]
            before = at.get(key)
            assert before is None or place == before + 1, f"{key}: {before} then {place}: {message}"
            at[key] = place
            result.delivered += 1
    for key, keys in truth.keys.items():
        if state.get(key, "live") in {"gap", "stale"}:
            result.open_gaps += 1
        else:
            assert at.get(key) == len(keys) - 1, f"{key} ends at {at.get(key)} of {len(keys)}"
    return result


def _place(message: Snapshot, places: Mapping[Any, int]) -> int | None:
    trade = message.state.last_trade
    if message.feed == "ticker":
        return places.get(message.seq)
    if message.feed == "trades" and trade is not None:
        return places.get(trade.id)
    return None


async def canonical(stack: Stack) -> dict[str, list[bytes]]:
    """Return all canonical lines by product."""
    lines: dict[str, list[bytes]] = defaultdict(list)
    async with await JetStreamLog.connect([stack.nats.url], name="audit") as log:
        end = await log.end(Streams().ticks)
        async with (
            asyncio.timeout(PATIENCE_S),
            aclosing(log.read(Streams().ticks, ">")) as messages,
        ):
            async for message in messages:
                lines[message.subject] += message.payload.split(b"\n")
                if message.seq >= end:
                    return lines
    return lines


async def settled(stack: Stack) -> None:
    """Pause the market and wait until all of it is normalized: all read, and quiet for a while."""
    await stack.simulator("POST", "/sim/pause")
    seen: list[int | None] = []
    client = await nats.connect(stack.nats.url)

    async def quiet() -> bool:
        consumers = await client.jetstream().consumers_info(Streams().raw)
        # One whose reader was killed stays for a while, and nobody will read on with it.
        readers = [consumer for consumer in consumers if consumer.push_bound]
        is_read = bool(readers) and all(reader.num_pending == 0 for reader in readers)
        async with await JetStreamLog.connect([stack.nats.url], name="audit") as log:
            seen.append(await log.end(Streams().ticks) if is_read else None)
        await asyncio.sleep(0.25)
        return is_read and len(seen) > 2 and seen[-1] == seen[-2] == seen[-3]

    try:
        await eventually(quiet)
    finally:
        await client.close()


def exact(levels: list[tuple[str, str]] | None) -> dict[Decimal, Decimal]:
    """Return levels as exact numbers."""
    return {Decimal(price): Decimal(size) for price, size in levels or []}


def assert_trades_complete(lines: list[bytes], emitted_ids: list[int]) -> None:
    """Assert that no print of the exchange is missing between the first and the last."""
    ids = [
        message.fields.last_trade.id
        for message in messages(line for line in lines if b'"feed":"trades"' in line)
        if isinstance(message, Tick) and message.fields.last_trade is not None
    ]
    assert ids == emitted_ids[emitted_ids.index(ids[0]) :]


def assert_book_equals(lines: list[bytes], rest: dict[str, list[tuple[str, str, int]]]) -> None:
    """Assert that the canonical log ends with the exchange's own book."""
    book = Book()
    for message in messages(line for line in lines if b'"feed":"book"' in line):
        if isinstance(message, Snapshot):
            book = Book(message.state.bids or (), message.state.asks or ())
        elif isinstance(message, Tick):
            book.apply(message.fields.changes or [])
    assert exact(book.bids()) == exact([(row[0], row[1]) for row in rest["bids"]])
    assert exact(book.asks()) == exact([(row[0], row[1]) for row in rest["asks"]])
