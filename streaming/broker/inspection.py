"""Looks at a NATS server and its streams as they are, and never waits for one that is away.

For `ledgerflux doctor` and `ledgerflux status`; `jetstream` is for those who work with the log and
wait for it. Changes nothing.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self, TypeVar

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.js.api import StreamConfig
from nats.js.errors import ServiceUnavailableError

from models.nats_access import NatsAwayError, WaryClient, nats_options
from models.settings import Settings
from streaming.broker.cancelling import honour_cancel
from streaming.broker.log import LogError, LogMessage, LogUnavailableError
from streaming.broker.stretch import direct_get

_COMPARED = (
    "subjects", "storage", "discard", "max_bytes", "max_age", "max_msgs_per_subject",
    "duplicate_window", "allow_direct",
)  # fmt: skip
_DURATIONS = frozenset({"max_age", "duplicate_window"})
_NS = 1_000_000_000
_NO_STREAM = 10059
_MOST_SUBJECTS = 1024
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

Answer = TypeVar("Answer")


class _Error(msgspec.Struct):
    description: str = ""
    err_code: int = 0


class _Refusal(msgspec.Struct):
    error: _Error | None = None


class _Limits(msgspec.Struct):
    max_storage: int = -1


class _Account(msgspec.Struct):
    storage: int
    limits: _Limits = msgspec.field(default_factory=_Limits)


class _State(msgspec.Struct):
    messages: int
    bytes: int
    first_seq: int
    last_seq: int
    first_ts: str
    last_ts: str
    consumer_count: int = 0


class _Stream(msgspec.Struct):
    config: dict[str, Any]
    created: str
    state: _State
    ts: str | None = None


class _ConsumerConfig(msgspec.Struct):
    durable_name: str = ""
    description: str = ""
    filter_subject: str = ""


class _Consumer(msgspec.Struct):
    name: str
    config: _ConsumerConfig
    num_pending: int = 0
    num_ack_pending: int = 0
    push_bound: bool | None = None


class _Consumers(msgspec.Struct):
    consumers: list[_Consumer] | None = None


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """One server. `rtt_s`: of a ping; `storage_limit_bytes`: of the account, none if unlimited."""

    version: str
    rtt_s: float
    max_payload_bytes: int
    has_jetstream: bool
    storage_bytes: int = 0
    storage_limit_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class ConsumerFacts:
    """One consumer that somebody uses. `name`: empty for one that belongs to a single reader.

    `reader`: what that calls itself; `pending`: messages that it has not been given yet;
    `unanswered`: given, not acknowledged.
    """

    name: str
    reader: str
    subjects: str
    pending: int
    unanswered: int


@dataclass(frozen=True, slots=True)
class StreamFacts:
    """One stream. Times in µs, 0 where it is empty; `clock_us`: the server's when it answered.

    `created_us` names the stream itself; positions of one that was made anew mean nothing here.
    """

    name: str
    created_us: int
    config: Mapping[str, Any]
    messages: int
    size_bytes: int
    first: int
    last: int
    first_us: int
    last_us: int
    consumers: int
    clock_us: int | None

    @property
    def share_of_bytes(self) -> float | None:
        """Part of its bound in bytes that is used; none without a bound."""
        bound = self.config.get("max_bytes", -1)
        return self.size_bytes / bound if bound > 0 else None


class Inspector:
    """One connection to one server, or to the first of several that answers."""

    def __init__(self, client: Client, answer_s: float) -> None:
        self._client, self._answer_s = client, answer_s

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, settings: Settings, *urls: str, answer_s: float = 2.0
    ) -> AsyncIterator[Self]:
        """Connect once; without `urls` to those of the settings.

        `answer_s`: how long connecting may take, and then each answer.

        Raises:
            LogUnavailableError: nobody let us in; the text says why and what to do.
        """
        client, servers = WaryClient(), urls or settings.nats_urls
        told: list[Exception] = []

        async def failed(error: Exception) -> None:
            # A server that refuses us also hangs up, and only one of the two says why.
            told.insert(len(told) if isinstance(error, ConnectionError) else 0, error)

        try:
            async with asyncio.timeout(answer_s):
                await client.connect(
                    list(servers),
                    name="inspector",
                    error_cb=failed,
                    allow_reconnect=False,
                    connect_timeout=2,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0.05,  # type: ignore[arg-type]  # seconds; floats work
                    **nats_options(settings),
                )
        except (TimeoutError, nats.errors.Error, OSError) as error:
            await client.close()
            known = [one for one in (*told, error) if str(one)]
            away = NatsAwayError(servers, known[0] if known else None)
            raise LogUnavailableError(str(away)) from error
        try:
            yield cls(client, answer_s)
        finally:
            await client.close()

    async def server(self) -> ServerFacts:
        """Return what the server says of itself and of our account.

        Raises:
            LogUnavailableError: it has stopped answering.
        """
        client, began_s = self._client, time.monotonic()
        try:
            async with asyncio.timeout(self._answer_s):
                await client.flush()
        except (TimeoutError, nats.errors.Error, OSError) as error:
            raise LogUnavailableError(f"no answer to a ping ({error!r})") from error
        rtt_s = time.monotonic() - began_s
        version = str(client.connected_server_version).strip("<>")
        try:
            account = await self._ask("INFO", _Account)
        except LogError:
            return ServerFacts(version, rtt_s, client.max_payload, has_jetstream=False)
        limit = account.limits.max_storage
        return ServerFacts(
            version,
            rtt_s,
            client.max_payload,
            has_jetstream=True,
            storage_bytes=account.storage,
            storage_limit_bytes=limit if limit > 0 else None,
        )

    async def stream(self, name: str) -> StreamFacts | None:
        """Return a stream as it is, or none where there is no such stream.

        Raises:
            LogError: the server did not answer, or refused.
        """
        try:
            found = await self._ask(f"STREAM.INFO.{name}", _Stream)
        except _RefusedError as error:
            if error.code == _NO_STREAM:
                return None
            raise
        state = found.state
        return StreamFacts(
            name,
            _us(found.created),
            found.config,
            state.messages,
            state.bytes,
            state.first_seq,
            state.last_seq,
            _us(state.first_ts) if state.messages else 0,
            _us(state.last_ts) if state.messages else 0,
            state.consumer_count,
            None if found.ts is None else _us(found.ts),
        )

    async def consumers(self, stream: str) -> list[ConsumerFacts]:
        """Return the consumers of a stream that are in use; of 256 at most.

        Raises:
            LogError: the server did not answer, or refused.
        """
        found = await self._ask(f"CONSUMER.LIST.{stream}", _Consumers)
        return [
            ConsumerFacts(
                one.config.durable_name,
                one.config.description,
                one.config.filter_subject,
                one.num_pending,
                one.num_ack_pending,
            )
            for one in found.consumers or ()
            # One that was pushed to a reader who has gone stays for a while.
            if one.push_bound or one.config.durable_name
        ]

    async def newest(self, stream: str, subjects: str) -> list[LogMessage]:
        """Return the newest message of each subject, as it is; 1024 subjects can be asked for.

        Raises:
            LogError: the server did not answer, or refused.
        """
        return await self._get(stream, {"multi_last": [subjects], "batch": _MOST_SUBJECTS})

    async def since(
        self, stream: str, subjects: str, time_us: int, *, limit: int, max_bytes: int
    ) -> list[LogMessage]:
        """Return the messages stored from a time on, as they are: the first `limit` of them.

        Raises:
            LogError: the server did not answer, or refused.
        """
        start = (_EPOCH + time_us * _MICROSECOND).isoformat()
        request = {"start_time": start, "next_by_subj": subjects}
        return await self._get(stream, {**request, "batch": limit, "max_bytes": max_bytes})

    async def last(self, stream: str, subjects: str) -> LogMessage | None:
        """Return the newest message of all these subjects, as it is, or none.

        Raises:
            LogError: the server did not answer, or refused.
        """
        return next(iter(await self._get(stream, {"last_by_subj": subjects})), None)

    async def following(
        self, stream: str, subjects: str, position: int, *, limit: int, max_bytes: int
    ) -> list[LogMessage]:
        """Return the messages behind a position, as they are: the first `limit` of them.

        Raises:
            LogError: the server did not answer, or refused.
        """
        request = {"seq": position + 1, "next_by_subj": subjects}
        return await self._get(stream, {**request, "batch": limit, "max_bytes": max_bytes})

    async def after(self, stream: str, subjects: str, position: int) -> LogMessage | None:
        """Return the first message behind a position, or none.

        Raises:
            LogError: the server did not answer, or refused.
        """
        found = await self.following(stream, subjects, position, limit=1, max_bytes=1)
        return next(iter(found), None)

    async def _get(self, stream: str, request: Mapping[str, object]) -> list[LogMessage]:
        try:
            async with asyncio.timeout(self._answer_s):
                return await direct_get(self._client, stream, request)
        except (TimeoutError, nats.errors.Error, ServiceUnavailableError, OSError) as error:
            raise LogUnavailableError(f"no answer about {stream} ({error!r})") from error

    async def _ask(self, subject: str, answer: type[Answer]) -> Answer:
        try:
            message = await honour_cancel(
                self._client.request(f"$JS.API.{subject}", b"", timeout=self._answer_s)
            )
        except (nats.errors.Error, OSError) as error:
            raise LogUnavailableError(f"no answer about {subject} ({error!r})") from error
        refusal = msgspec.json.decode(message.data, type=_Refusal).error
        if refusal is not None:
            raise _RefusedError(refusal)
        return msgspec.json.decode(message.data, type=answer)


class _RefusedError(LogError):
    """The server's own answer is an error. Attributes: code, the server's number for it."""

    def __init__(self, error: _Error) -> None:
        super().__init__(error.description)
        self.code = error.err_code


def differences(wanted: StreamConfig, actual: Mapping[str, Any]) -> list[str]:
    """Return in words where a stream is not configured as the settings say."""
    told = wanted.as_dict()
    told["retention"] = wanted.retention or "limits"
    found = []
    for name in (*_COMPARED, "retention"):
        want, have = told.get(name), actual.get(name)
        if name == "duplicate_window" and not want:
            continue  # the server chooses
        if (want or None) != (have or None):
            found.append(f"{name} is {_shown(name, have)} and should be {_shown(name, want)}")
    return found


def _shown(name: str, value: object) -> str:
    if name in _DURATIONS and isinstance(value, int):
        return f"{value / _NS:g} s"
    if isinstance(value, list):
        return ",".join(map(str, value))
    return f"{value:,}" if type(value) is int else str(getattr(value, "value", value))


def _us(moment: str) -> int:
    """Return a time of the server; what is below a µs is cut off, as the client does it."""
    return (datetime.fromisoformat(moment) - _EPOCH) // _MICROSECOND
