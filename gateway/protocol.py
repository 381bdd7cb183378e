"""What clients may say: the messages, and an error with a code and a sentence for all else.

Pure: text in, a typed request or a `ClientError` out. `session` acts on it; the messages that
the gateway sends are canonical lines (`frames`) and the small replies here.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, TypeAdapter
from pydantic import ValidationError as PydanticError
from pydantic_core import ErrorDetails

from models.canonical import FEEDS, Feed

MAX_MESSAGE_BYTES = 64 * 1024
"""Largest client message that is read; a larger one gets an error."""

HARD_MAX_MESSAGE_BYTES = 1024 * 1024
"""A message beyond this is not even received: the connection closes with 1009."""

MAX_PRODUCTS = 1000
"""Products that one message may name."""

ALL_PRODUCTS = "*"
"""Stands for every product, those that are still to come included."""

ErrorCode = Literal[
    "bad_json", "not_text", "too_large", "unknown_op", "missing_field", "bad_field",
    "unknown_field", "too_many_products", "unknown_product", "covered_by_all",
]  # fmt: skip


class ClientError(Exception):
    """A client's message cannot be acted on.

    Attributes: code, for programs; msg, a sentence that says what to do.
    """

    def __init__(self, code: ErrorCode, msg: str) -> None:
        super().__init__(msg)
        self.code = code
        self.msg = msg

    def reply(self) -> dict[str, Any]:
        """Return the `error` message."""
        return {"op": "error", "code": self.code, "msg": self.msg}


Product = Annotated[str, Field(strict=True, min_length=1, max_length=64)]
Products = Annotated[tuple[Product, ...], Field(min_length=1, max_length=MAX_PRODUCTS)]
Feeds = Annotated[tuple[Feed, ...], Field(min_length=1, max_length=16)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Subscribe(_Request):
    """Ask for snapshots and every change after them."""

    op: Literal["subscribe"]
    products: Products
    feeds: Feeds = FEEDS
    want_snapshot: StrictBool = True
    depth: Annotated[StrictInt, Field(ge=1, le=1_000_000)] | None = None
    """Levels a side in book snapshots; none means the whole book."""


class Unsubscribe(_Request):
    """Ask for no more of these."""

    op: Literal["unsubscribe"]
    products: Products
    feeds: Feeds = FEEDS


class Ping(_Request):
    """Ask for a sign of life."""

    op: Literal["ping"]
    id: StrictInt | Annotated[str, Field(strict=True, max_length=256)] | None = None


Request = Subscribe | Unsubscribe | Ping
"""Every message that a client may send, told apart by `op`."""

_MODELS: dict[str, type[_Request]] = {
    "subscribe": Subscribe,
    "unsubscribe": Unsubscribe,
    "ping": Ping,
}
_validate = TypeAdapter[Request](
    Annotated[Request, Field(discriminator="op")]
).validate_python  # fmt: skip
_EXAMPLE = '{"op":"subscribe","products":["BTC-USD"]}'


def parse_request(text: str) -> Request:
    """Read one client message.

    Raises:
        ClientError: it is none; the code and the sentence say why.
    """
    if len(text) > MAX_MESSAGE_BYTES:
        raise ClientError(
            "too_large",
            f"a message may have {MAX_MESSAGE_BYTES} bytes and this one has more: "
            "name fewer products per message.",
        )
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ClientError(
            "bad_json", f"this is not JSON ({error}): send an object such as {_EXAMPLE}."
        ) from error
    if not isinstance(message, dict):
        raise ClientError("bad_json", f"send a JSON object such as {_EXAMPLE}.")
    try:
        return _validate(message)
    except PydanticError as error:
        raise _explain(message, error.errors(include_url=False, include_context=False)[0]) from None


def not_text() -> ClientError:
    """Return the error for a binary frame."""
    return ClientError("not_text", "binary frames are not read: send JSON as a text frame.")


def _explain(message: dict[str, Any], problem: ErrorDetails) -> ClientError:
    """Turn pydantic's first finding into a code and a sentence for the client's author."""
    kind, where = problem["type"], problem["loc"]
    if kind == "union_tag_not_found":
        return ClientError("missing_field", f"'op' is missing: it is one of {_known_ops()}.")
    if kind == "union_tag_invalid":
        return ClientError(
            "unknown_op", f"op {_shown(message['op'])} is not known: use one of {_known_ops()}."
        )
    op, name = str(where[0]), ".".join(str(part) for part in where[1:])
    if kind == "missing":
        return ClientError(
            "missing_field", f'{op} needs \'{name}\', a list such as ["BTC-USD"] or ["*"].'
        )
    if kind == "extra_forbidden":
        known = ", ".join(_MODELS[op].model_fields)
        return ClientError("unknown_field", f"{op} has no field '{name[:64]}': it has {known}.")
    if kind == "too_long" and name == "products":
        return ClientError(
            "too_many_products",
            f'one message may name {MAX_PRODUCTS} products: send several, or use ["*"].',
        )
    return ClientError(
        "bad_field", f"'{name}' of {op} is {_shown(problem['input'])}: {problem['msg']}."
    )


def _known_ops() -> str:
    return ", ".join(_MODELS)


def _shown(value: object) -> str:
    """Quote a client's value, shortened: an error must not echo a megabyte."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 64 else f"{text[:64]}…"  # noqa: PLR2004
