"""What every worker process does alike: settings, logging, the loop, signals, the exit status.

A worker gives one coroutine that runs until its event is set; SIGTERM and SIGINT set it. A second
one of them ends the worker at once.
"""

import asyncio
import ctypes
import logging
import signal
import sys
from collections.abc import Awaitable, Callable

import structlog
import uvloop
from structlog.types import EventDict, Processor

from models.settings import Settings, SettingsError, load_settings
from streaming.broker.log import LogError
from streaming.metrics import MetricsAddressError
from streaming.tracing import trace_ids, traced

EXIT_BAD_SETTINGS = 2
EXIT_FAILED = 1

STOP_WITHIN_S = 8.0
"""What is on its way must be stored within this time after a worker is told to stop."""

SAME_ORDER_S = 0.2
"""Signals so close together are one order: a terminal and a supervisor may both send one."""

_PR_SET_PDEATHSIG = 1
_TOLD = (LogError, MetricsAddressError, TimeoutError)

Worker = Callable[[Settings, asyncio.Event], Awaitable[None]]
"""Works until the event is set, then stores what is on its way and returns."""


def configure_logging(level: str) -> None:
    """Log JSON lines to stderr; a person at a terminal gets them rendered.

    Libraries that log by the standard module come out alike, from `warning` on.
    """
    person = sys.stderr.isatty()
    steps: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_trace,
    ]
    if not person:  # who gets the traceback in colours
        steps.append(structlog.processors.format_exc_info)
    render = structlog.dev.ConsoleRenderer() if person else structlog.processors.JSONRenderer()
    least = logging.getLevelNamesMapping()[level]
    structlog.configure(
        processors=[*steps, render],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *steps],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(least, logging.WARNING), force=True)


def _add_trace(_: object, __: str, event: EventDict) -> EventDict:
    """Name the trace in which a line is logged, if there is one."""
    event.update(trace_ids())
    return event


def run_worker(
    name: str, work: Worker, *, told: tuple[type[Exception], ...] = (), **overrides: object
) -> int:
    """Run one worker until it is told to stop; return the exit status.

    The settings are those of the environment, with `overrides` over them. `told`: errors whose
    sentence says all, beside those of the log and the metrics; others are faults of ours and show
    a traceback.
    """
    try:
        settings = load_settings(**overrides)
    except SettingsError as error:
        print(f"{name}: {error}", file=sys.stderr)  # noqa: T201  # logging is not set up yet
        return EXIT_BAD_SETTINGS
    configure_logging(settings.log_level)
    structlog.contextvars.bind_contextvars(worker=name)
    with traced(settings, name):
        return uvloop.run(_until_stopped(name, work, settings, (*_TOLD, *told)))


def die_with_parent() -> None:
    """Have Linux end this child when we are killed; runs in the child before exec."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


async def _until_stopped(
    name: str, work: Worker, settings: Settings, told: tuple[type[Exception], ...]
) -> int:
    log = structlog.get_logger(name)
    stop = asyncio.Event()
    loop, working = asyncio.get_running_loop(), asyncio.current_task()
    assert working is not None  # noqa: S101  # this is a coroutine

    told_s = 0.0

    def on_signal() -> None:
        nonlocal told_s
        if not stop.is_set():
            told_s = loop.time()
            stop.set()
        elif loop.time() - told_s > SAME_ORDER_S:
            working.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    try:
        await work(settings, stop)
    except asyncio.CancelledError:
        if not working.cancelling():
            raise
        log.warning("ended by a second signal, without waiting for what was on its way")
        return EXIT_FAILED
    except Exception as raised:
        known = [error for error in _leaves(raised) if isinstance(error, told)]
        if not known:
            raise
        for error in known:
            reason = str(error) or f"the log took nothing within {STOP_WITHIN_S} s"
            log.error("stopping", error=reason)  # noqa: TRY400  # the sentence says it all
        return EXIT_FAILED
    log.info("stopped")
    return 0


def _leaves(group: BaseException) -> list[BaseException]:
    if isinstance(group, BaseExceptionGroup):
        return [leaf for error in group.exceptions for leaf in _leaves(error)]
    return [group]
