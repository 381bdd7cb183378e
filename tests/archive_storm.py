"""Half an hour of a simulated market in compressed time, while everything around the archive fails.

2,000 frames in each simulated second go through the real ingest, log and normalizer; MD_RAW and
MD_TICKS are archived, while the store fails at random and is away for one fifteenth of the time,
the archiver is killed ten times and Temporal twice. Then lake and log are held against each other:
message by message, by DuckDB, and by the audit. `make storm` runs it whole, the gate a short one.
"""

import asyncio
import random
import time
from array import array
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import pyarrow as pa
from temporalio.client import WorkflowFailureError

from activities.archive import lane_subjects, stream_name
from models.archiving import ARCHIVE, ArchiveProgress, LaneName, Stream
from models.subjects import raw_subject
from storage.errors import StorageError
from storage.layout import Hour, ingest_time
from storage.manifest import Entry, gaps
from storage.rows import messages_of
from streaming.broker.pages import Pages
from tests.archiving import VENUE, ArchiveProcess, Site, site
from tests.market import PRODUCTS, RATE, MarketProcess, NormalizerProcess
from tests.s3_faults import NOTHING, RANDOM
from tests.servers import eventually, port_open
from tests.servers_s3 import BUCKET
from workflows.connect import leave
from workflows.schedules import STREAMS, archive_id

ROWS_SQL = """
    SELECT count(*) FROM log FULL JOIN (
        SELECT position, count(*) AS lines, count(DISTINCT line) AS once FROM lake GROUP BY position
    ) AS kept USING (position)
    WHERE kept.lines IS DISTINCT FROM log.lines OR kept.once IS DISTINCT FROM log.lines
"""
"""Counts the messages of which the lake has not each line once, or that only one of them has."""

CHAIN_SQL = """
    SELECT count(*) FROM (
        SELECT type, prev_seq, lag(seq, 1, 0) OVER (
            PARTITION BY product, feed ORDER BY position, line
        ) AS before FROM lake WHERE type <> 'status'
    ) WHERE type = 'tick' AND prev_seq <> before
"""
"""Counts the ticks that do not link to the message before them."""

_LANES = tuple(LaneName(stream, VENUE, 0) for stream in STREAMS)
_OUTAGE_AT, _OUTAGE = 0.5, 1 / 15
_FLUSH = 1 / 30
_OVERTIME = 4
"""The market goes on until all is done, but not for more than so many times its time."""


@dataclass(frozen=True)
class Scale:
    """How large a storm is; outage and flush are in proportion, as 2 and 1 are to 30 minutes.

    `simulated_s`: of data, at least; `compression`: simulated seconds in a second at most;
    `within_s`: it is over by then, or has failed.
    """

    simulated_s: float
    compression: float
    within_s: float
    kills: int = 10
    restarts: int = 2

    @property
    def flush_s(self) -> float:
        """Age at which the archiver stores what it has."""
        return self.simulated_s * _FLUSH / self.compression


WHOLE = Scale(simulated_s=1800, compression=10, within_s=2400)
SHORT = Scale(simulated_s=20, compression=1, within_s=400, kills=5, restarts=1)


@dataclass
class Held:
    """What came of holding the lake against a stream: what the log has, and each difference."""

    stream: Stream
    objects: int = 0
    rows: int = 0
    positions: "array[int]" = field(default_factory=lambda: array("q"))
    lines: "array[int]" = field(default_factory=lambda: array("q"))
    differences: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)


class Storm:
    """One storm. Attributes: elapsed_s, simulated; differences, empty when all is well."""

    def __init__(self, scale: Scale, running: Site, tell: Callable[[str], None]) -> None:
        self.scale, self.differences = scale, list[str]()
        self.elapsed_s = 0.0
        self._site, self._tell, self._chance = running, tell, random.Random(2)
        self._killed = self._restarted = 0
        self._said, self._away_s = 0, 0.0
        self._began_s = time.monotonic()

    async def run(self, root: Path) -> None:
        """Let it rage, wait until everything is archived, compare, and tell."""
        running, scale = self._site, self.scale
        env = {
            "ARCHIVE_FLUSH_S": str(scale.flush_s),
            "ARCHIVE_EVERY_S": "1",
        }
        market = MarketProcess(
            root,
            running.nats.url,
            # Its time must never be ahead of ours.
            ago_s=scale.simulated_s * _OVERTIME * (1 - 1 / scale.compression),
            compression=scale.compression,
            most=round(scale.simulated_s * RATE * _OVERTIME),
        )
        running.store.shares = RANDOM
        with ArchiveProcess(root, running.settings, **env) as archiver:
            with NormalizerProcess(root, running.settings) as normalizer, market:
                began_s = time.monotonic()
                async with self._clock(market):
                    await self._rage(archiver)
                took_s, simulated_s = time.monotonic() - began_s, self.elapsed_s
                assert await asyncio.to_thread(market.stop, 60.0) == 0
                await self._settled()
                assert await asyncio.to_thread(normalizer.stop, 60.0) == 0
            self._say_market(market, simulated_s, took_s)
            await eventually(self._archived, within_s=scale.within_s)
            running.store.shares = NOTHING
            for lane in _LANES:
                await self._compare(lane)
        self._say_faults()

    async def _rage(self, archiver: ArchiveProcess) -> None:
        """Do all the harm, each at its simulated time."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._kill(archiver))
            tasks.create_task(self._restart())
            tasks.create_task(self._outage())
            await self._until(1.0)

    @asynccontextmanager
    async def _clock(self, market: MarketProcess) -> AsyncIterator[None]:
        """Read the simulated time off what was said last."""
        subject = raw_subject(0, VENUE, PRODUCTS[0])

        async def read() -> None:
            while True:
                newest = await self._site.log.last(self._site.settings.streams.raw, subject)
                if newest is not None:
                    now_us = ingest_time(newest.payload) or market.begin_us
                    self.elapsed_s = (now_us - market.begin_us) / 1e6
                await asyncio.sleep(0.1)

        reading = asyncio.create_task(read())
        try:
            yield
        finally:
            reading.cancel()
            await asyncio.wait([reading])

    async def _until(self, share: float) -> None:
        """Wait until so much of the simulated time is over."""
        wanted_s = share * self.scale.simulated_s
        await eventually(lambda: self.elapsed_s >= wanted_s, within_s=self.scale.within_s)

    async def _kill(self, archiver: ArchiveProcess) -> None:
        """Kill the archiver again and again, each time in the middle of its work."""
        for number in range(1, self.scale.kills + 1):
            await self._until(number / (self.scale.kills + 1))
            await self._asked("objects", 1)
            await self._asked("asked", self._chance.randint(0, 8))
            await asyncio.to_thread(archiver.kill)
            archiver.start()
            self._killed = number
            self._note(f"archiver killed, {number}")

    async def _asked(self, what: str, more: int) -> None:
        """Wait until the store has been asked for more."""
        done = self._site.store.done
        enough = done[what] + more
        await eventually(lambda: done[what] >= enough, within_s=self.scale.within_s)

    async def _restart(self) -> None:
        """Kill Temporal, and start it again."""
        temporal = self._site.temporal
        for number in range(1, self.scale.restarts + 1):
            await self._until((number - 0.25) / self.scale.restarts)
            await asyncio.to_thread(temporal.kill)
            temporal.start()
            await port_open(temporal.port)
            self._restarted = number
            self._note(f"Temporal killed and started, {number}")

    async def _outage(self) -> None:
        """Take the store away for its share of the simulated time, and until somebody notices."""
        store = self._site.store
        await self._until(_OUTAGE_AT)
        began_s, store.away = self.elapsed_s, True
        noticing = asyncio.create_task(self._asked("turned_away", 1))
        await self._until(_OUTAGE_AT + _OUTAGE)
        await noticing
        store.away = False
        self._away_s = self.elapsed_s - began_s
        self._note("the store is back")

    def _note(self, what: str) -> None:
        """Tell what has happened, by the simulated clock."""
        self._tell(f"{self.elapsed_s:7.1f} s  {what}")

    async def _settled(self) -> None:
        """Wait until the normalizer has had nothing to say for a while."""
        ends: list[int] = []

        async def quiet() -> bool:
            ends.append(await self._site.log.end(self._site.settings.streams.ticks))
            await asyncio.sleep(0.5)
            return len(ends) > 2 and ends[-1] == ends[-2] == ends[-3]

        await eventually(quiet, within_s=self.scale.within_s)

    async def _archived(self) -> bool:
        """Tell whether both lanes have come to the end of their streams."""
        await asyncio.sleep(0.2)
        for lane in _LANES:
            told = await _progress(self._site, lane)
            if (told.position or 0) < await self._site.log.end(_name(self._site, lane)):
                return False
        return True

    async def _compare(self, lane: LaneName) -> None:
        """Hold the lake against a stream: by its messages, by DuckDB, by the audit."""
        held, running = Held(lane.stream), self._site
        listed = await running.manifests(await running.lane(stream=lane.stream))
        entries = [(hour, one) for hour, manifest in listed for one in manifest.entries]
        missing = gaps([manifest for _, manifest in listed])
        holes = [one for _, manifest in listed for one in manifest.holes]
        if missing or holes:
            held.differences.append(f"{lane}: gaps {missing}, holes {holes}")
        for hour, entry in entries:
            await self._object(lane, held, hour, entry)
        if list(held.positions) != list(range(1, await running.log.end(_name(running, lane)) + 1)):
            held.differences.append(f"{lane}: not every position of the stream is in an object")
        if lane.stream == "raw" and held.rows != self._said:
            held.differences.append(f"{lane}: {self._said:,} messages were said, not {held.rows:,}")
        await self._ask_duckdb(lane, held, entries)
        await self._audit(lane, held)
        self.differences += held.differences
        self._tell(
            f"{_name(running, lane):8}  {held.rows:,} rows in {len(held.positions):,} messages, "
            f"in the lake as {held.objects:,} objects; {'; '.join(held.told)}"
        )

    async def _object(self, lane: LaneName, held: Held, hour: Hour, entry: Entry) -> None:
        """Hold one object against the log, byte for byte."""
        running = self._site
        name = _name(running, lane)
        pages = Pages(running.log, name, lane_subjects(lane), after=entry.first - 1)
        in_log = messages_of(await pages.upto(entry.last))
        held.objects += 1
        held.rows += entry.rows
        held.positions.extend(one.position for one in in_log)
        held.lines.extend(one.payload.count(b"\n") + 1 for one in in_log)
        try:
            in_lake = await running.lake.messages(
                await running.lane(stream=lane.stream), hour, entry
            )
        except StorageError as error:
            held.differences.append(str(error))
        else:
            if in_lake != in_log:
                held.differences.append(f"{lane} {entry.first}-{entry.last}: not what the log has")

    async def _ask_duckdb(
        self, lane: LaneName, held: Held, entries: list[tuple[Hour, Entry]]
    ) -> None:
        """Ask plain SQL over the listed files the same; and whether each tick links."""
        place = await self._site.lane(stream=lane.stream)
        files = [
            f"{self._site.root}/{BUCKET}/{place.key(hour, one.first, one.last)}"
            for hour, one in entries
        ]
        log = pa.table({"position": pa.array(held.positions), "lines": pa.array(held.lines)})
        asked = {"messages that differ": ROWS_SQL}
        if lane.stream == "ticks":
            asked["broken links"] = CHAIN_SQL
        found = await asyncio.to_thread(_query, files, log, asked)
        held.differences += [f"{lane}: DuckDB: {one}" for one in found if not one.startswith("0 ")]
        held.told.append(f"DuckDB: {', '.join(found)}")

    async def _audit(self, lane: LaneName, held: Held) -> None:
        """Have the lake recounted."""
        try:
            report = await self._site.audit(stream=lane.stream)
        except WorkflowFailureError as error:
            held.differences.append(f"{lane}: the audit: {error.cause}")
            return
        count = report.count
        held.told.append(f"audit: {report.outcome}, {count.rows:,} rows recounted")
        expected = ("clean", held.rows, len(held.positions), 0)
        if (report.outcome, count.rows, count.compared, count.holes) != expected:
            held.differences.append(f"{lane}: the audit counts otherwise: {report.sentence}")

    def _say_market(self, market: MarketProcess, simulated_s: float, took_s: float) -> None:
        said = self._said = int(market.log_file.read_text().split()[-1])
        self._tell(
            f"market    {said:,} messages, {RATE:,} in each of {simulated_s:,.0f} simulated "
            f"seconds, said in {took_s:,.0f} s: time compressed {simulated_s / took_s:.1f} times"
        )

    def _say_faults(self) -> None:
        done = self._site.store.done
        kinds = ", ".join(f"{name} {done[name]:,}" for name in RANDOM)
        outage = (
            f"{self._away_s:.0f} simulated seconds, {done['turned_away']:,} connections turned away"
        )
        self._tell(f"store     {done['asked']:,} requests: {kinds}; away for {outage}")
        self._tell(f"killed    archiver {self._killed} times, Temporal {self._restarted} times")
        missed = [name for name in RANDOM if not done[name] and name != "silence"]
        self.differences += [f"the store never did this: {name}" for name in missed]
        verdict = "equal" if not self.differences else "DIFFERENT"
        took_s = time.monotonic() - self._began_s
        self._tell(f"verdict   the lake and the log are {verdict}; {took_s:,.0f} s in all")
        for one in self.differences[:20]:
            self._tell(f"          {one}")


def _name(running: Site, lane: LaneName) -> str:
    """Return the log's name of a lane's stream."""
    return stream_name(running.settings.streams, lane)


def _query(files: list[str], log: pa.Table, asked: dict[str, str]) -> list[str]:
    """Return each question's count, and what was counted."""
    with duckdb.connect() as db:
        db.register("log", log)
        db.read_parquet(files, hive_partitioning=True).create_view("lake")
        return [f"{_count(db, sql):,} {what}" for what, sql in asked.items()]


def _count(db: duckdb.DuckDBPyConnection, sql: str) -> int:
    ((count,),) = db.sql(sql).fetchall()
    return int(count)


async def _progress(running: Site, lane: LaneName) -> ArchiveProgress:
    """Ask the newest run of a lane, whatever its id is."""
    query = f"WorkflowType='{ARCHIVE}' AND WorkflowId STARTS_WITH '{archive_id(lane)}'"
    runs = [run async for run in running.client.list_workflows(query)]
    assert runs
    newest = max(runs, key=lambda run: run.start_time)
    handle = running.client.get_workflow_handle(newest.id, run_id=newest.run_id)
    told: ArchiveProgress = await handle.query("progress", result_type=ArchiveProgress)
    return told


async def storm(root: Path, scale: Scale, tell: Callable[[str], None] = print) -> list[str]:
    """Run a storm; return the differences between lake and log: none, or it has failed."""
    async with (
        asyncio.timeout(scale.within_s),
        site(root, workers=False, js_max_bytes=8 * 1024**3) as running,
    ):
        raging = Storm(scale, running, tell)
        await raging.run(root)
    return raging.differences


def main() -> int:
    """Run the whole storm; return the exit status."""
    with TemporaryDirectory() as root:
        return 1 if asyncio.run(storm(Path(root), WHOLE)) else 0


if __name__ == "__main__":
    leave(main())
