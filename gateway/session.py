"""One client's conversation: requests in, replies out, errors that leave the connection open.

Every reply goes through the client's sink, the same way as the data, so neither overtakes the
other: `subscribed` comes before the first snapshot, and nothing comes after `unsubscribed`.
"""

import math
from functools import partial
from typing import TypeGuard

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
from gateway.replays import Replay, Replays
from models.token_bucket import TokenBucket


class Session:
    """Answers one client's messages. Attributes: client, which is another one once attached."""

    __slots__ = ("_bucket", "_dry", "_hub", "_replay", "_settled", "client")

    def __init__(self, hub: Hub, client: Client) -> None:
        """Begin with the live hub."""
        self.client = client
        self._hub = hub
        self._replay: Replay | None = None
        self._settled = False
        self._bucket = TokenBucket(hub.limits.msgs_per_s, hub.limits.burst)
        self._dry = False

    def receive(self, text: str | None) -> Subscribe | None:
        """Act on one message; none stands for a binary one.

        Over the client's rate it is dropped, and the first one of those is answered with when to
        say them again. Returns a subscription to a replay for which the client must `attach`.
        """
        wait_s = self._bucket.take(self._hub.loop.time())
        if wait_s:
            if not self._dry:
                self._reply({"op": "rate_limit", "retry_ms": math.ceil(wait_s * 1000)})
            self._dry = True
            return None
        self._dry = False
        try:
            if text is None:
                raise not_text()
            request = parse_request(text)
            if self._is_elsewhere(request):
                return request
            self._act(request)
        except ClientError as error:
            self._reply(error.reply())
        return None

    async def attach(self, request: Subscribe, replays: Replays) -> None:
        """Move to the hub of the request's replay, and subscribe there.

        Raises:
            RefusedError: the replay cannot be served at this moment.
        """
        assert request.namespace is not None  # noqa: S101  # as `receive` returned it
        try:
            replay = await replays.enter(request.namespace)
            if self.client.left:
                replays.leave(replay)
                return
            self._hub.release(self.client)
            self._replay, self._hub = replay, replay.hub
            self.client = replay.join(self.client.sink)
            self._act(request)
        except ClientError as error:
            self._reply(error.reply())

    def catch_up(self) -> None:
        """Write at once what is due to the client."""
        self._hub.catch_up(self.client)

    def end(self, replays: Replays) -> None:
        """Forget the client."""
        if self._replay is None:
            self._hub.leave(self.client)
        else:
            self._replay.leave(self.client)
            replays.leave(self._replay)

    def _is_elsewhere(self, request: Request) -> TypeGuard[Subscribe]:
        """Tell whether a request is about a replay that the client has to be attached to.

        Raises:
            ClientError: `other_namespace`.
        """
        if not isinstance(request, Subscribe) or request.namespace is None:
            return False
        mine = None if self._replay is None else self._replay.name
        if request.namespace == mine:
            return False
        if self._replay is not None or self._settled:
            raise ClientError(
                "other_namespace",
                f"this connection has {mine or 'live data'}: take another one for "
                f"{request.namespace}.",
            )
        return True

    def _act(self, request: Request) -> None:
        match request:
            case Subscribe():
                acknowledge = partial(self._acknowledge, "subscribed", request)
                self._hub.subscribe(self.client, request, acknowledge)
                self._settled = True
            case Unsubscribe():
                acknowledge = partial(self._acknowledge, "unsubscribed", request)
                self._hub.unsubscribe(self.client, request, acknowledge)
            case Ping():
                self._reply({"op": "pong", "id": request.id})
            case Auth():
                raise ClientError(
                    "unauthorized",
                    "auth is only for the first message, where keys are needed: leave it out.",
                )

    def _acknowledge(self, op: str, request: Subscribe | Unsubscribe) -> None:
        reply: dict[str, object] = {
            "op": op,
            "products": request.products,
            "feeds": request.feeds,
            "epoch": self._hub.epoch,
        }
        if self._replay is not None and op == "subscribed":
            reply["namespace"] = self._replay.name
        self._reply(reply)

    def _reply(self, message: dict[str, object]) -> None:
        self.client.sink.write(json_frame(message))
