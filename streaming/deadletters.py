"""Dead letters: what could not be understood is kept with its reason, counted, and logged.

Publishing never stops the pipeline: a bounded number waits, the rest is only counted. Each kind
is logged at most once a minute, or bad input would drown the log.
"""

import asyncio
import base64
import time

import msgspec
import structlog

from models.subjects import LIVE, META_PRODUCT, dead_subject
from streaming.broker.log import Log
from streaming.guard import shortened
from streaming.metrics import Counts

MAX_WAITING = 1000
"""Dead letters that may wait for the log; beyond it they are counted but not kept."""

MAX_WAITING_BYTES = 16 * 1024**2
"""Bytes that dead letters may hold while they wait; likewise."""

MAX_DATA_BYTES = 64 * 1024
"""So much of a bad frame is kept."""

MAX_PRODUCT = 64
"""Characters of a product's name, which bad input may have given."""

LOG_EVERY_S = 60.0
"""Each kind of bad input is logged once in this time."""

_log = structlog.get_logger(__name__)


class DeadLetters:
    """Keeps, counts and logs bad input of one process."""

    def __init__(self, log: Log, venue: str, tasks: asyncio.TaskGroup, root: str = LIVE) -> None:
        """Keep them under `root`."""
        self._log = log
        self._root = root
        self._venue = venue
        self._tasks = tasks
        self._waiting: dict[asyncio.Task[int], int] = {}
        self._waiting_bytes = 0
        self._logged: dict[str, float] = {}
        self.counts = Counts(
            "md_invalid_messages_total", "Input that could not be used", ("venue", "reason")
        )

    def add(
        self, reason: str, detail: str, data: bytes, product: str = "", *, name: str | None = None
    ) -> None:
        """Take one piece of bad input; `name` makes repeats of the same piece one letter."""
        self.counts.values[self._venue, reason] += 1
        detail, product = shortened(detail), product[:MAX_PRODUCT]
        self._say(reason, detail, product)
        if len(self._waiting) >= MAX_WAITING or self._waiting_bytes >= MAX_WAITING_BYTES:
            return
        letter = {
            "venue": self._venue,
            "product": product or META_PRODUCT,
            "reason": reason,
            "detail": detail,
            "bytes": len(data),
            "data": _readable(data[:MAX_DATA_BYTES]),
        }
        payload = msgspec.json.encode(letter)
        task = self._tasks.create_task(
            self._log.publish(
                dead_subject(self._venue, reason, self._root), payload, message_id=name
            )
        )
        self._waiting[task] = len(payload)
        self._waiting_bytes += len(payload)
        task.add_done_callback(self._stored)

    def _stored(self, task: asyncio.Task[int]) -> None:
        self._waiting_bytes -= self._waiting.pop(task)

    def _say(self, reason: str, detail: str, product: str) -> None:
        now = time.monotonic()
        if now - self._logged.get(reason, -LOG_EVERY_S) >= LOG_EVERY_S:
            self._logged[reason] = now
            _log.warning(
                "input that cannot be used; see the dead letters",
                venue=self._venue,
                product=product,
                reason=reason,
                detail=detail,
            )

    async def flush(self) -> None:
        """Wait until what waits is stored."""
        while self._waiting:
            await asyncio.wait(self._waiting)


def _readable(data: bytes) -> str:
    """Return text as it is, and anything else in base64."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "base64:" + base64.b64encode(data).decode()
