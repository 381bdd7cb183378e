"""CanaryReplayWorkflow on real servers: what agrees, what does not, and what cannot be judged."""

import io
from collections.abc import AsyncIterator, Callable
from functools import cache

import pyarrow.parquet as pq
import pytest
import pytest_asyncio
from prometheus_client import generate_latest

from models.canary import CanaryInput, CanaryReport
from storage.layout import Hour
from storage.manifest import Hole
from streaming.core.normalizer import ProductNormalizer
from streaming.metrics import registry_of
from tests.canaries import Court, court
from tests.judged_past import BEGIN, PRODUCTS, RAW, Broken, Story
from venues.coinbase.mapper import VENUE
from workflows import attributes

pytestmark = pytest.mark.long

pytestmark = pytest.mark.asyncio(loop_scope="module")

_HOUR_US = 3_600_000_000
Change = Callable[[list[str]], list[str]]


@cache
def story() -> Story:
    """Return two hours and a half, with lost prints, recoveries and re-reads; deterministic."""
    return Story(frames=12_000, hours=2.5)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def past(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Court]:
    """Give a past that all tests of this file only read."""
    async with court(tmp_path_factory.mktemp("past"), story()) as found:
        yield found


def broken(product: str, change: Change) -> Callable[..., ProductNormalizer]:
    """Return what makes normalizers of which one product's says something else."""

    def make(venue: str, name: str, **more: object) -> ProductNormalizer:
        if name == product:
            return Broken(venue, name, change=change, **more)
        return ProductNormalizer(venue, name, **more)  # type: ignore[arg-type]

    return make


def ticks_of(product: str) -> list[bytes]:
    """Return a product's canonical lines as they were archived."""
    return [
        line for one in story().ticks if one.product == product for line in one.payload.split(b"\n")
    ]


def nth_tick(product: str, feed: str, share: float) -> str:
    """Return an archived tick so far into the past of a product and feed."""
    lines = [
        line
        for line in ticks_of(product)
        if b'"type":"tick"' in line and f'"feed":"{feed}"'.encode() in line
    ]
    return lines[int(share * len(lines))].decode()


def moment(line: str) -> int:
    """Return when a tick's record was received; 0 of other lines."""
    return int(line.partition('"ts_ingest":')[2].partition(",")[0] or 0)


def received(line: str) -> bytes:
    """Return the raw record that was received when a canonical line says it was."""
    found = [
        record
        for one in story().raw
        for record in one.payload.split(b"\n")
        if record.startswith(f'{{"ts_ingest":{moment(line)},'.encode())
    ]
    assert len(found) == 1
    return found[0]


async def differences(past: Court, report: CanaryReport) -> list[dict[str, object]]:
    """Return the rows of the files that a report names."""
    rows: list[dict[str, object]] = []
    for key in report.objects:
        rows += pq.read_table(io.BytesIO(await past.store.get(key))).to_pylist()
    return rows


async def test_equal_candidate_agrees_on_every_message(past: Court) -> None:
    """Gaps, recoveries and re-reads included: all archived lines are compared and equal."""
    assert story().recovered
    assert story().reread
    async with past.candidate():
        report = await past.judge("equal")
    assert report.verdict == "agrees"
    said = sum(len(ticks_of(product)) for product in PRODUCTS)
    assert (report.total.equal, report.total.differences) == (said, 0)
    assert (report.slices, report.slices_done) == (3, 3)
    assert report.frames == sum(one.payload.count(b"\n") + 1 for one in story().raw)
    assert set(report.counts) == set(PRODUCTS)
    assert set(report.feeds) == {"ticker", "trades", "book"}
    assert report.objects == []
    shown = await past.client.get_workflow_handle("equal").describe()
    assert shown.typed_search_attributes[attributes.OUTCOME] == "agrees"
    assert shown.typed_search_attributes[attributes.VENUE] == VENUE


async def test_field_off_on_one_product_is_found_where_it_is(past: Court) -> None:
    """One digit of one product's ticker, from some moment on: the first one is told, exactly."""
    first = nth_tick("ETH-USD", "ticker", 0.4)

    def change(lines: list[str]) -> list[str]:
        return [
            line.replace('"best_bid":{"px":', '"best_bid":{"px":1')
            if moment(line) >= moment(first)
            else line
            for line in lines
        ]

    async with past.candidate("bad-field", make=broken("ETH-USD", change)):
        report = await past.judge("field", candidate_queue="bad-field")
    assert report.verdict == "diverges"
    assert report.first is not None
    assert report.first.kind == "changed"
    assert report.first.expected == first
    assert report.first.actual == first.replace('"best_bid":{"px":', '"best_bid":{"px":1')
    assert report.first.raw.encode() == received(first)
    assert report.first.differs_at == first.index('"best_bid":{"px":') + len('"best_bid":{"px":')
    raw = story().raw[report.first.position - 1].payload.split(b"\n")
    assert raw[report.first.line] == received(first)
    assert report.first.object_.startswith(f"bronze/raw/venue={VENUE}/")
    assert {name: count.differences for name, count in report.feeds.items()} == {
        "book": 0,
        "ticker": report.total.changed,
        "trades": 0,
    }
    rows = await differences(past, report)
    assert len(rows) == report.kept == report.total.changed
    assert {row["product"] for row in rows} == {"ETH-USD"}
    assert rows[0]["expected"] == first


async def test_dropped_tick_is_one_missing_message(past: Court) -> None:
    """One tick of all is swallowed: it is missing, and nothing else is wrong."""
    dropped = nth_tick("BTC-USD", "book", 0.6)

    def change(lines: list[str]) -> list[str]:
        return [line for line in lines if line != dropped]

    async with past.candidate("bad-drop", make=broken("BTC-USD", change)):
        report = await past.judge("drop", candidate_queue="bad-drop")
    assert report.verdict == "diverges"
    assert (report.total.missing, report.total.differences) == (1, 1)
    assert report.first is not None
    assert (report.first.expected, report.first.actual) == (dropped, None)
    assert report.first.raw.encode() == received(dropped)
    said = sum(len(ticks_of(product)) for product in PRODUCTS)
    assert report.total.equal == said - 1
    assert "1 missing" in report.sentence
    assert "BTC-USD book message" in report.sentence


async def test_range_in_the_middle_begins_from_the_archived_states(past: Court) -> None:
    """The second hour alone is judged without the first one, and is as equal."""
    middle = BEGIN.start_us + _HOUR_US + _HOUR_US // 2
    async with past.candidate():
        report = await past.judge("middle", since=middle, until=middle + _HOUR_US // 2)
    assert report.verdict == "agrees"
    assert 0 < report.frames < sum(one.payload.count(b"\n") + 1 for one in story().raw)
    assert report.first_position > 1


async def test_feeds_and_products_can_be_chosen(past: Court) -> None:
    """What is not asked for is not compared, and a candidate that is wrong there still agrees."""

    def change(lines: list[str]) -> list[str]:
        return [line for line in lines if '"feed":"book"' not in line]

    async with past.candidate("no-books", make=broken("SOL-USD", change)):
        chosen = {"products": ["SOL-USD"], "candidate_queue": "no-books"}
        trades = await past.judge("trades", feeds=["trades", "ticker"], **chosen)
        books = await past.judge("books", feeds=["book"], **chosen)
    assert trades.verdict == "agrees"
    assert set(trades.feeds) == {"trades", "ticker"}
    assert set(trades.counts) == {"SOL-USD"}
    assert books.verdict == "diverges"
    assert books.total.missing == books.total.compared


async def test_metrics_are_fit_for_a_gate(past: Court) -> None:
    """The replay worker tells what was compared, what differs, and the newest verdict."""

    def change(lines: list[str]) -> list[str]:
        return [line.replace('"side":"buy"', '"side":"sell"') for line in lines]

    async with past.candidate("gate", make=broken("SOL-USD", change)):
        report = await past.judge("gate", products=["SOL-USD"], candidate_queue="gate")
    shown = generate_latest(registry_of(past.activities.collectors)).decode()
    assert f'md_canary_compared_total{{queue="gate"}} {report.total.compared:.1f}' in shown
    trades = report.feeds["trades"].changed
    assert f'md_canary_differences_total{{feed="trades",queue="gate"}} {trades:.1f}' in shown
    assert 'md_canary_verdict{queue="gate"} 0.0' in shown
    assert 'md_canary_ended_seconds{queue="gate"}' in shown


async def test_nobody_at_the_queue_is_told_with_what_to_do(past: Court) -> None:
    """A canary without a candidate ends, and its sentence says how to start one."""
    report = await past.refused("nobody", candidate_queue="empty", start_within_s=0.5)
    assert "nobody serves the task queue 'empty'" in report.sentence
    assert "python -m workers.candidate --queue empty" in report.sentence
    assert report.slices > 0
    shown = await past.client.get_workflow_handle("nobody").describe()
    assert shown.typed_search_attributes[attributes.OUTCOME] == "failed"


async def test_wrong_questions_are_answered_with_a_sentence(past: Court) -> None:
    """No such product, no such time, nothing there: final, and no candidate is needed."""
    unknown = await past.refused("unknown", products=["BTC-USD", "BTC-XYZ"])
    assert "nothing of product BTC-XYZ; there are BTC-USD" in unknown.sentence
    assert "is no time" in (await past.refused("when", since="yesterday")).sentence
    assert "no such feed: 'tickers'" in (await past.refused("feed", feeds=["tickers"])).sentence
    assert "cannot be used in a subject" in (await past.refused("venue", venue="a b")).sentence
    before = CanaryInput(since="2020-01-01", until="2020-01-02")
    nothing = await past.refused("nothing", **before.model_dump(exclude_unset=True))
    assert "the lake has nothing of that" in nothing.sentence


async def test_candidate_that_fails_on_a_record_cannot_be_judged(past: Court) -> None:
    """The record that made it fail is named; slices that are done are told."""

    def change(lines: list[str]) -> list[str]:
        if any('"state":"gap"' in line for line in lines):
            raise KeyError("seq")
        return lines

    async with past.candidate("fails", make=broken("BTC-USD", change)):
        report = await past.refused("fails", candidate_queue="fails")
    assert "the candidate failed at raw position" in report.sentence
    assert "of BTC-USD: KeyError: 'seq'" in report.sentence


async def test_candidate_that_cannot_read_the_state_is_told(past: Court) -> None:
    """A build that cannot go on where the running release stops is not fit for a rollout."""

    class Newer(ProductNormalizer):
        def restore(self, lines: list[bytes], cursors: bytes) -> None:
            super().restore(lines, cursors.replace(b'"trades"', b'"prints"'))

    since = BEGIN.start_us + _HOUR_US + _HOUR_US // 2
    async with past.candidate("newer", make=Newer):
        report = await past.refused("newer", candidate_queue="newer", since=since)
    assert "cannot read the archived checkpoint" in report.sentence


async def test_damage_and_holes_are_named(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A corrupt object ends the canary with its name, and so does a hole with its positions."""
    told = Story(frames=2000, hours=0.5)
    async with court(tmp_path_factory.mktemp("damaged"), told, messages=30) as damaged:
        listing = [one async for one in damaged.store.keys(f"bronze/raw/venue={VENUE}/")]
        key = [one.key for one in listing if one.key.endswith(".parquet")][3]
        data = bytearray(await damaged.store.get(key))
        data[len(data) // 3] ^= 0xFF
        await damaged.store.delete(key)
        await damaged.store.put_new(key, bytes(data))
        async with damaged.candidate():
            report = await damaged.refused("damaged")
        assert key in report.sentence
        hour, last = Hour.of(told.now_us), told.raw[-1].position
        await damaged.lake.note_hole(RAW, hour, Hole(last + 1, last + 9, 0, "retention was faster"))
        hole = await damaged.refused("hole")
        assert f"positions {last + 1} to {last + 9}" in hole.sentence
        assert "retention was faster" in hole.sentence
