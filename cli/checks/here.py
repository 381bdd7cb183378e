"""This machine and this process: Python, packages, clock, open files, disk."""

import asyncio
import platform
import re
import resource
import shutil
import sys
import time
from importlib.metadata import distributions, version
from pathlib import Path

from cli.checks.finding import Finding, broken, ok, warning
from models.settings import Settings
from streaming.broker.inspection import Inspector
from streaming.broker.jetstream import stream_configs
from streaming.broker.log import LogError
from venues.coinbase.rest import CoinbaseRest
from venues.coinbase.rest_errors import CoinbaseRestError

LOCK = Path(__file__).parents[2] / "requirements" / "run.txt"
"""The hashed lock, beside the sources; an installed wheel has none."""

MAX_OFFSET_S = 1.0
"""Clocks may differ by so much; beyond it lags and times of records mislead."""

FEW_FILES = 4096
"""A gateway needs an open file for each subscriber."""

_PYTHON, _PACKAGES, _CLOCK, _FILES, _DISK = "python", "packages", "clock", "open files", "disk"
_OLDEST_PYTHON = (3, 11)
_PINNED = re.compile(r"^([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?==(\S+)( ;)?", re.MULTILINE)
_SHOWN = 5
_GIB = 1024**3


async def python(_: Settings, __: float) -> list[Finding]:
    """Look at the interpreter and the system."""
    here = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info < _OLDEST_PYTHON:
        return [broken(_PYTHON, f"{here}; LedgerFlux needs Python 3.11 or newer")]
    return [ok(_PYTHON, f"{here}, ledgerflux {version('ledgerflux')}")]


async def packages(_: Settings, __: float) -> list[Finding]:
    """Hold what is installed against the lock."""
    return [await asyncio.to_thread(_packages)]


def _packages() -> Finding:
    try:
        lock = LOCK.read_text(encoding="utf-8")
    except OSError:
        return ok(_PACKAGES, "no lock is here to compare with")
    installed = {_plain(one.name): one.version for one in distributions()}
    locked: dict[str, set[str]] = {}
    somewhere: set[str] = set()
    for name, wanted, marker in _PINNED.findall(lock):
        locked.setdefault(_plain(name), set()).add(wanted)
        if marker:
            somewhere.add(_plain(name))  # of some platforms or Pythons only
    missing = sorted(locked.keys() - installed.keys() - somewhere)
    if missing:
        return broken(_PACKAGES, f"not installed: {_some(missing)}; run `make install`")
    others = [
        f"{name} {installed[name]} (lock: {' or '.join(sorted(locked[name]))})"
        for name in sorted(locked.keys() & installed.keys())
        if installed[name] not in locked[name]
    ]
    if others:
        return warning(_PACKAGES, f"not those of the lock: {_some(others)}; run `make install`")
    return ok(_PACKAGES, f"the {len(locked.keys() & installed.keys())} of the lock")


async def clock(settings: Settings, answer_s: float) -> list[Finding]:
    """Compare this machine's clock with NATS's and the venue's."""
    asked = await asyncio.gather(
        _nats_offset_s(settings, answer_s), _venue_offset_s(settings, answer_s)
    )
    offsets = {
        name: offset_s
        for name, offset_s in zip(("NATS", "the venue"), asked, strict=True)
        if offset_s is not None
    }
    if not offsets:
        return [warning(_CLOCK, "neither NATS nor the venue tells the time")]
    told = " and ".join(f"{abs(s):.3f} s {_side(s)} {name}" for name, (s, _) in offsets.items())
    # Within the time that an answer took, nobody knows when the other clock was read.
    if any(abs(offset_s) - took_s / 2 > MAX_OFFSET_S for offset_s, took_s in offsets.values()):
        return [warning(_CLOCK, f"this machine is {told}; let NTP set it")]
    return [ok(_CLOCK, told)]


def _side(offset_s: float) -> str:
    return "ahead of" if offset_s > 0 else "behind"


async def _nats_offset_s(settings: Settings, answer_s: float) -> tuple[float, float] | None:
    """Return how far our clock is ahead, as of the middle of a request, and how long that took."""
    try:
        async with Inspector.connect(settings, answer_s=answer_s) as inspector:
            began_s = time.time()
            facts = await inspector.stream(settings.streams.ticks)
            took_s = time.time() - began_s
    except LogError:
        return None
    if facts is None or facts.clock_us is None:
        return None
    return began_s + took_s / 2 - facts.clock_us / 1e6, took_s


async def _venue_offset_s(settings: Settings, answer_s: float) -> tuple[float, float] | None:
    try:
        async with CoinbaseRest(settings.coinbase_rest_url, timeout_s=answer_s) as venue:
            began_s = time.time()
            answer = await venue.time()
            took_s = time.time() - began_s
            return began_s + took_s / 2 - float(answer.epoch), took_s
    except (CoinbaseRestError, ValueError):
        return None


async def open_files(_: Settings, __: float) -> list[Finding]:
    """Look at the limit of this shell, which what it starts inherits."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= FEW_FILES:
        allowed = "without limit" if soft == resource.RLIM_INFINITY else f"{soft:,} allowed"
        return [ok(_FILES, allowed)]
    most = "more" if hard == resource.RLIM_INFINITY else f"up to {hard:,}"
    return [
        warning(
            _FILES,
            f"{soft:,} allowed, and a gateway needs one for each subscriber; {most} by `ulimit -n`",
        )
    ]


async def disk(data_dir: Path, settings: Settings, _: float) -> list[Finding]:
    """Look at the room where `ledgerflux up` keeps its data."""
    place = next(path for path in (data_dir, *data_dir.parents, Path.cwd()) if path.is_dir())
    free = shutil.disk_usage(place).free
    told = f"{free / _GIB:,.1f} GiB free in {place}"
    bounds = sum(config.max_bytes or 0 for config in stream_configs(settings.streams, settings))
    if free < _GIB:
        return [broken(_DISK, f"{told}: too little for the log; make room, or pass --data-dir")]
    if free < bounds:
        return [
            warning(
                _DISK,
                f"{told}, and the streams may grow to {bounds / _GIB:,.1f} GiB if they are kept "
                "here; make room, or lower JS_MAX_BYTES",
            )
        ]
    return [ok(_DISK, told)]


def _plain(name: str) -> str:
    """Return a package's name as the lock and the metadata both can be compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _some(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
