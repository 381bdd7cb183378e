"""Where the time of a test run went: by folder, and how busy each process of the run was.

Its two hooks are those of tests/conftest.py. Beside the table it says how fast the machine is now:
runs of different days, or machines, can only be compared by that.
"""

import time
from collections import defaultdict
from typing import Any

import pytest

_LOOPS = 10_000_000


class _Spent:
    """Seconds and tests, by folder and by process."""

    def __init__(self) -> None:
        self.began_s = time.monotonic()
        self.folders: dict[str, list[float]] = defaultdict(list)
        self.processes: dict[str, float] = defaultdict(float)
        self._running: dict[str, float] = defaultdict(float)

    def add(self, report: pytest.TestReport) -> None:
        """Count a part of a test: setting up, the call, tearing down."""
        self._running[report.nodeid] += report.duration
        self.processes[_process(report)] += report.duration
        if report.when == "teardown":
            folder = report.nodeid.partition("::")[0].rpartition("/")[0]
            self.folders[folder].append(self._running.pop(report.nodeid))


_spent = _Spent()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count it where the run is reported; processes of a parallel run only hand it on."""
    _spent.add(report)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table after the slowest tests."""
    wall_s = time.monotonic() - _spent.began_s
    write = terminalreporter.write_line
    terminalreporter.section("time per folder")
    write(f"{'seconds':>9} {'tests':>6} {'median':>8}  folder")
    for folder, all_s in sorted(_spent.folders.items(), key=lambda one: -sum(one[1])):
        median_s = sorted(all_s)[len(all_s) // 2]
        write(f"{sum(all_s):9.1f} {len(all_s):6} {median_s:8.3f}  {folder}")
    for process, busy_s in sorted(_spent.processes.items()):
        write(f"{process} had a test for {busy_s:.0f} of {wall_s:.0f} s")
    write(f"ten million additions take {_additions_s():.2f} s on this machine now")


def _process(report: Any) -> str:
    node = getattr(report, "node", None)
    return "this process" if node is None else str(node.gateway.id)


def _additions_s() -> float:
    began_s, total = time.perf_counter(), 0
    for number in range(_LOOPS):
        total += number
    return time.perf_counter() - began_s
