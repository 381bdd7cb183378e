"""Recordings into a real lake and out of it: the same frames, and the ticks that belong to them."""

import asyncio
import json
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from activities.cassette_import import import_cassette
from cli.main import app
from models.records import LineDown, frame_line, note_line
from models.replaying import REPLAY, REPLAY_QUEUE, ReplayInput, ReplayReport
from models.subjects import Streams
from storage.history import Past, lanes, read
from storage.lake import Lake
from storage.layout import Hour, Lane, Piece
from storage.manifest import Hole
from storage.objects import ObjectStore
from storage.rows import Message, messages_of
from storage.schema import Stream
from storage.state import states_before
from streaming.broker.pages import Pages
from streaming.core.normalizer import ProductNormalizer
from streaming.core.outputs import Outputs
from tests.archiving import site
from tests.chains import assert_linked
from tests.recordings import LEVEL2, level2_frames, needs_recordings
from tests.servers import port_open
from tests.servers_s3 import LocalBucket, store_settings
from tests.unit.simulator.client import still
from venues.coinbase.mapper import decode
from venues.simulator import cassette
from venues.simulator.config import Limits, SimConfig
from venues.simulator.server import Simulator
from venues.simulator.taping import Taping
from workers.replay import replay_worker

CHANNELS = ["ticker", "heartbeat", "matches", "level2_batch"]
PRODUCTS = ["BTC-USD", "ETH-USD"]
HOUR = Hour.of(1_790_000_000_000_000)


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Give the port of an object store with an empty lake."""
    with LocalBucket(tmp_path_factory.mktemp("lake") / "s3") as server:
        asyncio.run(port_open(server.port))
        asyncio.run(create(server.port))
        yield server.port


async def create(port: int) -> None:
    """Create the bucket."""
    async with ObjectStore.connect(store_settings(port)) as store:
        await store.create_bucket()


@pytest.fixture(scope="module")
def tape(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give what `record` writes of a lively simulated exchange."""
    path = tmp_path_factory.mktemp("tape") / "tape.ndjson"

    async def record() -> None:
        config = SimConfig(
            port=0, products=tuple(PRODUCTS), rate=800, limits=Limits.none(), levels=20
        )
        async with Simulator(config) as simulator:
            await Taping(simulator.ws_url, PRODUCTS, CHANNELS, 2).run(path)

    asyncio.run(record())
    return path


def run(port: int, *arguments: str, status: int = 0) -> Result:
    """Run `ledgerflux cassette`, which must end with a status."""
    settings = store_settings(port)
    env = {
        "S3_ENDPOINT": str(settings.s3_endpoint),
        "S3_BUCKET": settings.s3_bucket,
        "S3_ACCESS_KEY": "test",
        "S3_SECRET_KEY": "test",
        "COINBASE_CHANNELS": ",".join(CHANNELS),
    }
    result = CliRunner().invoke(app, ["cassette", *arguments], env=env)
    assert result.exit_code == status, result.output
    return result


async def test_imported_tape_replays_as_any_hour(tape: Path, tmp_path: Path) -> None:
    """ReplayWorkflow says of it, byte for byte, what the import has said."""
    async with site(tmp_path, workers=False) as place:
        told = await import_cassette(
            place.lake, tape, "coinbase", decode, lambda name: ProductNormalizer("coinbase", name)
        )
        async with replay_worker(place.client, place.log, place.settings, place.lake, cached=100):
            report: ReplayReport = await place.client.execute_workflow(
                REPLAY,
                ReplayInput(name="tape", speed=0),
                id="replay/tape",
                task_queue=REPLAY_QUEUE,
                result_type=ReplayReport,
            )
        assert (report.outcome, report.frames) == ("complete", told.frames)
        streams = Streams.of_replay(report.namespace)
        end = await place.log.end(streams.ticks)
        pages = Pages(place.log, streams.ticks, streams.every("ticks"), after=0)
        said = by_product(messages_of(await pages.upto(end)))
        wanted = Past("ticks", "coinbase", told.since_us, told.until_us + 1)
        reading = read(place.lake, await lanes(place.lake, wanted))
        assert said == by_product([one async for batch in reading for one in batch])


def take_in(port: int, path: Path) -> dict[str, Any]:
    """Import a recording; return what the command tells."""
    told: dict[str, Any] = json.loads(run(port, "import", str(path), "--json").stdout)
    return told


def give_out(port: int, told: dict[str, Any], path: Path, *more: str) -> dict[str, Any]:
    """Export all of an imported recording; return what the command tells."""
    bounds = ("--since", str(told["since_us"]), "--until", str(told["until_us"] + 1))
    epoch = ("--epoch", str(told["epoch"]))
    result = run(port, "export", str(path), *bounds, *epoch, "--json", *more)
    exported: dict[str, Any] = json.loads(result.stdout)
    return exported


def in_lake(port: int, told: dict[str, Any], stream: Stream) -> list[Message]:
    """Return what the lake has of an imported recording."""

    async def look() -> list[Message]:
        async with ObjectStore.connect(store_settings(port)) as store:
            lake = Lake(store)
            ranges = await lanes(lake, past(told, stream))
            return [one async for batch in read(lake, ranges) for one in batch]

    return asyncio.run(look())


def past(told: dict[str, Any], stream: Stream, since_us: int | None = None) -> Past:
    """Return all of an imported recording, or what it has from a time on."""
    since = told["since_us"] if since_us is None else since_us
    return Past(stream, "coinbase", since, told["until_us"] + 1, None, told["epoch"])


def keys(port: int) -> list[str]:
    """Return the names of everything in the bucket."""

    async def look() -> list[str]:
        async with ObjectStore.connect(store_settings(port)) as store:
            return [info.key async for info in store.keys("")]

    return asyncio.run(look())


def normalized(raw: list[Message], cores: dict[str, ProductNormalizer]) -> dict[str, list[str]]:
    """Return what fresh normalizers, or those given, say of raw messages, by product."""
    lines: dict[str, list[str]] = {}
    for message in raw:
        if message.product not in cores:
            cores[message.product] = ProductNormalizer("coinbase", message.product)
        out = Outputs()
        for event in decode(message.payload, message.product):
            cores[message.product].apply(event, message.position, out)
        lines.setdefault(message.product, []).extend(out.lines)
    return {product: said for product, said in lines.items() if said}


def by_product(ticks: list[Message]) -> dict[str, list[str]]:
    """Return canonical lines by product."""
    lines: dict[str, list[str]] = {}
    for message in ticks:
        lines.setdefault(message.product, []).extend(message.payload.decode().split("\n"))
    return lines


def test_simulator_to_tape_to_lake_to_tape_is_the_same_file(
    port: int, tape: Path, tmp_path: Path
) -> None:
    """Byte for byte; and the lake has exactly what the normalizer says of it, linked."""
    told = take_in(port, tape)
    assert told["frames"] == len(tape.read_bytes().splitlines()) > 100
    assert (told["gaps"], told["invalid"]) == (0, 0)
    out = tmp_path / "out.ndjson"
    exported = give_out(port, told, out)
    assert out.read_bytes() == tape.read_bytes()
    assert exported["frames"] == told["frames"]
    assert exported["products"] == told["products"]

    raw, ticks = in_lake(port, told, "raw"), in_lake(port, told, "ticks")
    assert [one.position for one in raw] == list(range(1, told["frames"] + 1))
    said = by_product(ticks)
    assert said == normalized(raw, {})
    assert set(said) == set(PRODUCTS)
    assert sum(assert_linked(lines) for lines in said.values()) == told["ticks"] > 100


def test_importing_twice_changes_nothing(port: int, tape: Path) -> None:
    """The epoch is the recording's own; everything is found as it is."""
    first = take_in(port, tape)
    before = keys(port)
    assert take_in(port, tape) == first
    assert keys(port) == before
    assert first["epoch"] == first["since_us"]


async def test_exported_tape_plays_and_records_the_same_frames(
    port: int, tape: Path, tmp_path: Path
) -> None:
    """Lake to tape to simulator to subscriber: every frame that a venue says, in order."""
    told = await asyncio.to_thread(take_in, port, tape)
    out, again = tmp_path / "out.ndjson", tmp_path / "again.ndjson"
    await asyncio.to_thread(give_out, port, told, out)
    frames = [taped.text for taped in cassette.read(tape)]
    async with Simulator(still(cassette=out, speed=0, paused=False)) as simulator:
        await Taping(simulator.ws_url, PRODUCTS, CHANNELS, 1.5).run(again)
    assert [taped.text for taped in cassette.read(again)] == frames


def test_one_product_can_be_exported(port: int, tape: Path, tmp_path: Path) -> None:
    """Only its frames, those as they were; a product that is not there is named."""
    told = take_in(port, tape)
    out = tmp_path / "out.ndjson"
    exported = give_out(port, told, out, "--products", "ETH-USD")
    assert set(exported["products"]) == {"ETH-USD"}
    wanted = [line for line in tape.read_bytes().splitlines() if b'"product_id":"ETH-USD"' in line]
    assert out.read_bytes().splitlines() == wanted
    bounds = ("--since", str(told["since_us"]), "--until", str(told["until_us"]))
    missing = run(port, "export", str(tmp_path / "no"), *bounds, "--products", "X-Y", status=1)
    assert "X-Y" in missing.stderr
    assert not (tmp_path / "no").exists()


def hours_tape(path: Path, tape: Path) -> int:
    """Write a tape in the public format, moved in time so that an hour ends within it."""
    taped = list(cassette.read(tape))
    border_us = Hour(HOUR.number + 1).start_us
    later_us = border_us - taped[len(taped) // 2].time_us

    def moved(found: re.Match[str]) -> str:
        moment = datetime.fromisoformat(found[1]) + timedelta(microseconds=later_us)
        return f'"time":"{moment.isoformat().replace("+00:00", "Z")}"'

    lines = ["wss://feed <-> 1", ""]
    for one in taped:
        seconds, fraction = divmod(one.time_us + later_us, 1_000_000)
        text = re.sub(r'"time":"([^"]+)"', moved, one.text)
        lines.append(f"{seconds}.{fraction:06d}: {text}")
    path.write_text("\n".join(lines) + "\n")
    return border_us


def test_second_hour_of_a_recording_goes_on_from_its_own_state(
    port: int, tape: Path, tmp_path: Path
) -> None:
    """What is kept at the border gives the ticks of the later hour without the earlier one."""
    path = tmp_path / "two-hours.txt"
    border_us = hours_tape(path, tape)
    told = take_in(port, path)
    later = past(told, "raw", border_us)

    async def look() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        async with ObjectStore.connect(store_settings(port)) as store:
            lake = Lake(store)
            states = await states_before(lake, later)
            assert set(states) == set(PRODUCTS)
            cores = {name: ProductNormalizer("coinbase", name) for name in states}
            for name, state in states.items():
                cores[name].restore(list(map(bytes, state.messages)), bytes(state.cursors))
            raw = [one async for b in read(lake, await lanes(lake, later)) for one in b]
            ranges = await lanes(lake, past(told, "ticks", told["since_us"]))
            ticks = [one async for batch in read(lake, ranges) for one in batch]
            rest = [one for one in ticks if one.position > states[one.product].ticks_seq]
            return normalized(raw, cores), by_product(rest)

    said, archived = asyncio.run(look())
    assert said == archived
    assert sum(map(len, said.values())) > told["ticks"] / 4
    out = tmp_path / "out.ndjson"
    give_out(port, told, out)
    assert [one.text for one in cassette.read(out)] == [one.text for one in cassette.read(path)]


@needs_recordings
def test_real_recording_is_imported_whole(port: int, tmp_path: Path) -> None:
    """Ten products of a real exchange: no gap, every frame comes back as it was."""
    told = take_in(port, LEVEL2)
    assert (told["gaps"], told["invalid"], len(told["products"]) - 1) == (0, 0, 10)
    assert told["ticks"] == 9719 + 107 + 97
    out = tmp_path / "out.ndjson"
    give_out(port, told, out)
    frames = [frame.text.decode() for frame in cassette.frames(out)]
    assert frames == [text for _, text in level2_frames()]


MATCH = b'{"type":"match","product_id":"BTC-USD"}'
LATE = frame_line(5, "tape-5", 1, MATCH)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", ": holds no frame"),
        (b"hello\n", ", line 1: is neither `seconds: json` nor a line of MD_RAW"),
        (LATE + b"\n" + LATE[:-9], ", line 2: "),
        (LATE + b"\n" + frame_line(3, "tape-5", 2, MATCH), ", line 2: was received 2 µs before"),
        (note_line(5, "tape-5", 1, LineDown("closed")), ": holds no frame"),
    ],
)
def test_bad_recording_is_refused_by_line_and_leaves_nothing(
    port: int, tmp_path: Path, data: bytes, why: str
) -> None:
    """No recording, a cut line, frames out of order, nothing but notes."""
    path = tmp_path / "bad.ndjson"
    path.write_bytes(data)
    before = keys(port)
    refused = run(port, "import", str(path), status=1)
    assert f"{path}{why}" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert keys(port) == before


def test_other_recording_of_the_same_moment_is_refused(
    port: int, tape: Path, tmp_path: Path
) -> None:
    """Two recordings cannot be one log."""
    told = take_in(port, tape)
    other = tmp_path / "other.ndjson"
    lines = tape.read_bytes().splitlines(keepends=True)
    other.write_bytes(b"".join([*lines[:-2], lines[-1]]))
    refused = run(port, "import", str(other), status=1)
    assert "another recording that began in the same microsecond" in refused.stderr
    assert len(in_lake(port, told, "raw")) == told["frames"]


def test_wrong_questions_are_told_apart_from_failures(port: int, tmp_path: Path) -> None:
    """A file or range that is not there: 1; what cannot be meant: 2."""
    gone = run(port, "import", str(tmp_path / "none"), status=1)
    assert "No such file" in gone.stderr
    out = str(tmp_path / "out")
    since, until = ("--since", "2020-01-01"), ("--until", "2020-01-02")
    assert "2020-01-01" in run(port, "export", out, *since, *until, status=1).stderr
    backwards = run(port, "export", out, "--since", "2020-01-02", "--until", "2020-01-01", status=1)
    assert "the range is empty" in backwards.stderr
    (tmp_path / "there").touch()
    exists = run(port, "export", str(tmp_path / "there"), *since, *until, status=1)
    assert "File exists" in exists.stderr
    assert (tmp_path / "there").exists()
    assert "is no time" in run(port, "export", out, "--since", "x", *until, status=2).stderr
    assert "no such venue" in run(port, "import", out, "--venue", "moon", status=2).stderr
    run(port, "export", out, *since, *until, "--products", "a b", status=2)
    nobody = run(1, "export", out, *since, *until, status=1)
    assert "S3_ENDPOINT" in nobody.stderr
    assert not (tmp_path / "out").exists()


def raw_line(number: int, conn: str = "a-1", product: str = "BTC-USD", ms: int = 0) -> bytes:
    """Return a frame's line, received at a millisecond of the hour."""
    frame = f'{{"type":"match","product_id":"{product}","x":{number}}}'.encode()
    return frame_line(HOUR.start_us + (ms or number) * 1000, conn, number, frame)


async def put(port: int, epoch: int, pieces: list[Piece], hole: Hole | None = None) -> None:
    """Store pieces of a log."""
    async with ObjectStore.connect(store_settings(port)) as store:
        lane = Lane("raw", "coinbase", 0, epoch)
        for piece in pieces:
            await Lake(store).put(lane, piece)
        if hole is not None:
            await Lake(store).note_hole(lane, HOUR, hole)


def export_hour(port: int, epoch: int, path: Path, *more: str, status: int = 0) -> Result:
    """Export the hour of a log."""
    bounds = ("--since", str(HOUR.start_us), "--until", str(Hour(HOUR.number + 1).start_us))
    words = ("export", str(path), *bounds, "--epoch", str(epoch), *more)
    return run(port, *words, status=status)


def test_range_with_a_hole_is_refused(port: int, tmp_path: Path) -> None:
    """It names what is missing; no file is left."""
    pieces = [
        Piece(HOUR, 1, 2, [Message(at, "BTC-USD", raw_line(at)) for at in (1, 2)]),
        Piece(HOUR, 6, 7, [Message(at, "BTC-USD", raw_line(at)) for at in (6, 7)]),
    ]
    asyncio.run(put(port, 11, pieces, Hole(3, 5, HOUR.start_us, "expired")))
    out = tmp_path / "out"
    refused = export_hour(port, 11, out, status=1)
    assert "positions 3 to 5" in refused.stderr
    assert not out.exists()


def test_live_log_becomes_one_line_in_order_of_time(port: int, tmp_path: Path) -> None:
    """Two ingestors, products out of step, notes among frames: frames once, oldest first."""
    payloads = [
        ("BTC-USD", raw_line(1, ms=10) + b"\n" + raw_line(2, ms=40)),
        ("BTC-USD", raw_line(1, "b-9", ms=11)),
        ("ETH-USD", raw_line(1, product="ETH-USD", ms=20)),
        ("ETH-USD", raw_line(2, product="ETH-USD", ms=30)),
        ("ETH-USD", note_line(HOUR.start_us + 50_000, "a-1", 3, LineDown("closed"))),
    ]
    messages = [Message(at, *one) for at, one in enumerate(payloads, start=1)]
    asyncio.run(put(port, 12, [Piece(HOUR, 1, 5, messages)]))
    out = tmp_path / "out"
    refused = export_hour(port, 12, out, status=1)
    assert "the lines a, b have all recorded this; choose one of them with --line" in refused.stderr
    assert not out.exists()
    told = export_hour(port, 12, out, "--line", "a")
    assert "4 frames of BTC-USD, ETH-USD" in told.stdout
    assert "1 notes of the log left out" in told.stdout
    lines = payloads[0][1].split(b"\n")
    assert out.read_bytes().splitlines() == [lines[0], payloads[2][1], payloads[3][1], lines[1]]
    assert (
        "of line c, only of a, b"
        in export_hour(port, 12, tmp_path / "c", "--line", "c", status=1).stderr
    )
    take_in(port, out)
