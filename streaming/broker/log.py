"""The log abstraction: ordered, durable subjects that many can read from any position.

Owns the contract only; `jetstream` is the implementation. A position is the stream's sequence
of a message, a number from 1 that only grows; 0 means before the first.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class LogMessage:
    """One stored message. `seq`: its position in the stream; `time_us`: when it was stored."""

    subject: str
    seq: int
    payload: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    time_us: int = 0


@dataclass(frozen=True, slots=True)
class Extent:
    """What a stream holds: positions `first` to `last` in so many bytes.

    `created_us` names the stream itself: positions of one that was made anew mean nothing here.
    """

    created_us: int
    first: int
    last: int
    size_bytes: int


class LogError(Exception):
    """Base of what a log raises."""


class FencedError(LogError):
    """Somebody else has written to the subject: this writer is a zombie and must stop.

    Attributes: subject; expected, the position this writer last knew; actual, the position found.
    """

    def __init__(self, subject: str, expected: int, actual: int) -> None:
        super().__init__(
            f"another writer published to {subject}: position {expected} was expected, {actual} "
            "was found. Only one normalizer may serve a shard: stop the other one."
        )
        self.subject = subject
        self.expected = expected
        self.actual = actual


class LogUnavailableError(LogError):
    """The log did not answer in time; the call may be repeated."""


class StreamMissingError(LogError):
    """There is no such stream: it was never made, or it has been deleted. Attributes: stream."""

    def __init__(self, stream: str) -> None:
        super().__init__(f"{stream} is not on the log: it was never made, or has been deleted")
        self.stream = stream


class LogRemadeError(LogError):
    """A stream was deleted and made anew while it was read. Attributes: stream."""

    def __init__(self, stream: str) -> None:
        super().__init__(
            f"{stream} has been made anew: all that was read of it belongs to the old one, so this "
            "process must start again"
        )
        self.stream = stream


class LogBehindError(LogError):
    """A stream ends before what was made of it: it was made anew, or has lost its end.

    Going on would pass over what it gets next. Attributes: stream.
    """

    def __init__(self, stream: str, last: int, made: str, position: int) -> None:
        super().__init__(
            f"{stream} ends at {last:,}, but {made} was made of it up to {position:,}: it was made "
            f"anew, or has lost its end. Delete {made} too and start again, or choose another "
            "JS_STREAM_NAME"
        )
        self.stream = stream


class Log(Protocol):
    """Durable subjects grouped into streams."""

    async def publish(
        self,
        subject: str,
        payload: bytes,
        *,
        headers: Mapping[str, str] | None = None,
        unfinished: Mapping[str, str] | None = None,
        expected_last: int | None = None,
        message_id: str | None = None,
    ) -> int:
        """Store one message and return its position.

        It may be larger than the server's message limit; it is then split and put together
        again by the readers, and its parts but the last carry the `unfinished` headers. With
        `expected_last`, it is stored only if that is the position of the subject's newest
        message. A `message_id` seen within the last two minutes is not stored again. Repeats by
        itself while the server is away, without storing twice where `expected_last` or
        `message_id` is given.

        Raises:
            FencedError: the subject's newest message is another writer's.
        """

    def read(
        self, stream: str, subjects: str, *, after: int = 0, lasting: bool = True
    ) -> AsyncGenerator[LogMessage, None]:
        """Iterate for ever over messages with a position above `after`, in order, each once.

        Survives restarts of the server and silent stalls: it goes on from its own cursor. A
        `lasting` stream that is not there is waited for.

        Raises:
            LogRemadeError: the stream is another one than at the beginning.
            StreamMissingError: it is not there, and not `lasting`; a deletion is noticed within
                seconds.
        """

    async def fetch(
        self, stream: str, subjects: str, *, after: int, limit: int, max_bytes: int
    ) -> Sequence[LogMessage]:
        """Return the next messages with a position above `after`, in order; none at the end.

        At most `limit`, and fewer once they have about `max_bytes`, but one if there is one. A
        record in parts counts only as a whole, at the position of its last part; reading on from
        the middle of it leaves it out.
        """

    async def last(self, stream: str, subject: str) -> LogMessage | None:
        """Return the newest message of one subject, or none."""

    async def end(self, stream: str) -> int:
        """Return the position of the stream's newest message; 0 for an empty stream.

        Raises:
            StreamMissingError: there is no such stream; so with the next two.
        """

    async def extent(self, stream: str) -> Extent:
        """Return what the stream holds at this moment."""

    async def subjects(self, stream: str, pattern: str) -> Sequence[str]:
        """Return the subjects of a stream that match the pattern and hold a message."""
