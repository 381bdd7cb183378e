"""One client's conversation: requests in, replies out, errors that leave the connection open.

Every reply goes through the client's sink, the same way as the data, so neither overtakes the
other: `subscribed` comes before the first snapshot, and nothing comes after `unsubscribed`.
"""

import math
from functools import partial

from gateway.frames import json_frame
from gateway.group import Client
from gateway.hub import Hub
from gateway.protocol import (
    Auth,
    ClientError,
    Ping,
    Request,
    Subscribe,
    Unsubscribe,
    not_text,
    parse_request,
)
from models.token_bucket import TokenBucket


class Session:
    """Answers one client's messages."""

    __slots__ = ("_bucket", "_client", "_dry", "_hub")

    def __init__(self, hub: Hub, client: Client) -> None:
        self._hub = hub
        self._client = client
        self._bucket = TokenBucket(hub.limits.msgs_per_s, hub.limits.burst)
        self._dry = False

    def receive(self, text: str | None) -> None:
        """Act on one message; none stands for a binary one.

        Over the client's rate it is dropped, and the first one of those is answered with when to
        say them again.
        """
        wait_s = self._bucket.take(self._hub.loop.time())
        if wait_s:
            if not self._dry:
                self._reply({"op": "rate_limit", "retry_ms": math.ceil(wait_s * 1000)})
            self._dry = True
            return
        self._dry = False
        try:
            if text is None:
                raise not_text()
            self._act(parse_request(text))
        except ClientError as error:
            self._reply(error.reply())

    def _act(self, request: Request) -> None:
        match request:
            case Subscribe():
                acknowledge = partial(self._acknowledge, "subscribed", request)
                self._hub.subscribe(self._client, request, acknowledge)
            case Unsubscribe():
                acknowledge = partial(self._acknowledge, "unsubscribed", request)
                self._hub.unsubscribe(self._client, request, acknowledge)
            case Ping():
                self._reply({"op": "pong", "id": request.id})
            case Auth():
                raise ClientError(
                    "unauthorized",
                    "auth is only for the first message, where keys are needed: leave it out.",
                )

    def _acknowledge(self, op: str, request: Subscribe | Unsubscribe) -> None:
        self._reply(
            {
                "op": op,
                "products": request.products,
                "feeds": request.feeds,
                "epoch": self._hub.epoch,
            }
        )

    def _reply(self, message: dict[str, object]) -> None:
        self._client.sink.write(json_frame(message))
