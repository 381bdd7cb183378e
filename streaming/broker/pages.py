"""Reading a stream page by page, each record whole, from any position on.

`JetStreamLog.fetch` leaves out a record of several parts when it begins in the middle of it. Who
must not miss anything, as the archive, reads here: the beginning of such a record is looked for
behind the position. Makes no consumer, and holds one page at a time.
"""

from dataclasses import replace

import structlog

from streaming.broker.jetstream import JetStreamLog
from streaming.broker.log import LogMessage
from streaming.broker.parts import PART_HEADER, Assembler
from streaming.broker.work import position_at

PAGE_MESSAGES = 1000
PAGE_BYTES = 2 * 1024**2

_PENDING = "Nats-Num-Pending"
"""Header of each answer: how many more there are (NATS ADR-31)."""

_SECOND_US = 1_000_000
_LOOK_BACK_US = (_SECOND_US, 60 * _SECOND_US, 3600 * _SECOND_US, 365 * 86400 * _SECOND_US)
_log = structlog.get_logger(__name__)


class Pages:
    """The messages of some subjects above a position, in order.

    Attributes: cursor, position of the last message, or part of one, that was read; at_end,
    whether the last page reached the end of the stream as it was at that moment.
    """

    def __init__(self, log: JetStreamLog, stream: str, subjects: str, *, after: int) -> None:
        self._log, self._stream, self._subjects = log, stream, subjects
        self._parts = Assembler()
        self.cursor = after
        self.at_end = False

    async def next(self) -> list[LogMessage]:
        """Return the next messages; none at the end, or while a record is not whole yet."""
        stretch = await self._log._stretch(  # noqa: SLF001  # one package, one connection
            self._stream, self._subjects, self.cursor, PAGE_MESSAGES, PAGE_BYTES
        )
        self.at_end = not stretch or stretch[-1].headers[_PENDING] == "0"
        if stretch:
            self.cursor = stretch[-1].seq
        return [whole for one in stretch if (whole := await self._whole(one)) is not None]

    async def upto(self, last: int) -> list[LogMessage]:
        """Return all messages up to a position; give one that is not far away."""
        found: list[LogMessage] = []
        while self.cursor < last and not self.at_end:
            found += await self.next()
        return [one for one in found if one.seq <= last]

    async def _whole(self, message: LogMessage) -> LogMessage | None:
        label = message.headers.get(PART_HEADER)
        if label is None:
            return message
        payload = self._parts.add(message.subject, label, message.payload)
        _, part, count = label.rsplit("/", 2)
        if payload is None and part == count:
            payload = await self._look_back(message)
        return None if payload is None else replace(message, payload=payload)

    async def _look_back(self, message: LogMessage) -> bytes | None:
        """Find the parts before the last one, further and further back."""
        for back_us in _LOOK_BACK_US:
            time_us = max(0, message.time_us - back_us)
            after = await position_at(self._log, self._stream, message.subject, time_us)
            payload = await self._assembled(message, after)
            if payload is not None:
                return payload
        _log.error("a record's beginning is not in the log any more", position=message.seq)
        return None

    async def _assembled(self, last: LogMessage, after: int) -> bytes | None:
        parts, payload = Assembler(), None
        while after < last.seq:
            stretch = await self._log._stretch(  # noqa: SLF001  # one package, one connection
                self._stream, last.subject, after, PAGE_MESSAGES, PAGE_BYTES
            )
            if not stretch:
                break
            after = stretch[-1].seq
            for one in stretch:
                label = one.headers.get(PART_HEADER)
                if label is not None and one.seq <= last.seq:
                    payload = parts.add(one.subject, label, one.payload)
        return payload
