"""What is said on the wire: every message of both sides, as `docs/protocol.md` has them.

Pure: text in, a typed request or a `ClientError` out; `session` acts on it. Messages with a
canonical line in them are built as bytes in `frames`; their models here document them.
"""

from typing import Annotated, Any, Literal, Self

import msgspec
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    TypeAdapter,
    model_validator,
)
from pydantic import ValidationError as PydanticError
from pydantic_core import ErrorDetails, PydanticCustomError

from models.canonical import FEEDS, Feed
from models.decoding import UNREADABLE
from models.subjects import NAMESPACE_PATTERN
from streaming.core.resume import Unrecoverable

MAX_MESSAGE_BYTES = 64 * 1024
"""Largest client message that is read; a larger one gets an error."""

HARD_MAX_MESSAGE_BYTES = 1024 * 1024
"""A message beyond this is not even received: the connection closes with 1009."""

MAX_PRODUCTS = 1000
"""Products that one message may name."""

DEFAULT_DEPTH = 50
"""Levels a side in book snapshots, where nobody asks for more or fewer."""

ALL_PRODUCTS = "*"
"""Stands for every product, those that are still to come included."""

TOO_SLOW = 4001
"""Close code: the client asked for `on_slow: disconnect`, and was slow."""

Source = Literal["ring", "log", "lake"]
"""Where a resumed feed's past comes from."""

Refusal = Literal["epoch", "busy"] | Unrecoverable
"""Why a feed could not be resumed."""

ErrorCode = Literal[
    "bad_json", "not_text", "too_large", "unknown_op", "missing_field", "unknown_field",
    "bad_field", "unknown_product", "ambiguous_product", "too_many_products",
    "too_many_subscriptions", "covered_by_all", "unauthorized", "unknown_namespace",
    "other_namespace", "too_many_replays",
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
Seq = Annotated[StrictInt, Field(ge=0, lt=2**63)]
Namespace = Annotated[str, Field(strict=True, pattern=NAMESPACE_PATTERN)]
Id = StrictInt | Annotated[str, Field(strict=True, max_length=256)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Subscribe(_Request):
    """Ask for feeds: a snapshot, or what follows `from_seq`, and every message after it."""

    op: Literal["subscribe"] = "subscribe"
    products: Products
    feeds: Feeds = FEEDS
    want_snapshot: StrictBool = True
    depth: Annotated[StrictInt, Field(ge=1, le=1_000_000)] | Literal["full"] = DEFAULT_DEPTH
    """Levels a side in book snapshots."""
    from_seq: dict[str, Seq | dict[Feed, Seq]] | None = None
    """How far the client came: by product, or `venue/product`, and feed."""
    epoch: Annotated[str, Field(strict=True, max_length=64)] | None = None
    """The log that `from_seq` belongs to."""
    max_rate: Annotated[StrictFloat | StrictInt, Field(ge=0.1, le=1000)] | None = None
    """Messages a second of each product and feed, at most; then snapshots come."""
    on_slow: Literal["conflate", "disconnect"] = "conflate"
    """What happens to a client that does not read fast enough."""
    namespace: Namespace | None = None
    """The replay that this is about; none means what the connection has, at first live data."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        """Refuse fields that contradict each other."""
        if self.from_seq is None:
            return self
        if self.max_rate is not None:
            raise _contradiction("from_seq and max_rate exclude each other: leave one out")
        for name, seqs in self.from_seq.items():
            if name.rpartition("/")[2] not in self.products and ALL_PRODUCTS not in self.products:
                raise _contradiction(f"from_seq names {name[:64]}, which products does not")
            if isinstance(seqs, int) and len(set(self.feeds)) > 1:
                raise _contradiction(
                    "with several feeds from_seq needs a number for each, such as "
                    '{"BTC-USD":{"ticker":1234500}}'
                )
            if isinstance(seqs, dict) and (strange := set(seqs) - set(self.feeds)):
                raise _contradiction(f"from_seq names {min(strange)}, which feeds does not")
        return self

    @property
    def levels(self) -> int | None:
        """Levels a side in book snapshots; none means all."""
        return None if self.depth == "full" else self.depth

    def resume_points(self) -> dict[str, dict[Feed, int]]:
        """Return `from_seq` by product, as it is named there, and feed."""
        return {
            name: dict.fromkeys(self.feeds, seqs) if isinstance(seqs, int) else seqs
            for name, seqs in (self.from_seq or {}).items()
        }


class Unsubscribe(_Request):
    """Ask for no more of these."""

    op: Literal["unsubscribe"] = "unsubscribe"
    products: Products
    feeds: Feeds = FEEDS


class Ping(_Request):
    """Ask for a sign of life."""

    op: Literal["ping"] = "ping"
    id: Id | None = None


class Auth(_Request):
    """Show a key: only as the first message, where keys are needed."""

    op: Literal["auth"] = "auth"
    key: Annotated[str, Field(strict=True, max_length=1024)]


Request = Subscribe | Unsubscribe | Ping | Auth
"""Every message that a client may send, told apart by `op`."""

CLIENT_MESSAGES: dict[str, type[Request]] = {
    "subscribe": Subscribe,
    "unsubscribe": Unsubscribe,
    "ping": Ping,
    "auth": Auth,
}
"""The same by `op`."""


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Subscribed(_Answer):
    """The acknowledgement of `subscribe`; data follows it."""

    op: Literal["subscribed"] = "subscribed"
    products: tuple[str, ...]
    feeds: tuple[Feed, ...]
    epoch: str
    namespace: str | None = None
    """The replay that follows; absent if it is live data."""


class Unsubscribed(_Answer):
    """The acknowledgement of `unsubscribe`; nothing of these follows it."""

    op: Literal["unsubscribed"] = "unsubscribed"
    products: tuple[str, ...]
    feeds: tuple[Feed, ...]
    epoch: str


class SnapshotMessage(_Answer):
    """The whole state: a new chain begins."""

    op: Literal["snapshot"] = "snapshot"
    data: dict[str, Any]
    recovered: Literal[False] | None = None
    """False if the client had asked to resume and could not; else absent."""


class IncrMessage(_Answer):
    """A tick."""

    op: Literal["incr"] = "incr"
    data: dict[str, Any]


class StatusMessage(_Answer):
    """A feed has changed its state."""

    op: Literal["status"] = "status"
    data: dict[str, Any]


class Resumed(_Answer):
    """The answer to one entry of `from_seq`."""

    op: Literal["resumed"] = "resumed"
    venue: str
    product: str
    feed: Feed
    from_seq: int
    recovered: bool
    source: Source | None = None
    """Where what follows comes from, if recovered."""
    reason: Refusal | None = None
    """Why not, if not."""


class RateLimit(_Answer):
    """The client sends too fast; messages have been dropped."""

    op: Literal["rate_limit"] = "rate_limit"
    retry_ms: int


class Drain(_Answer):
    """This gateway is going: connect anew after so many milliseconds."""

    op: Literal["drain"] = "drain"
    reconnect_ms: int


class Pong(_Answer):
    """The answer to `ping`."""

    op: Literal["pong"] = "pong"
    id: Id | None = None


class Authenticated(_Answer):
    """The answer to `auth`."""

    op: Literal["authenticated"] = "authenticated"


class ErrorMessage(_Answer):
    """A client's message could not be acted on."""

    op: Literal["error"] = "error"
    code: ErrorCode
    msg: str


SERVER_MESSAGES: dict[str, type[BaseModel]] = {
    "subscribed": Subscribed,
    "unsubscribed": Unsubscribed,
    "snapshot": SnapshotMessage,
    "incr": IncrMessage,
    "status": StatusMessage,
    "resumed": Resumed,
    "rate_limit": RateLimit,
    "drain": Drain,
    "pong": Pong,
    "authenticated": Authenticated,
    "error": ErrorMessage,
}
"""Every message that the gateway sends, by `op`."""

_validate = TypeAdapter[Request](
    Annotated[Request, Field(discriminator="op")]
).validate_python  # fmt: skip
_decode = msgspec.json.Decoder().decode
_EXAMPLE = '{"op":"subscribe","products":["BTC-USD"]}'
_POSSIBLE = {
    "products": f'a list of up to {MAX_PRODUCTS} names such as ["BTC-USD"], or ["*"]',
    "feeds": f"a list of {', '.join(FEEDS)}",
    "want_snapshot": "true or false",
    "depth": 'a whole number from 1 to 1000000, or "full"',
    "from_seq": 'whole numbers by product, such as {"BTC-USD":1234500}, or by product and feed, '
    'such as {"BTC-USD":{"ticker":1234500}}',
    "epoch": "the text that `subscribed` gave",
    "max_rate": "a number from 0.1 to 1000",
    "on_slow": '"conflate" or "disconnect"',
    "namespace": "the name of a replay, such as replay-monday",
    "id": "a whole number, or text of up to 256 characters",
    "key": "text",
}
"""What each field can be, for the sentence about one that is something else."""


def parse_request(text: str) -> Request:
    """Read one client message.

    Raises:
        ClientError: it is none; the code and the sentence say why.
    """
    if len(text) > MAX_MESSAGE_BYTES or len(text.encode()) > MAX_MESSAGE_BYTES:
        raise ClientError(
            "too_large",
            f"a message may have {MAX_MESSAGE_BYTES} bytes and this one has more: "
            "name fewer products per message.",
        )
    try:
        return _read(_decode(text))
    except UNREADABLE as error:
        raise ClientError(
            "bad_json", f"this is not JSON ({error}): send an object such as {_EXAMPLE}."
        ) from error


def not_text() -> ClientError:
    """Return the error for a binary frame."""
    return ClientError("not_text", "binary frames are not read: send JSON as a text frame.")


def _read(message: object) -> Request:
    """Turn a JSON value into a request."""
    if not isinstance(message, dict):
        raise ClientError("bad_json", f"send a JSON object such as {_EXAMPLE}.")
    try:
        return _validate(message)
    except PydanticError as error:
        raise _explain(message, error.errors(include_url=False, include_context=False)[0]) from None


def _contradiction(sentence: str) -> PydanticCustomError:
    return PydanticCustomError("contradiction", "{sentence}", {"sentence": sentence})


def _explain(message: dict[str, Any], problem: ErrorDetails) -> ClientError:
    """Turn pydantic's first finding into a code and a sentence for the client's author."""
    kind, where = problem["type"], problem["loc"]
    if kind == "union_tag_not_found":
        return ClientError("missing_field", f"'op' is missing: it is one of {_known_ops()}.")
    if kind == "union_tag_invalid":
        return ClientError(
            "unknown_op", f"op {_shown(message['op'])} is not known: use one of {_known_ops()}."
        )
    if kind == "contradiction":
        return ClientError("bad_field", f"{problem['msg']}.")
    return _explain_field(str(where[0]), str(where[1]), problem)


def _explain_field(op: str, name: str, problem: ErrorDetails) -> ClientError:
    """Say what is wrong with one field, and what is possible."""
    kind, where = problem["type"], problem["loc"]
    if kind == "missing":
        return ClientError("missing_field", f"{op} needs '{name}': {_POSSIBLE[name]}.")
    if kind == "extra_forbidden":
        known = ", ".join(CLIENT_MESSAGES[op].model_fields)
        return ClientError("unknown_field", f"{op} has no field {_shown(name)}: it has {known}.")
    if kind == "too_long" and name == "products":
        return ClientError(
            "too_many_products",
            f'one message may name {MAX_PRODUCTS} products: send several, or use ["*"].',
        )
    place = ".".join([name, *(str(part) for part in where[2:] if isinstance(part, int))])
    # A key must not come back in an error: errors end up in logs.
    shown = "something else" if name == "key" else _shown(problem["input"])
    return ClientError("bad_field", f"'{place}' is {shown}: {name} must be {_POSSIBLE[name]}.")


def _known_ops() -> str:
    return ", ".join(CLIENT_MESSAGES)


def _shown(value: object) -> str:
    """Quote a client's value, shortened: an error must not echo a megabyte."""
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 64 else f"{text[:64]}…"  # noqa: PLR2004
