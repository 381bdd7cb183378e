"""What every worker process does alike: settings, logging, the loop, signals, the exit status.

A worker gives one coroutine that runs until its event is set; SIGTERM and SIGINT set it.
"""

import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable, Callable

import structlog
import uvloop

from models.settings import Settings, SettingsError, load_settings
from streaming.broker.log import LogError

EXIT_BAD_SETTINGS = 2
EXIT_FAILED = 1

STOP_WITHIN_S = 8.0
"""What is on its way must be stored within this time after a worker is told to stop."""

Worker = Callable[[Settings, asyncio.Event], Awaitable[None]]
"""Works until the event is set, then stores what is on its way and returns."""


def configure_logging(level: str) -> None:
    """Log JSON lines to stderr; a person at a terminal gets them rendered."""
    person = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer() if person else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def run_worker(name: str, work: Worker) -> int:
    """Run one worker until it is told to stop; return the exit status."""
    try:
        settings = load_settings()
    except SettingsError as error:
        print(f"{name}: {error}", file=sys.stderr)  # noqa: T201  # logging is not set up yet
        return EXIT_BAD_SETTINGS
    configure_logging(settings.log_level)
    structlog.contextvars.bind_contextvars(worker=name)
    return uvloop.run(_until_stopped(name, work, settings))


async def _until_stopped(name: str, work: Worker, settings: Settings) -> int:
    log = structlog.get_logger(name)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        await work(settings, stop)
    except (LogError, TimeoutError, ExceptionGroup) as raised:
        known = [error for error in _leaves(raised) if isinstance(error, LogError | TimeoutError)]
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
