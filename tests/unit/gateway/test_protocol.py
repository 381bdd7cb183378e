"""What clients may say, and the error for everything else."""

import json

import pytest

from gateway.protocol import (
    CLIENT_MESSAGES,
    SERVER_MESSAGES,
    ClientError,
    Ping,
    Subscribe,
    parse_request,
)
from tests.malformed import BAD, resume


@pytest.mark.parametrize(("text", "code"), BAD, ids=[f"{n}-{bad[1]}" for n, bad in enumerate(BAD)])
def test_request_that_is_wrong_is_explained(text: str, code: str) -> None:
    """The error has the code and a short sentence."""
    with pytest.raises(ClientError) as refused:
        parse_request(text)
    assert refused.value.code == code
    assert len(refused.value.msg) < 400
    assert refused.value.msg.endswith(".")
    assert refused.value.reply()["op"] == "error"


def test_subscribe_without_options_gets_the_defaults() -> None:
    """All feeds, with a snapshot of 50 levels a side."""
    request = parse_request('{"op":"subscribe","products":["BTC-USD"]}')
    assert isinstance(request, Subscribe)
    assert request.feeds == ("ticker", "trades", "book")
    assert request.want_snapshot
    assert (request.depth, request.levels) == (50, 50)
    assert request.on_slow == "conflate"


def test_subscribe_with_numbers_gives_them_by_product_and_feed() -> None:
    """One number stands for the one feed; a product may be named with its venue."""
    several = parse_request(resume('{"BTC-USD":{"book":2},"x/BTC-USD":{}}', '["ticker","book"]'))
    one = parse_request(resume('{"BTC-USD":5}', '["trades","trades"]'))
    assert isinstance(several, Subscribe)
    assert isinstance(one, Subscribe)
    assert several.resume_points() == {"BTC-USD": {"book": 2}, "x/BTC-USD": {}}
    assert one.resume_points() == {"BTC-USD": {"trades": 5}}


def test_key_is_never_shown_in_an_error() -> None:
    """Errors end up in logs."""
    with pytest.raises(ClientError) as refused:
        parse_request(json.dumps({"op": "auth", "key": "secret" * 200}))
    assert "secret" not in refused.value.msg


def test_messages_of_both_sides_are_listed_by_op() -> None:
    """What documents the protocol finds them all, each under its own `op`."""
    for messages in (CLIENT_MESSAGES, SERVER_MESSAGES):
        for op, model in messages.items():
            assert model.model_fields["op"].default == op
            assert model.model_json_schema()["title"] == model.__name__


@pytest.mark.parametrize("value", [7, "seven", None])
def test_ping_keeps_its_id(value: object) -> None:
    """Numbers, text and nothing are ids."""
    request = parse_request(json.dumps({"op": "ping", "id": value}))
    assert isinstance(request, Ping)
    assert request.id == value
