"""Appending to a stream as its only writer, with many messages on their way at once.

Every message demands that the stream's newest one is the writer's own before it. The server takes
what one connection sends in order, so positions are known before they are told, and a window of
messages may be in flight. Whatever goes wrong, what is stored is a beginning of what was appended,
each once: who is in doubt looks at the newest message and goes on behind it.
"""

from collections import deque
from collections.abc import Mapping

from streaming.broker.acks import RefusedError, Sent
from streaming.broker.jetstream import JetStreamLog
from streaming.broker.log import LogError, LogMessage, LogUnavailableError
from streaming.broker.parts import PART_HEADER, split

EXPECTED_LAST = "Nats-Expected-Last-Sequence"

WINDOW_MESSAGES = 512
WINDOW_BYTES = 16 * 1024**2
"""Without an answer so far."""

_WRONG_LAST = 10071
_SERVICE_UNAVAILABLE = 503
_HEADROOM_BYTES = 4096
_EVERYTHING = ">"


class DoubtError(LogError):
    """What is stored is not known, or another writer was faster: look at the newest message."""


class Appender:
    """Writes one stream. Attributes: last, position of the newest message that was appended."""

    def __init__(self, log: JetStreamLog, stream: str) -> None:
        self._log, self._stream = log, stream
        self._acks, self._client = log._acks, log._client  # noqa: SLF001  # one package
        self._sent: deque[tuple[Sent, int, int]] = deque()
        self._bytes = 0
        self.last = 0

    async def newest(self) -> LogMessage | None:
        """Look at the stream's newest message, or part of one, and go on behind it.

        None: there is none, or it has expired; `last` tells which. What was on its way before
        counts as never sent: it is stored by now, or will be refused.
        """
        self._abandon()
        self.last = await self._log.end(self._stream)
        if not self.last:
            return None
        stretch = await self._log._stretch(  # noqa: SLF001  # one package, one connection
            self._stream, _EVERYTHING, self.last - 1, 1, 1
        )
        return stretch[0] if stretch and stretch[0].seq == self.last else None

    async def append(
        self,
        subject: str,
        payload: bytes,
        headers: Mapping[str, str],
        unfinished: Mapping[str, str],
    ) -> int:
        """Append one message, and return the position that it will have.

        Waits while the window is full. A message beyond the server's limit is split; its parts but
        the last carry the `unfinished` headers.

        Raises:
            DoubtError: this message, or one before it, may be stored or not.
        """
        limit = self._client.max_payload - _HEADROOM_BYTES
        if len(payload) <= limit:
            await self._send(subject, payload, headers)
            return self.last
        for label, last, part in split(payload, limit, f"{self._stream}-{self.last + 1}"):
            await self._send(
                subject, part, {**(headers if last else unfinished), PART_HEADER: label}
            )
        return self.last

    async def flush(self) -> None:
        """Wait until everything is stored.

        Raises:
            DoubtError: it may be, or not.
        """
        while self._sent:
            await self._settle()

    async def _send(self, subject: str, payload: bytes, headers: Mapping[str, str]) -> None:
        told = {**headers, EXPECTED_LAST: str(self.last)}
        try:
            sent = await self._acks.send(subject, payload, told)
        except LogUnavailableError as error:
            self._abandon()
            raise DoubtError(str(error)) from error
        self.last += 1
        self._sent.append((sent, self.last, len(payload)))
        self._bytes += len(payload)
        while len(self._sent) > WINDOW_MESSAGES or self._bytes > WINDOW_BYTES:
            await self._settle()

    async def _settle(self) -> None:
        """Wait for the oldest answer."""
        sent, expected, size = self._sent.popleft()
        self._bytes -= size
        try:
            position = await self._acks.settle(sent)
        except (LogUnavailableError, RefusedError) as error:
            self._abandon()
            if isinstance(error, RefusedError) and not _is_doubt(error):
                raise
            raise DoubtError(str(error)) from error
        if position != expected:  # the stream was made anew
            self._abandon()
            raise DoubtError(f"{self._stream}: stored at {position} instead of {expected}")

    def _abandon(self) -> None:
        for sent, _, _ in self._sent:
            self._acks.abandon(sent)
        self._sent.clear()
        self._bytes = 0


def _is_doubt(error: RefusedError) -> bool:
    return error.err_code == _WRONG_LAST or error.code == _SERVICE_UNAVAILABLE
