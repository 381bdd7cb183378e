"""What every benchmark shares: results, the machine's description, the processes.

A benchmark is a function that returns a flat map of figures and raises if its own output is
wrong. Results are merged into `bench/results.json`, so one can be run alone.
"""

import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from rich.console import Console

from bench.source import products
from tests.servers import NatsServer, Process, free_port

RESULTS = Path(__file__).parent / "results.json"

Benchmark = Callable[[], dict[str, float]]

console = Console()
"""Where benchmarks show how far they are."""


def note(text: str) -> None:
    """Show a step of a benchmark that is done."""
    console.print(f"  {text}", highlight=False, soft_wrap=True)


def machine() -> str:
    """Describe this machine in one line."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    memory = psutil.virtual_memory().total / 1024**3
    return (
        f"{os.cpu_count()} cores ({model}), {memory:.0f} GB, {platform.system()}, "
        f"Python {platform.python_version()}"
    )


def merge(figures: dict[str, float]) -> None:
    """Merge figures into the results file."""
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    known.update({name: round(value, 4) for name, value in figures.items()})
    RESULTS.write_text(json.dumps(dict(sorted(known.items())), indent=2) + "\n")


def percentile(values: list[float], share: float) -> float:
    """Return the value below which `share` (0 to 1) of the sorted values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass
class Pipeline:
    """Running processes of one benchmark, by name, and where to reach them."""

    nats: NatsServer
    source_port: int
    gateway_port: int
    processes: dict[str, Process] = field(default_factory=dict)

    def rss_mb(self) -> dict[str, float]:
        """Return the resident memory of each process in MB."""
        sizes = {}
        for name, process in {"nats": self.nats, **self.processes}.items():
            sizes[f"rss_mb_{name}"] = psutil.Process(process.pid).memory_info().rss / 1024**2
        return sizes


@contextmanager
def pipeline(
    source: list[str], names: tuple[str, ...], product_count: int, *, later: tuple[str, ...] = ()
) -> Iterator[Pipeline]:
    """Run nats-server, a source and workers (`normalizer`, `gateway`, `ingestor`), in order.

    Those in `later` are left for the benchmark to start.
    """
    with TemporaryDirectory() as directory, ExitStack() as stack:
        root = Path(directory)
        nats = stack.enter_context(NatsServer(root / "nats"))
        running = Pipeline(nats, free_port(), free_port())
        env = {
            "NATS_URLS": nats.url,
            "COINBASE_WS_PRIMARY": f"ws://127.0.0.1:{running.source_port}",
            "COINBASE_PRODUCTS": ",".join(products(product_count)),
            "COINBASE_CHANNELS": "ticker,level2,matches",
            "GATEWAY_PORT": str(running.gateway_port),
        }
        mode, *arguments = source
        command = [sys.executable, "-m", "bench.source", mode, str(running.source_port)]
        start = {"source": [*command, *arguments]} | {
            name: [sys.executable, "-m", f"workers.{name}"] for name in names
        }
        for name, line in start.items():
            process = Process(line, root / f"{name}.log", env)
            running.processes[name] = process
            stack.callback(process.stop)
            if name not in later:
                process.start()
        yield running
