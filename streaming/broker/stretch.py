"""Reading a stretch of a stream at once: JetStream's batched direct get (NATS ADR-31).

Makes no consumer, so that many short readings cost the server little. Knows one request only:
`jetstream` repeats it and puts records together; `reader` follows a stream for ever.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.errors import ServiceUnavailableError

from streaming.broker.log import LogError, LogMessage

ANSWER_S = 3.0
"""A server that says nothing for so long is away."""

_END, _NOT_FOUND, _NO_RESPONDERS = "204", "404", "503"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


async def get_stretch(
    client: Client, stream: str, subjects: str, *, after: int, limit: int, max_bytes: int
) -> list[LogMessage]:
    """Return stored messages as they are, parts of records too; none at the end of the stream.

    Raises:
        TimeoutError: no answer, or only a part of one.
        ServiceUnavailableError: the stream is not there.
        LogError: the server does not know such requests.
    """
    return await direct_get(
        client,
        stream,
        {"seq": after + 1, "next_by_subj": subjects, "batch": limit, "max_bytes": max_bytes},
    )


async def direct_get(
    client: Client, stream: str, request: Mapping[str, object]
) -> list[LogMessage]:
    """Return what one direct get gives; `request`: in the words of ADR-31.

    Without a `batch` the server's answer is one message.

    Raises:
        TimeoutError, ServiceUnavailableError, LogError: as `get_stretch`.
    """
    arrived: asyncio.Queue[Msg] = asyncio.Queue()
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox, cb=arrived.put)
    found: list[LogMessage] = []
    try:
        await client.publish(
            f"$JS.API.DIRECT.GET.{stream}", msgspec.json.encode(request), reply=inbox
        )
        while True:
            async with asyncio.timeout(ANSWER_S):
                message = await arrived.get()
            headers = message.headers or {}
            status = headers.get("Status")
            if status is None:
                found.append(_stored(message.data, headers))
                if "batch" not in request:
                    return found
            elif status in (_END, _NOT_FOUND):
                return found
            elif status == _NO_RESPONDERS:
                raise ServiceUnavailableError
            else:
                raise LogError(f"{stream} cannot be read: nats-server 2.11 or newer is needed")
    finally:
        with suppress(nats.errors.Error):
            await subscription.unsubscribe()


def _stored(payload: bytes, headers: dict[str, str]) -> LogMessage:
    """Return the message that an answer holds."""
    time = datetime.fromisoformat(headers["Nats-Time-Stamp"])
    return LogMessage(
        headers["Nats-Subject"],
        int(headers["Nats-Sequence"]),
        payload,
        headers,
        (time - _EPOCH) // _MICROSECOND,
    )
