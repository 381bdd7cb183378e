"""`python -m bench [NAME …]`: run benchmarks, print a table, merge the results file."""

import sys

from rich.table import Table

from bench.canary import canary
from bench.gateway_fanout import gateway_fanout
from bench.gateway_latency import gateway_latency
from bench.gateway_memory import gateway_memory
from bench.gateway_resume import gateway_resume, gateway_snapshot
from bench.harness import Benchmark, console, machine, merge
from bench.lake import lake
from bench.latency import venue_to_subscriber
from bench.latest import latest
from bench.pipeline import ingest_normalize
from bench.resubscribe import resubscribe
from bench.resync import resync, resync_storm

BENCHMARKS: dict[str, Benchmark] = {
    "ingest-normalize": ingest_normalize,
    "venue-to-subscriber": venue_to_subscriber,
    "resubscribe": resubscribe,
    "resync": resync,
    "resync-storm": resync_storm,
    "gateway-fanout": gateway_fanout,
    "gateway-latency": gateway_latency,
    "gateway-memory": gateway_memory,
    "gateway-snapshot": gateway_snapshot,
    "gateway-resume": gateway_resume,
    "latest": latest,
    "lake": lake,
    "canary": canary,
}


def main(names: list[str]) -> int:
    """Run the named benchmarks, or all; return the exit status."""
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        console.print(f"unknown: {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
        return 2
    table = Table("figure", "value", title=machine(), title_justify="left")
    for name in names or BENCHMARKS:
        # Rendered seldom: the spinner's thread would take time from what is measured here.
        with console.status(f"measuring {name}", refresh_per_second=1):
            figures = BENCHMARKS[name]()
        merge(figures)
        for figure, value in figures.items():
            table.add_row(figure, f"{value:,.4g}" if value < 1000 else f"{value:,.0f}")
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
