"""`ledgerflux lake` and the dataset behind it, on a real object store."""

import asyncio
import csv
import io
import json
import random
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import duckdb
import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from storage.dataset import lake_dataset
from storage.lake import Lake
from storage.layout import Hour, Lane, Piece
from storage.manifest import Hole
from storage.objects import ObjectStore
from storage.rows import Message
from tests.servers import free_port, port_open
from tests.servers_s3 import BUCKET, LocalBucket, store_settings

EPOCH = 1_790_000_000_000_000
HOUR = Hour.of(EPOCH)
LATER = Hour(HOUR.number + 1)
TICKS = Lane("ticks", "coinbase", 0, EPOCH)
RAW = Lane("raw", "coinbase", 0, EPOCH)
LATER_ONLY = f"SELECT count(trade_qty) AS n FROM ticks WHERE hour = {LATER.number % 24}"  # noqa: S608  # ours
DOC = Path(__file__).parents[2] / "docs" / "lake.md"


def tick(seq: int, hour: Hour = HOUR, *, product: str = "BTC-USD") -> bytes:
    """Return a trade; its price keeps a zero at its end."""
    moment = hour.start_us + 1000 * seq
    return (
        f'{{"v":1,"type":"tick","venue":"coinbase","product":"{product}","feed":"trades",'
        f'"seq":{seq},"prev_seq":{seq - 1},"ts_event":{moment},"ts_ingest":{moment},"fields":'
        f'{{"last_trade":{{"px":65123.{seq % 10}0,"qty":0.5,"side":"buy","id":{seq}}}}}}}'
    ).encode()


def frame(number: int) -> bytes:
    """Return a raw line."""
    moment = HOUR.start_us + 1000 * number
    return f'{{"ts_ingest":{moment},"conn":"a-1","n":{number},"frame":{{"x":{number}}}}}'.encode()


def trades(first: int, last: int, hour: Hour = HOUR, *, product: str = "BTC-USD") -> list[Message]:
    """Return a message of one trade at each position."""
    return [Message(at, product, tick(at, hour, product=product)) for at in range(first, last + 1)]


async def fill(port: int) -> None:
    """Store two hours of ticks with a hole in the second, and some raw lines."""
    async with ObjectStore.connect(store_settings(port)) as store:
        await store.create_bucket()
        lake = Lake(store)
        await lake.put(TICKS, Piece(HOUR, 1, 20, trades(1, 20)))
        both = [*trades(21, 30), *trades(31, 40, product="ETH-USD")]
        await lake.put(TICKS, Piece(HOUR, 21, 40, both))
        await lake.put(TICKS, Piece(LATER, 41, 50, trades(41, 50, LATER)))
        await lake.note_hole(TICKS, LATER, Hole(51, 55, LATER.start_us, "expired"))
        raw = [Message(at, "BTC-USD", frame(at)) for at in range(1, 6)]
        await lake.put(RAW, Piece(HOUR, 1, 5, raw))
        # An object that no manifest lists is none of the lake's.
        await store.put_new(TICKS.key(HOUR, 90, 99), b"not to be read")


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Give the port of a store with a small lake, which nobody changes."""
    with LocalBucket(tmp_path_factory.mktemp("lake") / "s3") as server:
        asyncio.run(port_open(server.port))
        asyncio.run(fill(server.port))
        yield server.port


def environment(port: int) -> dict[str, str]:
    """Return the settings of a command."""
    return {
        "S3_ENDPOINT": f"http://127.0.0.1:{port}",
        "S3_BUCKET": BUCKET,
        "S3_ACCESS_KEY": "test",
        "S3_SECRET_KEY": "test",
    }


def run(port: int, *arguments: str, status: int = 0, **more: str) -> Result:
    """Run the command, which must end with a status."""
    result = CliRunner().invoke(app, ["lake", *arguments], env={**environment(port), **more})
    assert result.exit_code == status, result.output
    return result


def lines(result: Result) -> list[Any]:
    """Return what JSON lines hold."""
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_ls_lists_hours_and_lanes(port: int) -> None:
    """Objects, rows, bytes and holes of each; the limits choose hours."""
    hours = lines(run(port, "ls", "--json"))
    assert [(one["stream"], one["objects"], one["rows"], one["holes"]) for one in hours] == [
        ("raw", 1, 5, 0),
        ("ticks", 2, 40, 0),
        ("ticks", 1, 10, 1),
    ]
    assert hours[0]["hour"] == str(HOUR)[5:15] + "T" + str(HOUR)[-2:]
    later = run(port, "ls", "--json", "--stream", "ticks", "--since", hours[2]["hour"] + ":30")
    assert [one["objects"] for one in lines(later)] == [1]
    until = run(port, "ls", "--json", "--stream", "ticks", "--until", hours[0]["hour"] + ":00")
    assert [one["objects"] for one in lines(until)] == [2]
    table = run(port, "ls", "--limit", "1")
    assert "Hours of the lake" in table.stdout
    assert "1 of 3" in table.stderr


def test_stat_counts_by_stream_and_by_feed(port: int) -> None:
    """Rows, bytes per row, holes, first and last; one product if one is asked for."""
    raw, ticks, *feeds = lines(run(port, "stat", "--json"))
    assert (raw["stream"], raw["rows"], ticks["rows"], ticks["holes"]) == ("raw", 5, 50, 1)
    assert ticks["bytes_per_row"] == round(ticks["bytes"] / 50, 2)
    assert ticks["since"] < ticks["until"]
    assert [(one["product"], one["feed"], one["rows"]) for one in feeds] == [
        ("BTC-USD", "", 5),
        ("BTC-USD", "trades", 40),
        ("ETH-USD", "trades", 10),
    ]
    assert (feeds[1]["first_seq"], feeds[1]["last_seq"]) == (1, 50)
    ticks, only = lines(run(port, "stat", "--json", "--stream", "ticks", "--product", "ETH-USD"))
    assert (ticks["objects"], only["rows"]) == (1, 10)
    assert "Products and feeds" in run(port, "stat").stdout


def test_query_answers_with_exact_decimals(port: int) -> None:
    """As a table, JSON or CSV; prices are decimals, times UTC."""
    sql = "SELECT seq, trade_px, ts_event FROM ticks WHERE seq IN (7, 41) ORDER BY seq"
    first, second = lines(run(port, "query", sql, "--json"))
    assert (first["seq"], second["seq"]) == (7, 41)
    assert '"trade_px":65123.70000000' in run(port, "query", sql, "--json").stdout
    header, row, _ = csv.reader(io.StringIO(run(port, "query", sql, "--csv").stdout))
    assert header == ["seq", "trade_px", "ts_event"]
    assert row[:2] == ["7", "65123.70000000"]
    assert row[2].endswith("+00:00")
    assert "65123.70000000" in run(port, "query", sql).stdout
    total = run(port, "query", "SELECT count(*) AS n, sum(trade_qty) AS q FROM ticks", "--json")
    assert lines(total) == [{"n": 50, "q": 25.0}]


def test_query_knows_where_rows_are(port: int) -> None:
    """Venue, date and hour are columns; the options choose objects."""
    sql = "SELECT venue, hour, count(*) AS n FROM ticks GROUP BY ALL ORDER BY hour"
    assert [one["n"] for one in lines(run(port, "query", sql, "--json"))] == [40, 10]
    chosen = run(port, "query", sql, "--json", "--product", "ETH-USD")
    assert [one["n"] for one in lines(chosen)] == [20]
    raw = run(port, "query", "SELECT n, frame FROM raw ORDER BY n", "--json", "--limit", "2")
    assert lines(raw) == [{"n": 1, "frame": '{"x":1}'}, {"n": 2, "frame": '{"x":2}'}]
    assert "only the first 2 rows" in raw.stderr


@pytest.mark.parametrize(
    ("sql", "status", "words"),
    [
        ("SELEC 1", 2, "syntax error"),
        ("SELECT 1; SELECT 2", 2, "give one SELECT"),
        ("CREATE TABLE t (a INT)", 2, "give one SELECT"),
        ("COPY (SELECT 1) TO 'x.csv'", 2, "give one SELECT"),
        ("SELECT nothing FROM ticks", 1, "nothing"),
        ("SELECT * FROM read_csv('/etc/hostname')", 1, "disabled"),
        ("SELECT * FROM settings", 1, "settings"),
    ],
)
def test_query_that_is_none_is_refused(port: int, sql: str, status: int, words: str) -> None:
    """In a sentence; files of this machine and variables of the program are out of reach."""
    result = run(port, "query", sql, status=status)
    assert words in result.stderr
    assert result.stdout == ""


def test_errors_say_what_to_do(port: int) -> None:
    """A missing bucket, a store that is away, an empty selection, a moment that is none."""
    missing = run(port, "ls", status=1, S3_BUCKET="nowhere")
    assert "nowhere" in missing.stderr
    assert "S3_BUCKET" in missing.stderr
    away = run(free_port(), "ls", status=1)
    assert "no answer" in away.stderr
    assert "has nothing of that" in run(port, "ls", "--venue", "none", status=1).stderr
    assert "no moment" in run(port, "ls", "--since", "yesterday", status=2).stderr
    assert "choose one" in run(port, "query", "SELECT 1", "--json", "--csv", status=2).stderr


class Relay:
    """Passes bytes on to a server. Attributes: port; passed, bytes of its answers."""

    def __init__(self) -> None:
        self.port = self.passed = 0

    async def pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counted: bool
    ) -> None:
        """Pass on until the end."""
        while data := await reader.read(65536):
            self.passed += len(data) if counted else 0
            writer.write(data)
            await writer.drain()
        writer.close()


@asynccontextmanager
async def relay(target: int) -> AsyncIterator[Relay]:
    """Give a relay before a port."""
    shown = Relay()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", target)
        # The file system keeps its connections until its process ends.
        with suppress(OSError, asyncio.CancelledError):
            await asyncio.gather(
                shown.pump(reader, back, counted=False), shown.pump(there, writer, counted=True)
            )

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        shown.port = server.sockets[0].getsockname()[1]
        yield shown
        server.close()


async def test_what_a_query_does_not_need_is_not_fetched(tmp_path: Path) -> None:
    """Columns, row groups and objects are skipped: counted in bytes on the wire."""
    count, rng = 200_000, random.Random(1)

    def noisy(seq: int, hour: Hour, product: str) -> bytes:
        line = tick(seq, hour, product=product)
        return line.replace(b'"qty":0.5', b'"qty":0.%08d' % rng.randrange(10**8))

    with LocalBucket(tmp_path / "s3") as server:
        await port_open(server.port)
        async with ObjectStore.connect(store_settings(server.port)) as store:
            await store.create_bucket()
            for hour, first in ((HOUR, 1), (LATER, count + 1)):
                messages = [
                    Message(
                        first + n,
                        product,
                        b"\n".join(noisy(10 * (first + n) + k, hour, product) for k in range(10)),
                    )
                    for n in range(count // 10)
                    for product in [f"P{n % 10}-USD"]
                ]
                piece = Piece(hour, first, first + count // 10 - 1, messages)
                entry = await Lake(store).put(TICKS, piece)
        size = 2 * entry.size_bytes

        async def cost(sql: str) -> tuple[int, Any]:
            async with relay(server.port) as between:
                settings = store_settings(between.port)
                data = await asyncio.to_thread(lake_dataset, "ticks", settings)
                listing, between.passed = between.passed, 0
                assert listing < 20_000

                def ask() -> Any:
                    with duckdb.connect() as database:
                        database.register("ticks", data)
                        return database.sql(sql).to_arrow_table().to_pylist()

                answer = await asyncio.to_thread(ask)
                return between.passed, answer

        everything, _ = await cost("SELECT max(COLUMNS(*)) FROM ticks")
        column, answer = await cost("SELECT max(side) AS m FROM ticks")
        assert answer == [{"m": "buy"}]
        group, answer = await cost("SELECT max(trade_qty) FROM ticks WHERE product = 'P0-USD'")
        one, answer = await cost(LATER_ONLY)
        assert answer == [{"n": count}]
        none, answer = await cost("SELECT count(*) AS n FROM ticks WHERE venue = 'elsewhere'")
        assert (none, answer) == (0, [{"n": 0}])
    assert everything > 0.5 * size
    assert column < 0.3 * everything
    assert group < 0.5 * everything
    assert one < 0.6 * everything


def examples(language: str) -> list[str]:
    """Return the examples of the documentation that are in a language."""
    found = re.findall(rf"^```{language}\n(.*?)^```", DOC.read_text(), re.MULTILINE | re.DOTALL)
    assert found
    return found


def libraries(code: str) -> set[str]:
    """Return what an example imports."""
    return {
        name.partition(".")[0] for name in re.findall(r"^(?:import|from) (\S+)", code, re.MULTILINE)
    }


@pytest.mark.parametrize(
    "code", [code for code in examples("python") if all(map(find_spec, libraries(code)))]
)
def test_example_of_the_documentation_runs(
    port: int, code: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where its library is installed, it prints what it says."""
    for name, value in environment(port).items():
        monkeypatch.setenv(name, value)
    # The lake of the test is not of the last 24 hours.
    exec(compile(code.replace("24 * 3_600_000_000", "10**15"), str(DOC), "exec"), {})  # noqa: S102
    assert capsys.readouterr().out.strip()


def test_proof_of_the_documentation_finds_what_is_broken(port: int) -> None:
    """Where the position jumps from one product to the other, and nowhere else."""
    (sql,) = examples("sql")
    assert lines(run(port, "query", sql, "--json")) == [
        {"product": "BTC-USD", "feed": "trades", "breaks": 1}
    ]
