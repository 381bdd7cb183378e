"""The table that a chaos run prints: a line for each fault, and what the judges found of it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rich import box
from rich.console import Console
from rich.table import Table

from tests.chaos.findings import FAULTS, Finding, Kind, count

_COLUMNS: tuple[Kind, ...] = ("lost", "doubled", "reordered", "announced")
_TOLD_MOST = 20
_WIDTH = 120


@dataclass
class Injected:
    """A fault as it went.

    `begun_us`, and `at_s` after the first: when it began. `lasted_s`: how long it was done.
    `recovered_s`: how long after that all was well again; none if it took too long. `rolling`: it
    was an orderly restart, during which not a tick may be missed.
    """

    what: str
    begun_us: int
    at_s: float
    rolling: bool
    lasted_s: float = 0.0
    recovered_s: float | None = None
    findings: list[Finding] = field(default_factory=list)


@dataclass(frozen=True)
class Verdict:
    """What one judge compared, in words, and found."""

    judge: str
    compared: str
    findings: Sequence[Finding]


def attribute(injected: Sequence[Injected], findings: Iterable[Finding]) -> None:
    """Give each finding that has a time to the fault that had begun last before it."""
    for finding in findings:
        before = [one for one in injected if one.begun_us <= finding.at_us]
        if before:
            max(before, key=lambda one: one.begun_us).findings.append(finding)


def complaints(injected: Sequence[Injected], verdicts: Sequence[Verdict]) -> list[str]:
    """Return a sentence for everything for which the run has failed; none if all is well."""
    told = [
        f"{one.what} at {one.at_s:.0f} s: not recovered"
        for one in injected
        if one.recovered_s is None
    ]
    for verdict in verdicts:
        bad = [one for one in verdict.findings if one.kind in FAULTS]
        told += [f"{verdict.judge}: {one.kind}: {one.what}" for one in bad]
    for one in injected:
        if one.rolling and (missed := count(one.findings, "announced")):
            told.append(f"{one.what}: {missed} ticks were missed, if announced")
    return told


def show(injected: Sequence[Injected], verdicts: Sequence[Verdict], title: str) -> None:
    """Print the tables, and what is wrong."""
    console = Console(width=_WIDTH, highlight=False)
    console.print(_faults(injected, title))
    console.print(_verdicts(verdicts))
    told = complaints(injected, verdicts)
    for sentence in told[:_TOLD_MOST]:
        console.print(f"FAILED  {sentence}", soft_wrap=True, markup=False)
    if len(told) > _TOLD_MOST:
        console.print(f"        and {len(told) - _TOLD_MOST} more")
    console.print("verdict: " + ("FAILED" if told else "nothing lost, doubled or reordered"))


def _faults(injected: Sequence[Injected], title: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("at, s", justify="right")
    table.add_column("fault")
    for name in ("lasted, s", "recovered in, s", *_COLUMNS):
        table.add_column(name, justify="right")
    for number, one in enumerate(injected):
        recovered = "NOT" if one.recovered_s is None else f"{one.recovered_s:.2f}"
        begins_rolling = one.rolling and not injected[number - 1].rolling
        if begins_rolling:
            table.add_section()
        table.add_row(
            f"{one.at_s:.1f}",
            one.what,
            f"{one.lasted_s:.1f}" if one.lasted_s >= 0.05 else "",  # a kill is over at once
            recovered,
            *(str(count(one.findings, kind)) for kind in _COLUMNS),
        )
    return table


def _verdicts(verdicts: Sequence[Verdict]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("judged")
    table.add_column("compared")
    for name in (*_COLUMNS, "wrong"):
        table.add_column(name, justify="right")
    for verdict in verdicts:
        table.add_row(
            verdict.judge,
            verdict.compared,
            *(str(count(verdict.findings, kind)) for kind in (*_COLUMNS, "wrong")),
        )
    return table
