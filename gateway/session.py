"""One client's conversation: requests in, replies out, errors that leave the connection open.

Every reply goes through the client's sink, the same way as the data, so neither overtakes the
other: `subscribed` comes before the first snapshot, and nothing comes after `unsubscribed`.
"""

from gateway.frames import json_frame
from gateway.group import Client
from gateway.hub import Hub
from gateway.protocol import (
    ClientError,
    Ping,
    Request,
    Subscribe,
    Unsubscribe,
    not_text,
    parse_request,
)


class Session:
    """Answers one client's messages."""

    def __init__(self, hub: Hub, client: Client) -> None:
        self._hub = hub
        self._client = client

    def receive(self, text: str | None) -> None:
        """Act on one message; none stands for a binary one."""
        try:
            if text is None:
                raise not_text()
            self._act(parse_request(text))
        except ClientError as error:
            self._reply(error.reply())

    def _act(self, request: Request) -> None:
        match request:
            case Subscribe():
                self._subscribe(request)
            case Unsubscribe():
                self._hub.unsubscribe(self._client, request.products, request.feeds)
                self._reply(_echo("unsubscribed", request))
            case Ping():
                self._reply({"op": "pong", "id": request.id})

    def _subscribe(self, request: Subscribe) -> None:
        self._hub.products.check(request.products)
        self._hub.catch_up(self._client)
        self._reply(_echo("subscribed", request))
        self._hub.subscribe(
            self._client,
            request.products,
            request.feeds,
            want_snapshot=request.want_snapshot,
            depth=request.depth,
        )

    def _reply(self, message: dict[str, object]) -> None:
        self._client.sink.write(json_frame(message))


def _echo(op: str, request: Subscribe | Unsubscribe) -> dict[str, object]:
    return {"op": op, "products": request.products, "feeds": request.feeds}
