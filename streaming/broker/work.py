"""Work queues and look-ups by time on JetStream, beside the log.

A queue hands each message to one of the processes that take from it, and again if it was not
acknowledged. Written on the client's plain requests: its own `fetch` waits with `wait_for`.
"""

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import suppress
from datetime import UTC, datetime

import msgspec
import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import Error as JetStreamError

from streaming.broker.cancelling import honour_cancel
from streaming.broker.jetstream import JetStreamLog
from streaming.broker.log import LogUnavailableError

ACK_WITHIN_S = 10.0
"""A message that was not acknowledged comes again after this time."""

_PULL_EXPIRES_S = 10.0
_HEARTBEAT_S = 0.5
_SILENCE_S = 3 * _HEARTBEAT_S
_RETRY_S = 0.1
_REQUEST_S = 3.0
_NS = 1_000_000_000
_NOT_FOUND = "404"
_HEARTBEAT = "100"
_log = structlog.get_logger(__name__)


class Job:
    """One message to be worked on. Attributes: payload; deliveries, 1 for the first."""

    def __init__(self, message: Msg, client: Client) -> None:
        self.payload = message.data
        self.subject = message.subject
        # $JS.ACK.<stream>.<consumer>.<delivered>.…; with a domain two more stand in front.
        fields = message.reply.split(".")
        self.deliveries = int(fields[-5] if len(fields) <= _PLAIN_ACK_FIELDS else fields[-6])
        self._reply, self._client = message.reply, client

    async def done(self) -> None:
        """Remove it from the queue. Should this get lost the message comes again."""
        await self._say(b"+ACK")

    async def later(self, delay_s: float) -> None:
        """Have it come again after a while."""
        await self._say(b'-NAK {"delay":%d}' % int(delay_s * _NS))

    async def never(self) -> None:
        """Remove it: nobody can do anything with it."""
        await self._say(b"+TERM")

    async def _say(self, words: bytes) -> None:
        with suppress(nats.errors.Error):
            await self._client.publish(self._reply, words)


class WorkQueue:
    """The messages of one stream, shared by all that use the same `name`."""

    def __init__(self, log: JetStreamLog, stream: str, name: str, *, batch: int = 64) -> None:
        """Prepare; at most `batch` messages wait here to be taken."""
        self._client: Client = log._client  # noqa: SLF001  # one package, one connection
        self._js = log._js  # noqa: SLF001
        self._stream, self._name, self._batch = stream, name, batch
        self._arrived: deque[Msg] = deque()
        self._wake = asyncio.Event()
        self._wanted = 0

    async def jobs(self) -> AsyncGenerator[Job, None]:
        """Iterate for ever over what is to be done, over restarts of the server."""
        inbox = self._client.new_inbox()
        subscription = await self._client.subscribe(inbox, cb=self._take)
        try:
            await self._ensure()
            while not self._client.is_closed:
                if self._wanted <= 0:
                    await self._pull(inbox)
                if not self._arrived:
                    await self._wait()
                while self._arrived:
                    yield Job(self._arrived.popleft(), self._client)
        finally:
            with suppress(nats.errors.Error):
                await subscription.unsubscribe()

    async def _ensure(self) -> None:
        """Create the consumer that all share."""
        config = ConsumerConfig(
            durable_name=self._name, ack_policy=AckPolicy.EXPLICIT, ack_wait=ACK_WITHIN_S
        )
        while True:
            try:
                await honour_cancel(self._js.add_consumer(self._stream, config))
            except (nats.errors.Error, JetStreamError, OSError) as error:
                _log.warning("cannot take work yet", stream=self._stream, error=str(error))
                await asyncio.sleep(_RETRY_S)
            else:
                return

    async def _pull(self, inbox: str) -> None:
        """Ask for the next messages; the server answers as soon as it has one."""
        request = {
            "batch": self._batch,
            "expires": int(_PULL_EXPIRES_S * _NS),
            "idle_heartbeat": int(_HEARTBEAT_S * _NS),
        }
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._name}"
        try:
            await self._client.publish(subject, msgspec.json.encode(request), reply=inbox)
            self._wanted = self._batch
        except (nats.errors.Error, OSError):
            await asyncio.sleep(_RETRY_S)

    async def _take(self, message: Msg) -> None:
        """Keep a message; any other word from the server than a heartbeat ends the request."""
        status = (message.headers or {}).get("Status")
        if status is None:
            self._arrived.append(message)
            self._wanted -= 1
        elif status != _HEARTBEAT:
            self._wanted = 0
        self._wake.set()

    async def _wait(self) -> None:
        self._wake.clear()
        try:
            async with asyncio.timeout(_SILENCE_S):
                await self._wake.wait()
        except TimeoutError:
            self._wanted = 0  # not even a heartbeat: ask again


async def position_at(log: JetStreamLog, stream: str, subject: str, time_us: int) -> int:
    """Return the position after which everything stored at `time_us` or later is found.

    0 if nothing of the subject is that young, which costs the reader time and nothing else.

    Raises:
        LogUnavailableError: the server did not answer; ask again.
    """
    client = log._client  # noqa: SLF001
    time = datetime.fromtimestamp(time_us / 1e6, UTC).isoformat()
    request = json.dumps({"next_by_subj": subject, "start_time": time}).encode()
    try:
        answer = await honour_cancel(
            client.request(f"$JS.API.DIRECT.GET.{stream}", request, timeout=_REQUEST_S)
        )
    except (nats.errors.Error, OSError) as error:
        raise LogUnavailableError(f"no answer about {stream}: {error!r}") from error
    headers = answer.headers or {}
    if headers.get("Status") == _NOT_FOUND or "Nats-Sequence" not in headers:
        return 0
    return int(headers["Nats-Sequence"]) - 1


_PLAIN_ACK_FIELDS = 9
