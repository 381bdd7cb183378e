"""`python -m bench [NAME …]`: run benchmarks, print a table, merge the results file."""

import sys

from rich.console import Console
from rich.table import Table

from bench.harness import Benchmark, machine, merge
from bench.latency import venue_to_subscriber
from bench.pipeline import ingest_normalize
from bench.resubscribe import resubscribe
from bench.resync import resync, resync_storm

BENCHMARKS: dict[str, Benchmark] = {
    "ingest-normalize": ingest_normalize,
    "venue-to-subscriber": venue_to_subscriber,
    "resubscribe": resubscribe,
    "resync": resync,
    "resync-storm": resync_storm,
}


def main(names: list[str]) -> int:
    """Run the named benchmarks, or all; return the exit status."""
    console = Console()
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        console.print(f"unknown: {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
        return 2
    table = Table("figure", "value", title=machine(), title_justify="left")
    for name in names or BENCHMARKS:
        with console.status(f"measuring {name}"):
            figures = BENCHMARKS[name]()
        merge(figures)
        for figure, value in figures.items():
            table.add_row(figure, f"{value:,.4g}" if value < 1000 else f"{value:,.0f}")
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
