"""The log on NATS JetStream.

Owns the connection, the streams' configuration and publishing; `reader` owns reading and
`outbox` batching. Nothing outside `streaming.broker` knows that NATS is behind the log.
"""

import asyncio
import itertools
import os
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import structlog
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig, StreamInfo
from nats.js.errors import (
    APIError,
    NotFoundError,
)

from models.nats_access import NATS_AWAY, NatsAwayError, WaryClient, connect_within, nats_options
from models.settings import Settings
from models.subjects import LIVE, Streams
from streaming.broker.acks import AckInbox, RefusedError
from streaming.broker.cancelling import honour_cancel
from streaming.broker.log import (
    Extent,
    FencedError,
    LogMessage,
    LogUnavailableError,
    StreamMissingError,
)
from streaming.broker.parts import PART_HEADER, Assembler, split
from streaming.broker.reader import Reader
from streaming.broker.stretch import get_stretch

EXPECTED_LAST = "Nats-Expected-Last-Subject-Sequence"
MESSAGE_ID = "Nats-Msg-Id"
WRITE_ID = "LF-Write"
"""Names each fenced write, so that a write whose answer was lost is known again."""

_NAME_IN_USE = 10058
_SERVICE_UNAVAILABLE = 503
_WRONG_LAST = frozenset({10071, 10164})
_CALL_TIMEOUT_S = 3.0
_RETRY_FIRST_S = 0.02
_RETRY_MAX_S = 0.5
_PENDING_BYTES = 64 * 1024**2
_HEADROOM_BYTES = 4096
_DEDUPLICATION_S = 120.0
_REPLAY_AGE_S = 7 * 86400.0
_log = structlog.get_logger(__name__)


class JetStreamLog:
    """A `Log` on one NATS connection."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._acks = AckInbox(client)
        self._js: JetStreamContext = client.jetstream(timeout=_CALL_TIMEOUT_S)
        self._instance = f"{os.getpid():x}-{time.time_ns():x}"
        self._counter = itertools.count(1)
        self._readers: set[Reader] = set()

    @classmethod
    async def of(cls, settings: Settings, *, name: str, wait_s: float = 30.0) -> Self:
        """Connect as these settings say, with their credentials and certificates; see `connect`."""
        try:
            access = nats_options(settings)
        except OSError as error:
            away = NatsAwayError(settings.nats_urls, error)
            raise LogUnavailableError(str(away)) from error
        return await cls.connect(settings.nats_urls, name=name, wait_s=wait_s, access=access)

    @classmethod
    async def connect(
        cls,
        urls: Sequence[str],
        *,
        name: str,
        wait_s: float = 30.0,
        access: Mapping[str, Any] | None = None,
    ) -> Self:
        """Connect, waiting for a server that is still starting; `access`: see `nats_options`.

        Raises:
            LogUnavailableError: no server let us in within `wait_s`.
        """
        client = WaryClient()
        log: list[JetStreamLog] = []

        async def reconnected() -> None:
            _log.info("connected to the log again", server=str(client.connected_url))
            for connected in log:
                connected._restart_readers()  # noqa: SLF001

        async def disconnected() -> None:
            _log.warning("lost the connection to the log; trying again")
            for connected in log:
                connected._acks.fail_all()  # noqa: SLF001

        try:
            await connect_within(
                client,
                urls,
                wait_s,
                name=name,
                reconnected_cb=reconnected,
                disconnected_cb=disconnected,
                connect_timeout=2,
                ping_interval=5,
                max_outstanding_pings=2,
                pending_size=_PENDING_BYTES,
                **(access or {}),
            )
        except NatsAwayError as error:
            raise LogUnavailableError(str(error)) from error
        self = cls(client)
        await self._acks.start()
        log.append(self)
        return self

    async def close(self) -> None:
        """Close the connection; readers end. On one that is lost, what is unsent is given up."""
        try:
            await self._client.close()
        except (OSError, RuntimeError) as error:
            # nats-py writes what is left to the transport that it had; uvloop's refuses that so.
            _log.warning("what was unsent is given up: the log is away", error=str(error))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def connected(self) -> bool:
        """Whether the connection is up at this moment."""
        return self._client.is_connected

    async def ensure_streams(self, settings: Settings) -> None:
        """Create the streams, or bring those that exist to these settings."""
        for config in stream_configs(settings.streams, settings):
            await self._ensure(config)

    async def ensure_derivatives(self, settings: Settings) -> None:
        """Create the stream of DBN files' ticks, or bring it to these settings."""
        await self._ensure(derivatives_config(settings.streams, settings))

    async def _ensure(self, config: StreamConfig) -> None:
        while True:
            try:
                await honour_cancel(self._js.add_stream(config))
            except NATS_AWAY:
                await asyncio.sleep(_RETRY_MAX_S)
                continue
            except APIError as error:
                if error.err_code != _NAME_IN_USE:
                    raise
                await self._js.update_stream(config)
            return

    async def delete_streams(self, streams: Streams) -> list[str]:
        """Delete the streams that there are of these; return their names."""
        deleted: list[str] = []
        names = [streams.raw, streams.ticks, streams.state, streams.resync, streams.dead]
        while names:
            try:
                await honour_cancel(self._js.delete_stream(names[0]))
            except NotFoundError:
                del names[0]
            except NATS_AWAY:
                await asyncio.sleep(_RETRY_MAX_S)
            else:
                deleted.append(names.pop(0))
        return deleted

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
        """Store one message; see `Log.publish`."""
        limit = self._client.max_payload - _HEADROOM_BYTES
        if len(payload) <= limit:
            return await self._store(subject, payload, headers, expected_last, message_id)
        seq = expected_last
        for label, last, part in split(payload, limit, f"{self._instance}-{next(self._counter)}"):
            part_headers = dict((headers if last else unfinished) or {})
            part_headers[PART_HEADER] = label
            part_id = f"{message_id}:{label}" if message_id else None
            fence = None if expected_last is None else seq
            seq = await self._store(subject, part, part_headers, fence, part_id)
        return seq or 0

    async def _store(
        self,
        subject: str,
        payload: bytes,
        headers: Mapping[str, str] | None,
        expected_last: int | None,
        message_id: str | None,
    ) -> int:
        """Store one message that fits, as often as it takes."""
        sent = dict(headers or {})
        if message_id:
            sent[MESSAGE_ID] = message_id
        if expected_last is not None:
            sent[EXPECTED_LAST] = str(expected_last)
            sent[WRITE_ID] = f"{self._instance}-{next(self._counter)}"
        wait_s = _RETRY_FIRST_S
        while True:
            try:
                return await self._acks.publish(subject, payload, sent)
            except LogUnavailableError as error:
                _log.debug("publishing again", subject=subject, error=str(error))
            except RefusedError as error:
                if error.err_code in _WRONG_LAST and expected_last is not None:
                    if stored := await self._resolve(subject, sent):
                        return stored
                elif error.code != _SERVICE_UNAVAILABLE:
                    raise
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _RETRY_MAX_S)

    async def _resolve(self, subject: str, sent: dict[str, str]) -> int:
        """Find out what a refused fenced write means.

        Returns the position if an earlier attempt had been stored. Returns 0, with the fence set
        anew, if the subject's messages have all expired.
        """
        expected = int(sent[EXPECTED_LAST])
        newest = await self.last(await self._stream_of(subject), subject)
        if newest is None:
            sent[EXPECTED_LAST] = "0"
            return 0
        if newest.headers.get(WRITE_ID) == sent[WRITE_ID]:
            return newest.seq
        if newest.seq == expected:
            return 0
        raise FencedError(subject, expected, newest.seq)

    async def _stream_of(self, subject: str) -> str:
        return await self._js.find_stream_name_by_subject(subject)

    async def last(self, stream: str, subject: str) -> LogMessage | None:
        """Return the newest message of one subject, or none."""
        while True:
            try:
                found = await honour_cancel(self._js.get_last_msg(stream, subject, direct=True))
            except NotFoundError:
                return None
            except NATS_AWAY:
                await asyncio.sleep(_RETRY_MAX_S)
                continue
            return LogMessage(subject, found.seq or 0, found.data or b"", found.headers or {})

    async def end(self, stream: str) -> int:
        """Return the position of the stream's newest message; 0 for an empty stream."""
        return (await self._info(stream)).state.last_seq

    async def extent(self, stream: str) -> Extent:
        """Return what the stream holds at this moment."""
        info = await self._info(stream)
        created_us = 0 if info.created is None else round(info.created.timestamp() * 1e6)
        state = info.state
        return Extent(created_us, state.first_seq, state.last_seq, state.bytes)

    async def subjects(self, stream: str, pattern: str) -> list[str]:
        """Return the subjects of a stream that match the pattern and hold a message."""
        return sorted((await self._info(stream, pattern)).state.subjects or {})

    async def _info(self, stream: str, pattern: str | None = None) -> StreamInfo:
        """Ask for a stream's state, as often as it takes."""
        while True:
            try:
                return await self._js.stream_info(stream, subjects_filter=pattern)
            except NotFoundError as error:
                raise StreamMissingError(stream) from error
            except NATS_AWAY:
                await asyncio.sleep(_RETRY_MAX_S)

    async def read(
        self, stream: str, subjects: str, *, after: int = 0, lasting: bool = True
    ) -> AsyncGenerator[LogMessage, None]:
        """Iterate over messages for ever; see `Log.read`."""
        reader = Reader(self._client, self._js, stream, subjects, after, lasting=lasting)
        self._readers.add(reader)
        try:
            async for message in reader:
                yield message
        finally:
            self._readers.discard(reader)
            await reader.close()

    async def fetch(
        self, stream: str, subjects: str, *, after: int, limit: int, max_bytes: int
    ) -> list[LogMessage]:
        """Return the next messages above `after`; see `Log.fetch`."""
        found: list[LogMessage] = []
        parts = Assembler()
        while not found:
            stretch = await self._stretch(stream, subjects, after, limit, max_bytes)
            if not stretch:
                break
            after = stretch[-1].seq
            found += [whole for message in stretch if (whole := _whole(message, parts))]
        return found

    async def _stretch(
        self, stream: str, subjects: str, after: int, limit: int, max_bytes: int
    ) -> list[LogMessage]:
        """Ask for stored messages, as often as it takes."""
        while True:
            try:
                return await get_stretch(
                    self._client, stream, subjects, after=after, limit=limit, max_bytes=max_bytes
                )
            except NATS_AWAY as error:
                _log.debug("reading again", stream=stream, error=repr(error))
                await asyncio.sleep(_RETRY_MAX_S)

    def _restart_readers(self) -> None:
        for reader in self._readers:
            reader.restart()


def _whole(message: LogMessage, parts: Assembler) -> LogMessage | None:
    """Return a message, or the record that it completes; none while parts of that are missing."""
    label = message.headers.get(PART_HEADER)
    if label is None:
        return message
    payload = parts.add(message.subject, label, message.payload)
    return None if payload is None else replace(message, payload=payload)


def stream_configs(streams: Streams, settings: Settings) -> list[StreamConfig]:
    """Return the configuration of every stream; each is bounded in age and bytes."""
    # A replay may be paused for long and is deleted by its own workflow.
    age_s = settings.js_retention_minutes * 60.0 if streams.root == LIVE else _REPLAY_AGE_S
    small = settings.js_max_bytes // 16

    def stream(name: str, kind: str, max_bytes: int, **more: Any) -> StreamConfig:  # noqa: ANN401
        return StreamConfig(
            name=name,
            subjects=[streams.tree(kind)],
            storage=StorageType.FILE,
            discard=DiscardPolicy.OLD,
            allow_direct=True,
            max_bytes=max_bytes,
            **more,
        )

    aged = {"max_age": age_s, "duplicate_window": min(_DEDUPLICATION_S, age_s)}
    return [
        stream(streams.raw, "raw", settings.js_max_bytes, **aged),
        stream(streams.ticks, "ticks", settings.js_max_bytes, **aged),
        stream(streams.state, "state", settings.js_max_bytes, max_msgs_per_subject=1),
        stream(streams.resync, "resync", small, retention=RetentionPolicy.WORK_QUEUE, **aged),
        stream(streams.dead, "dead", small, **aged),
    ]


def derivatives_config(streams: Streams, settings: Settings) -> StreamConfig:
    """Return the configuration of the stream of DBN files' ticks: bounded as raw records are."""
    raw = stream_configs(streams, settings)[0]
    return raw.evolve(
        name=streams.derivatives, subjects=[streams.tree("futures"), streams.tree("options")]
    )
