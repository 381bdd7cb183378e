"""What clients may say, and the error for everything else."""

import json

import pytest

from gateway.protocol import MAX_MESSAGE_BYTES, ClientError, Ping, Subscribe, parse_request

MANY = ["A"] * 1001

BAD = [
    ("", "bad_json"),
    ("{", "bad_json"),
    ("subscribe", "bad_json"),
    ("null", "bad_json"),
    ("[]", "bad_json"),
    ('"subscribe"', "bad_json"),
    ("[" * 10_000, "bad_json"),
    ("{}", "missing_field"),
    ('{"products":["BTC-USD"]}', "missing_field"),
    ('{"op":"subscribe"}', "missing_field"),
    ('{"op":"unsubscribe"}', "missing_field"),
    ('{"op":"nonsense"}', "unknown_op"),
    ('{"op":7}', "unknown_op"),
    ('{"op":null}', "unknown_op"),
    ('{"op":["subscribe"]}', "unknown_op"),
    ('{"op":{"a":1}}', "unknown_op"),
    ('{"op":"subscribe","products":"BTC-USD"}', "bad_field"),
    ('{"op":"subscribe","products":[]}', "bad_field"),
    ('{"op":"subscribe","products":[7]}', "bad_field"),
    ('{"op":"subscribe","products":[""]}', "bad_field"),
    ('{"op":"subscribe","products":[null]}', "bad_field"),
    ('{"op":"subscribe","products":{"a":1}}', "bad_field"),
    (json.dumps({"op": "subscribe", "products": ["A" * 65]}), "bad_field"),
    (json.dumps({"op": "subscribe", "products": MANY}), "too_many_products"),
    (json.dumps({"op": "unsubscribe", "products": MANY}), "too_many_products"),
    ('{"op":"subscribe","products":["*"],"feeds":["level3"]}', "bad_field"),
    ('{"op":"subscribe","products":["*"],"feeds":[]}', "bad_field"),
    ('{"op":"subscribe","products":["*"],"feeds":"ticker"}', "bad_field"),
    ('{"op":"subscribe","products":["*"],"want_snapshot":"yes"}', "bad_field"),
    ('{"op":"subscribe","products":["*"],"depth":0}', "bad_field"),
    ('{"op":"subscribe","products":["*"],"depth":-1}', "bad_field"),
    ('{"op":"subscribe","products":["*"],"depth":"50"}', "bad_field"),
    ('{"op":"subscribe","products":["*"],"depth":1.5}', "bad_field"),
    ('{"op":"subscribe","products":["*"],"feed":"ticker"}', "unknown_field"),
    ('{"op":"ping","id":[1]}', "bad_field"),
    ('{"op":"ping","id":true}', "bad_field"),
    (json.dumps({"op": "ping", "id": "x" * 257}), "bad_field"),
    ('{"op":"ping","colour":"red"}', "unknown_field"),
    (" " * (MAX_MESSAGE_BYTES + 1), "too_large"),
]
"""Messages that cannot be acted on, each with its code."""


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
    """All feeds, with a snapshot of the whole book."""
    request = parse_request('{"op":"subscribe","products":["BTC-USD"]}')
    assert isinstance(request, Subscribe)
    assert request.feeds == ("ticker", "trades", "book")
    assert request.want_snapshot
    assert request.depth is None


@pytest.mark.parametrize("value", [7, "seven", None])
def test_ping_keeps_its_id(value: object) -> None:
    """Numbers, text and nothing are ids."""
    request = parse_request(json.dumps({"op": "ping", "id": value}))
    assert isinstance(request, Ping)
    assert request.id == value
