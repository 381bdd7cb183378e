"""Ordered reading from JetStream: one ephemeral push consumer that is replaced when in doubt.

Keeps a cursor of its own. A jump of the consumer's numbering, missed heartbeats, a reconnect or
a restarted server all lead to the same cure: a new consumer from the cursor on. Nothing is
skipped and nothing comes twice. Flow control bounds what the server sends ahead.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime

import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import Error as JetStreamError
from nats.js.errors import NotFoundError

from streaming.broker.cancelling import honour_cancel
from streaming.broker.log import LogMessage, LogRemadeError, StreamMissingError
from streaming.broker.parts import PART_HEADER, Assembler

HEARTBEAT_S = 1.0
"""The server says that it is alive when it has nothing to send."""

SILENCE_S = 3 * HEARTBEAT_S
"""After so long without a message or a heartbeat the consumer counts as lost."""

_INACTIVE_S = 30.0
_RETRY_S = 0.1
_PENDING_MSGS = 1 << 20
_PENDING_BYTES = 1 << 30
_CONTROL = "100"
_log = structlog.get_logger(__name__)


class Reader:
    """An endless, ordered iterator over one stream's messages of matching subjects."""

    def __init__(
        self,
        client: Client,
        js: JetStreamContext,
        stream: str,
        subjects: str,
        after: int,
        *,
        lasting: bool = True,
    ) -> None:
        self._client = client
        self._js = js
        self._stream = stream
        self._subjects = subjects
        self._cursor = after
        self._lasting = lasting
        self._delivered = 0
        self._assembler = Assembler()
        self._arrived: deque[Msg] = deque()
        self._wake = asyncio.Event()
        self._stale = True
        self._subscription: Subscription | None = None
        self._created: datetime | None = None

    def restart(self) -> None:
        """Ask for a new consumer from the cursor on."""
        self._stale = True
        self._wake.set()

    async def close(self) -> None:
        """Stop receiving; the server forgets the consumer by itself."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            with suppress(nats.errors.Error):
                await subscription.unsubscribe()

    async def __aiter__(self) -> AsyncIterator[LogMessage]:
        while not self._client.is_closed:
            if self._stale:
                await self._open()
            while self._arrived and not self._stale:
                message = await self._take(self._arrived.popleft())
                if message is not None:
                    yield message
            if not self._stale:
                await self._wait()

    async def _open(self) -> None:
        """Replace the consumer, however long the server takes to come back.

        Raises:
            LogRemadeError: the stream is another one than before, so the cursor means nothing.
            StreamMissingError: it is not there, and is not meant to come back.
        """
        await self.close()
        self._arrived.clear()
        self._delivered = 0
        inbox = self._client.new_inbox()
        config = ConsumerConfig(
            description=self._client.options.get("name"),
            deliver_subject=inbox,
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=self._cursor + 1,
            ack_policy=AckPolicy.NONE,
            filter_subject=self._subjects,
            flow_control=True,
            idle_heartbeat=HEARTBEAT_S,
            inactive_threshold=_INACTIVE_S,
            mem_storage=True,
            num_replicas=1,
        )
        try:
            created = (await honour_cancel(self._js.stream_info(self._stream))).created
            if created != (self._created or created):
                raise LogRemadeError(self._stream)
            self._created = created
            self._subscription = await self._client.subscribe(
                inbox,
                cb=self._on_message,
                pending_msgs_limit=_PENDING_MSGS,
                pending_bytes_limit=_PENDING_BYTES,
            )
            await honour_cancel(self._js.add_consumer(self._stream, config))
            self._stale = False
        except (nats.errors.Error, JetStreamError, OSError) as error:
            if isinstance(error, NotFoundError) and not self._lasting:
                raise StreamMissingError(self._stream) from error
            _log.warning("cannot read the log yet", stream=self._stream, error=str(error))
            await asyncio.sleep(_RETRY_S)

    async def _on_message(self, message: Msg) -> None:
        self._arrived.append(message)
        self._wake.set()

    async def _wait(self) -> None:
        """Wait for the next arrival; silence beyond the heartbeats makes the consumer stale."""
        self._wake.clear()
        try:
            async with asyncio.timeout(SILENCE_S):
                await self._wake.wait()
        except TimeoutError:
            _log.warning("the log fell silent; reading anew", stream=self._stream)
            self._stale = True

    async def _take(self, message: Msg) -> LogMessage | None:
        """Check one arrival and advance the cursor; control messages give nothing."""
        headers = message.headers
        if headers is not None and headers.get("Status") == _CONTROL:
            await self._control(message, headers)
            return None
        # $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>;
        # NATS ADR-15 adds domain and account in front, so count from the end.
        fields = message.reply.split(".")
        if len(fields) > _PLAIN_ACK_FIELDS:
            fields = fields[:-1]
        seq, delivered, time_us = int(fields[-4]), int(fields[-3]), int(fields[-2]) // 1000
        if delivered != self._delivered + 1:
            self._stale = True
            return None
        self._delivered = delivered
        self._cursor = seq
        if headers is not None and (label := headers.get(PART_HEADER)) is not None:
            whole = self._assembler.add(message.subject, label, message.data)
            if whole is None:
                return None
            return LogMessage(message.subject, seq, whole, headers, time_us)
        return LogMessage(message.subject, seq, message.data, headers or {}, time_us)

    async def _control(self, message: Msg, headers: dict[str, str]) -> None:
        """Answer flow control, and compare a heartbeat's numbering with what has arrived."""
        if message.reply:
            with suppress(nats.errors.Error):
                await self._client.publish(message.reply)
        stalled = headers.get("Nats-Consumer-Stalled")
        if stalled:
            with suppress(nats.errors.Error):
                await self._client.publish(stalled)
        last = headers.get("Nats-Last-Consumer")
        if last is not None and int(last) > self._delivered:
            self._stale = True


_PLAIN_ACK_FIELDS = 9
