"""Publishing with acknowledgement: one inbox for all answers of a connection.

Instead of the client's own request call because a lost connection must fail what is in flight at
once (the client would wait for its time-out), and because it costs half as much per publish.
"""

import asyncio
import itertools
from collections.abc import Mapping
from typing import NamedTuple

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from streaming.broker.log import LogUnavailableError

ACK_TIMEOUT_S = 3.0
"""After so long without an answer a publish counts as unanswered and may be repeated."""

_NO_RESPONDERS = "503"


class _Refusal(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Answer(msgspec.Struct):
    seq: int = 0
    error: _Refusal | None = None


class RefusedError(Exception):
    """The server refused to store a message. Attributes: code, err_code (see NATS ADR-7)."""

    def __init__(self, subject: str, refusal: _Refusal) -> None:
        super().__init__(f"{subject}: {refusal.description} (error {refusal.err_code})")
        self.code = refusal.code
        self.err_code = refusal.err_code


class Sent(NamedTuple):
    """A message on its way to the log."""

    subject: str
    token: str
    future: asyncio.Future[_Answer]


_decode = msgspec.json.Decoder(_Answer).decode


def _unanswered(subject: str, error: Exception) -> LogUnavailableError:
    return LogUnavailableError(f"no answer for {subject}: {error!r}")


class AckInbox:
    """Matches the server's answers with the publishes that wait for them."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._prefix = f"{client.new_inbox()}."
        self._tokens = itertools.count(1)
        self._waiting: dict[str, asyncio.Future[_Answer]] = {}

    async def start(self) -> None:
        """Begin to listen for answers."""
        await self._client.subscribe(f"{self._prefix}*", cb=self._on_answer)

    def fail_all(self) -> None:
        """Fail what is in flight: the connection is gone, and with it the answers."""
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(LogUnavailableError("the connection to the log was lost"))

    async def publish(self, subject: str, payload: bytes, headers: Mapping[str, str]) -> int:
        """Store one message and return its position.

        Raises:
            RefusedError: the server said no.
            LogUnavailableError: no answer; whether it was stored is unknown.
        """
        return await self.settle(await self.send(subject, payload, headers))

    async def send(self, subject: str, payload: bytes, headers: Mapping[str, str]) -> Sent:
        """Send one message; `settle` must follow, or `abandon`.

        The server takes what one connection sends in order, whether or not it is waited for.

        Raises:
            LogUnavailableError: it could not be sent.
        """
        sent = Sent(subject, str(next(self._tokens)), asyncio.get_running_loop().create_future())
        self._waiting[sent.token] = sent.future
        try:
            await self._client.publish(
                subject,
                payload,
                reply=self._prefix + sent.token,
                headers=dict(headers) if headers else None,
            )
        except (nats.errors.Error, OSError) as error:
            self.abandon(sent)
            raise _unanswered(subject, error) from error
        except BaseException:
            self.abandon(sent)
            raise
        return sent

    async def settle(self, sent: Sent) -> int:
        """Wait for the answer to a message that was sent; return its position.

        Raises:
            RefusedError: the server said no.
            LogUnavailableError: no answer; whether it was stored is unknown.
        """
        try:
            async with asyncio.timeout(ACK_TIMEOUT_S):
                answer = await sent.future
        except (nats.errors.Error, TimeoutError, OSError) as error:
            raise _unanswered(sent.subject, error) from error
        finally:
            self.abandon(sent)
        if answer.error is not None:
            raise RefusedError(sent.subject, answer.error)
        return answer.seq

    def abandon(self, sent: Sent) -> None:
        """Wait no longer for an answer."""
        self._waiting.pop(sent.token, None)
        if not sent.future.cancel() and not sent.future.cancelled():
            sent.future.exception()  # or the loop would complain that nobody has asked

    async def _on_answer(self, message: Msg) -> None:
        future = self._waiting.get(message.subject[len(self._prefix) :])
        if future is None or future.done():
            return
        if message.headers is not None and message.headers.get("Status") == _NO_RESPONDERS:
            future.set_exception(LogUnavailableError("no stream takes this subject yet"))
        else:
            future.set_result(_decode(message.data))
