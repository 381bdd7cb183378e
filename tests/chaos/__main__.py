"""Runs the stack, harms it in seeded random order, and judges: `make chaos`, `docs/chaos.md`."""

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop

from tests.chaos import judge
from tests.chaos.faults import (
    Fault,
    data_deck,
    durable_deck,
    rolling_deck,
    short_data_deck,
    short_durable_deck,
    short_rolling_deck,
)
from tests.chaos.findings import Finding
from tests.chaos.site import LANES, WITHIN_S, Site, Size, site
from tests.chaos.table import Injected, Verdict, attribute, complaints, show
from tests.servers import eventually
from workers.process import configure_logging
from workflows.connect import leave

DURATION_S = 300.0
OUTAGE_S = 60.0
WHOLE = Size(rate=2600, products=40, subscribers=200, flush_s=5.0)
"""Of 2,600 orders a second come about 2,000 messages in the channels that are subscribed to."""

SHORT = Size(rate=300, products=5, subscribers=20, flush_s=3.0)
"""What two cores manage beside a test run."""

_DELIVERED_WITHIN_S = 60.0


@dataclass(frozen=True)
class Plan:
    """What is drawn from: at least all of both decks, again until so much time is over."""

    data: Sequence[Fault]
    durable: Sequence[Fault]
    rolling: Sequence[Fault]
    duration_s: float
    pause_s: tuple[float, float] = (0.3, 1.5)
    """Between a recovery and the next fault."""


def whole_plan(duration_s: float, outage_s: float) -> Plan:
    """Return everything."""
    return Plan(data_deck(), durable_deck(outage_s), rolling_deck(), duration_s)


def short_plan(seed: int) -> Plan:
    """Return what fits into a test run."""
    chance = random.Random(f"{seed} short")
    data, durable, rolling = short_data_deck(chance), short_durable_deck(), short_rolling_deck()
    return Plan(data, durable, rolling, 0.0, pause_s=(0.1, 0.3))


class Chaos:
    """One run. Attributes: injected, in the order in which they began; verdicts."""

    def __init__(self, running: Site, plan: Plan, seed: int) -> None:
        self.injected: list[Injected] = []
        self.verdicts: list[Verdict] = []
        self._site, self._plan, self._seed = running, plan, seed
        self._began_s = 0.0

    async def run(self) -> None:
        """Do all the harm, wait until everything is quiet, and judge."""
        self._began_s = time.monotonic()
        async with asyncio.TaskGroup() as lanes:
            lanes.create_task(self._lane("data", self._plan.data))
            lanes.create_task(self._lane("durable", self._plan.durable))
        for fault in self._plan.rolling:
            await self._inject(fault, random.Random(self._seed), rolling=True)
        try:
            await self._site.settled()
        except AssertionError:
            text = f"not quiet within {WITHIN_S:.0f} s; {self._site.not_live() or 'all feeds live'}"
            self._add("the end", "", [Finding("wrong", 1, _now_us(), text)])
        await self._judge()

    async def _lane(self, name: str, deck: Sequence[Fault]) -> None:
        """Draw from a deck until it is empty, and again while there is time."""
        chance, left = random.Random(f"{self._seed} {name}"), list[Fault]()
        for number in range(10_000):
            if number >= len(deck) and self._now_s() >= self._plan.duration_s:
                return
            left = left or chance.sample(deck, len(deck))
            await asyncio.sleep(chance.uniform(*self._plan.pause_s))
            await self._inject(left.pop(), chance)

    async def _inject(self, fault: Fault, chance: random.Random, *, rolling: bool = False) -> None:
        begun_s = time.monotonic()
        row = Injected(fault.what, _now_us(), self._now_s(), rolling)
        self.injected.append(row)
        await fault.harm(self._site, chance)
        over_s = time.monotonic()
        row.lasted_s = over_s - begun_s
        try:
            await fault.cure(self._site, _now_us())
            recovered_s = time.monotonic() - over_s
            if fault.spare is not None:
                await self._site.ready(fault.spare)
        except AssertionError:
            self._tell(f"{fault.what}: NOT recovered")
            return
        row.recovered_s = recovered_s
        self._tell(f"{fault.what}: lasted {row.lasted_s:.1f}, recovered in {row.recovered_s:.2f}")

    async def _judge(self) -> None:
        """Hold everything against everything.

        In threads where it takes long: the wires are in this process, and go on.
        """
        running = self._site
        self._tell("all faults are over; judging")
        chains = await judge.read_canonical(running.log, running.settings.streams.ticks)
        truths = await asyncio.to_thread(judge.read_truth, running.truth_file)
        said = sum(len(truth.times) for truth in truths.values())
        lines = sum(len(chain.lines) for chain in chains.values())
        found = await asyncio.to_thread(lambda: list(judge.judge_canonical(chains, truths)))
        attribute(self.injected, found)
        times = [one.times for one in truths.values()]
        took_s = (max(map(max, times)) - min(map(min, times))) / 1e6
        rate = f"{said:,} of the exchange, {said / took_s:,.0f} a second"
        self._add("canonical log", f"{lines:,} ticks and snapshots, {rate}", found)
        await self._delivered(chains)
        everybody = await running.crowd.told()
        found = await asyncio.to_thread(lambda: list(judge.judge_subscribers(chains, everybody)))
        attribute(self.injected, found)
        told = sum(one.messages for one in everybody)
        connects = sum(one.connects for one in everybody)
        compared = f"{told:,} messages to {len(everybody)}, over {connects:,} connections"
        self._add("subscribers", compared, found)
        for lane in LANES:
            found = await judge.judge_lake(running, lane)
            self._add(f"lake, {lane.stream}", "with the log", found)
        audits = await asyncio.gather(*(judge.judge_audit(running, lane) for lane in LANES))
        self._add("lake, both", "by its audit", [one for found in audits for one in found])
        total, found = await judge.judge_recoveries(running)
        self._add("recoveries", f"{total} workflows", found)

    async def _delivered(self, chains: judge.Canonical) -> None:
        """Give every subscriber time to come to the end of the log; who does not is judged."""
        ends = {name: chain.heads[-1].seq for name, chain in chains.items()}

        async def check() -> bool:
            await asyncio.sleep(0.2)
            return all(
                runs[-1].last == ends[name]
                for one in await self._site.crowd.told()
                for name, runs in one.chains.items()
            )

        try:
            await eventually(check, within_s=_DELIVERED_WITHIN_S)
        except AssertionError:
            self._tell("some subscribers have not come to the end of the log")

    def _add(self, name: str, compared: str, findings: Sequence[Finding]) -> None:
        self.verdicts.append(Verdict(name, compared, findings))
        self._tell(f"judged: {name}, {compared}")

    def _now_s(self) -> float:
        return time.monotonic() - self._began_s

    def _tell(self, what: str) -> None:
        print(f"{self._now_s():7.1f} s  {what}", flush=True)  # noqa: T201  # a command's output


async def chaos(root: Path, size: Size, plan: Plan, seed: int) -> bool:
    """Run and print; tell whether all was well."""
    rates = f"{size.rate:,.0f} orders/s, {size.products} products, {size.subscribers} subscribers"
    title = f"chaos, seed {seed}: {rates}"
    print(title, flush=True)  # noqa: T201  # a command's output
    began_s = time.monotonic()
    async with site(root, size, seed) as running:
        print(f"up after {time.monotonic() - began_s:.0f} s", flush=True)  # noqa: T201  # as above
        raging = Chaos(running, plan, seed)
        try:
            await raging.run()
        finally:
            show(raging.injected, raging.verdicts, title)
    return not complaints(raging.injected, raging.verdicts)


def _now_us() -> int:
    return time.time_ns() // 1000


def main(words: Sequence[str] | None = None) -> int:
    """Run; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="of the faults' order; a new one by default")
    parser.add_argument("--duration", type=float, default=DURATION_S, help="seconds of faults")
    parser.add_argument(
        "--outage", type=float, default=OUTAGE_S, help="seconds without S3, Temporal"
    )
    parser.add_argument("--rate", type=float, help="orders a second at the exchange")
    parser.add_argument("--subscribers", type=int)
    parser.add_argument("--short", action="store_true", help="what the gate runs")
    parser.add_argument("--keep", type=Path, help="directory for logs and data; kept")
    given = parser.parse_args(words)
    seed = random.SystemRandom().randrange(10_000) if given.seed is None else given.seed
    size = SHORT if given.short else WHOLE
    size = Size(
        given.rate or size.rate, size.products, given.subscribers or size.subscribers, size.flush_s
    )
    plan = short_plan(seed) if given.short else whole_plan(given.duration, given.outage)
    configure_logging("ERROR")
    with TemporaryDirectory() as scratch:
        root = given.keep or Path(scratch)
        root.mkdir(parents=True, exist_ok=True)
        return 0 if uvloop.run(chaos(root, size, plan, seed)) else 1


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
