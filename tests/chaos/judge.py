"""Holds the canonical log against the exchange's truth, subscribers against the log, and the lake.

Each judge counts instead of failing at the first difference, with the time of each, so that the
table can say what was done to the stack at that moment.
"""

import json
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import aclosing
from decimal import Decimal
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec
from temporalio.client import WorkflowExecutionStatus

from activities.archive import lane_subjects
from models.archiving import LAKE_AUDIT, LAKE_QUEUE, AuditInput, AuditReport, LaneName
from models.canonical import Head, Snapshot, Tick, decode_heads, decode_message
from models.numbers import iso_to_us
from storage.errors import StorageError
from storage.manifest import gaps
from storage.rows import messages_of
from streaming.broker.jetstream import JetStreamLog
from streaming.broker.pages import Pages
from tests.chaos.crowd import Run, Told, book_digest, line_digest, state_digest
from tests.chaos.findings import Finding
from tests.chaos.site import Site
from tests.stack import exact, key_of

ALLOWED = frozenset({"busy", "conflated"})
"""Reasons for which a gateway may leave messages out, and say so."""

GAP_RESYNCS = "WorkflowType = 'GapResyncWorkflow' OR WorkflowType = 'StretchResyncWorkflow'"


class Chain:
    """One feed of one product in the canonical log: its ticks and snapshots in order.

    Attributes: times, when each was stored, in microseconds; lines; heads; places, of each `seq`
    the last one that has it; status, the newest state told, none if there was none.
    """

    def __init__(self) -> None:
        self.times = array("q")
        self.lines: list[bytes] = []
        self.heads: list[Head] = []
        self.places: dict[int, int] = {}
        self.status: str | None = None

    def add(self, head: Head, line: bytes, time_us: int) -> None:
        """Take the next line."""
        if head.type == "status":
            self.status = json.loads(line)["state"]
            return
        self.places[head.seq] = len(self.lines)
        self.times.append(time_us)
        self.lines.append(line)
        self.heads.append(head)


Canonical = Mapping[str, Chain]
"""Chains by `product feed`."""


async def read_canonical(log: JetStreamLog, stream: str) -> dict[str, Chain]:
    """Read the whole canonical log."""
    chains: dict[str, Chain] = defaultdict(Chain)
    end = await log.end(stream)
    async with aclosing(log.read(stream, ">")) as messages:
        async for message in messages:
            product = message.subject.rpartition(".")[2]
            lines = message.payload.split(b"\n")
            for head, line in zip(decode_heads(message.payload), lines, strict=True):
                chains[f"{product} {head.feed}"].add(head, line, message.time_us)
            if message.seq >= end:
                break
    return chains


class Truth:
    """What the exchange said in one chain: keys in order, and when (microseconds)."""

    def __init__(self) -> None:
        self.places: dict[Any, int] = {}
        self.times = array("q")

    def add(self, key: Any, time_us: int) -> None:
        """Take the next message."""
        self.places[key] = len(self.times)
        self.times.append(time_us)


class _Frame(msgspec.Struct):
    """The part of a frame by which it is known again."""

    type: str = ""
    trade_id: int = 0
    sequence: int = 0
    time: str = ""
    changes: list[tuple[str, str, str]] = []


class _Said(msgspec.Struct):
    """A line of the truth."""

    ts: int
    channel: str = ""
    product: str = ""
    frame: _Frame = msgspec.field(default_factory=_Frame)


_decode_said = msgspec.json.Decoder(_Said).decode
_FEEDS = {"matches": "trades", "ticker": "ticker", "level2": "book"}
_SIDES = {"buy": "bid", "sell": "ask"}


def read_truth(file: Path) -> dict[str, Truth]:
    """Read what the exchange said, by `product feed`; keys are those of `tests.stack.key_of`."""
    truths: dict[str, Truth] = defaultdict(Truth)
    with file.open("rb") as lines:
        for line in lines:
            said = _decode_said(line)
            key = _key(said)
            if key is not None:
                truths[f"{said.product} {_FEEDS[said.channel]}"].add(key, said.ts)
    return truths


def _key(said: _Said) -> Any:
    """Return the key of a message, or none if it is no tick."""
    frame = said.frame
    match said.channel:
        case "matches":
            return frame.trade_id
        case "ticker":
            return frame.sequence
        case "level2" if frame.type == "l2update":
            changes = tuple((_SIDES[side], price, size) for side, price, size in frame.changes)
            return iso_to_us(frame.time), changes
    return None


def judge_canonical(chains: Canonical, truths: Mapping[str, Truth]) -> Iterator[Finding]:
    """Yield how the canonical log differs from what the exchange said.

    What was said before a chain began is nobody's loss. Trades may not even be missing where that
    is announced, since they can be had again.
    """
    for name, truth in truths.items():
        yield from _ChainJudge(name, truth).judge(chains.get(name, Chain()))


class _ChainJudge:
    """Walks along one chain and its truth."""

    def __init__(self, name: str, truth: Truth) -> None:
        self._name, self._truth = name, truth
        self._feed = name.rpartition(" ")[2]
        self._at: int | None = None
        self._since_snapshot = False

    def judge(self, chain: Chain) -> Iterator[Finding]:
        """Yield each difference."""
        newest = 0
        for head, line, time_us in zip(chain.heads, chain.lines, chain.times, strict=True):
            if head.type == "tick" and head.prev_seq != newest:
                text = f"links to {head.prev_seq} and not to {newest}"
                yield Finding("wrong", 1, time_us, f"{self._name}: seq {head.seq} {text}")
            newest = head.seq
            message = decode_message(line)
            if isinstance(message, Snapshot):
                yield from self._snapshot(message)
            elif isinstance(message, Tick):
                yield from self._tick(message, time_us)
        yield from self._end()

    def _snapshot(self, message: Snapshot) -> Iterator[Finding]:
        """Go to where a snapshot says that it is; a book's does not say."""
        self._since_snapshot = True
        trade = message.state.last_trade
        if self._feed == "book" or (self._feed == "trades" and trade is None):
            return
        key = message.seq if trade is None or self._feed == "ticker" else trade.id
        place = self._truth.places.get(key)
        if place is not None:
            if self._at is not None and place > self._at + 1:
                yield self._missing(self._at + 1, place)
            self._at = place if self._at is None else max(self._at, place)

    def _tick(self, message: Tick, time_us: int) -> Iterator[Finding]:
        place = self._truth.places.get(key_of(message))
        if place is None:
            said = f"{self._name}: the exchange never said {message.seq}"
            yield Finding("wrong", 1, time_us, said)
            return
        at = self._at
        if at is not None and place > at + 1:
            yield self._missing(at + 1, place)
        elif at is not None and place <= at:
            kind: Any = "doubled" if place == at else "reordered"
            yield Finding(
                kind, 1, time_us, f"{self._name}: {message.seq} comes after its successor"
            )
        self._at = place if at is None else max(at, place)
        self._since_snapshot = False

    def _missing(self, first: int, end: int) -> Finding:
        is_announced = self._since_snapshot and self._feed != "trades"
        return Finding(
            "announced" if is_announced else "lost",
            end - first,
            self._truth.times[first],
            f"{self._name}: {end - first} of what the exchange said are not in the log",
        )

    def _end(self) -> Iterator[Finding]:
        end = len(self._truth.times)
        if self._at is None:
            yield Finding("lost", end, self._truth.times[0], f"{self._name} is not in the log")
        elif self._at < end - 1:
            self._since_snapshot = False
            yield self._missing(self._at + 1, end)


def judge_subscribers(chains: Canonical, everybody: Iterable[Told]) -> Iterator[Finding]:
    """Yield how what each subscriber was told differs from the canonical log."""
    everybody = list(everybody)
    books = _Books(chains, everybody)
    for told in everybody:
        problems = [*told.broken, *([told.refused] if told.refused else [])]
        for problem in problems:
            yield Finding("wrong", 1, 0, f"{told.name}: {problem}")
        for name in [name for name in chains if name.rpartition(" ")[0] in told.products]:
            who = f"{told.name}, {name}"
            yield from _judge_runs(who, name, told.chains.get(name, []), chains[name], books)
            status, own = chains[name].status, told.status.get(name)
            if status not in {None, "live"} or own not in {None, "live"}:
                yield Finding("wrong", 1, 0, f"{who}: ends as {own}, the log as {status}")


def _judge_runs(
    who: str, name: str, runs: list[Run], chain: Chain, books: "_Books"
) -> Iterator[Finding]:
    before: int | None = None
    for run in runs:
        first, last = chain.places.get(run.seq), chain.places.get(run.last)
        if first is None or last is None:
            missing = run.seq if first is None else run.last
            yield Finding("wrong", 1, 0, f"{who}: {missing} was never in the log")
            return
        yield from _judge_start(who, name, run, first, chain, books)
        if before is not None:
            yield from _judge_step(who, run, before, first, chain)
        expected = last - first
        if run.count != expected:
            kind: Any = "lost" if run.count < expected else "doubled"
            text = f"{run.count} ticks from {run.seq} to {run.last}, the log has {expected}"
            yield Finding(kind, abs(expected - run.count), chain.times[last], f"{who}: {text}")
        elif run.digest != _digest(chain.lines[first + 1 : last + 1]):
            text = f"the ticks from {run.seq} to {run.last} are not the log's"
            yield Finding("reordered", 1, chain.times[last], f"{who}: {text}")
        before = last
    end = len(chain.lines) - 1
    if before is None or before < end:
        behind = end - (-1 if before is None else before)
        text = f"the log's newest {behind} have not come"
        yield Finding("lost", behind, chain.times[end], f"{who}: {text}")


def _judge_start(
    who: str, name: str, run: Run, first: int, chain: Chain, books: "_Books"
) -> Iterator[Finding]:
    """Hold the snapshot that a run began with against the log's, or against its state there."""
    if line_digest(chain.lines[first]) == run.line or run.own == books.state(name, first):
        return
    yield Finding("wrong", 1, chain.times[first], f"{who}: the state at {run.seq} is not the log's")


def _judge_step(who: str, run: Run, before: int, first: int, chain: Chain) -> Iterator[Finding]:
    """Compare where a run began with where the one before it ended."""
    if first <= before:
        if run.missed is None or first < before:
            text = f"begins anew at {run.seq}, which had come before"
            yield Finding("doubled", before - first + 1, chain.times[first], f"{who}: {text}")
        return
    skipped = first - before - (run.missed is None)
    if skipped:
        allowed = run.missed in ALLOWED
        text = f"{skipped} are missing before {run.seq} ({run.missed or 'without a word'})"
        kind: Any = "announced" if allowed else "lost"
        yield Finding(kind, skipped, chain.times[before + 1], f"{who}: {text}")


def _digest(lines: Iterable[bytes]) -> str:
    digest = blake2b(digest_size=16)
    for line in lines:
        digest.update(line)
    return digest.hexdigest()


class _Books:
    """Digests of the state at those places of the log at which subscribers began."""

    def __init__(self, chains: Canonical, everybody: Iterable[Told]) -> None:
        self._chains = chains
        self._wanted: dict[str, set[int]] = defaultdict(set)
        for told in everybody:
            for name, runs in told.chains.items():
                found = chains.get(name, Chain()).places
                self._wanted[name] |= {found[run.seq] for run in runs if run.seq in found}
        self._known: dict[str, dict[int, str]] = {}

    def state(self, name: str, place: int) -> str:
        """Return the digest of a state as `crowd.state_digest` makes it."""
        feed = name.rpartition(" ")[2]
        if feed == "book":
            if name not in self._known:
                self._known[name] = self._books(name)
            return self._known[name][place]
        line = json.loads(self._chains[name].lines[place], parse_float=str)
        return state_digest(feed, line.get("fields", line.get("state")))

    def _books(self, name: str) -> dict[int, str]:
        wanted, known = self._wanted[name], dict[int, str]()
        sides: dict[str, dict[Decimal, Decimal]] = {"bid": {}, "ask": {}}
        for place, line in enumerate(self._chains[name].lines[: max(wanted) + 1]):
            message = decode_message(line)
            if isinstance(message, Snapshot):
                sides = {"bid": exact(message.state.bids), "ask": exact(message.state.asks)}
            elif isinstance(message, Tick):
                for side, price, size in message.fields.changes or []:
                    sides[side][Decimal(price)] = Decimal(size)
                    if not sides[side][Decimal(price)]:
                        del sides[side][Decimal(price)]
            if place in wanted:
                known[place] = book_digest(sides["bid"], sides["ask"])
        return known


async def judge_lake(running: Site, lane: LaneName) -> list[Finding]:
    """Compare message by message, each object with its range of the log, up to the noted end."""
    end = running.ends[lane]
    place, findings = await running.lane(lane), list[Finding]()
    hours = await running.lake.hours(lane.stream, lane.venue)
    listed = [
        (hour, await running.lake.manifest(place, hour)) for hour, one in hours if one == place
    ]
    ranges = gaps([manifest for _, manifest in listed])
    ranges += [(hole.first, hole.last) for _, manifest in listed for hole in manifest.holes]
    for first, last in ranges:
        text = f"{lane}: {first} to {last} are not in the lake"
        findings.append(Finding("lost", last - first + 1, 0, text))
    kept: Counter[int] = Counter()
    for hour, manifest in listed:
        for entry in manifest.entries:
            pages = Pages(
                running.log,
                running.stream(lane),
                lane_subjects(lane),
                after=entry.first - 1,
            )
            in_log = messages_of(await pages.upto(entry.last))
            try:
                in_lake = await running.lake.messages(place, hour, entry)
            except StorageError as error:
                findings.append(Finding("wrong", 1, 0, f"{lane}: {error}"))
                continue
            kept.update(one.position for one in in_lake if one.position <= end)
            if in_lake != in_log:
                text = f"{lane}: {entry.first} to {entry.last} are not what the log has"
                findings.append(Finding("wrong", 1, 0, text))
    missing = end - len(kept)
    if missing:
        findings.append(Finding("lost", missing, 0, f"{lane}: {missing} messages are not there"))
    twice = kept.total() - len(kept)
    if twice:
        findings.append(Finding("doubled", twice, 0, f"{lane}: {twice} messages are there twice"))
    return findings


async def judge_audit(running: Site, lane: LaneName) -> list[Finding]:
    """Have the lake recounted by its own audit, which must find it clean."""
    report: AuditReport = await running.client.execute_workflow(
        LAKE_AUDIT,
        AuditInput(stream=lane.stream, venue=lane.venue),
        id=f"audit/chaos/{lane.stream}",
        task_queue=LAKE_QUEUE,
        result_type=AuditReport,
    )
    if report.outcome == "clean":
        return []
    return [Finding("wrong", 1, 0, f"{lane}: the audit says: {report.sentence}")]


async def judge_recoveries(running: Site) -> tuple[int, list[Finding]]:
    """Return how many recoveries there were, and those that did not end well."""
    findings: list[Finding] = []
    total = 0
    async for execution in running.client.list_workflows(GAP_RESYNCS):
        total += 1
        if execution.status != WorkflowExecutionStatus.COMPLETED:
            status = execution.status.name if execution.status else "unknown"
            findings.append(Finding("wrong", 1, 0, f"{execution.id} is {status}"))
    return total, findings
