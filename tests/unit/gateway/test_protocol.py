"""What clients may say, and the error for everything else."""

import json

import pytest

from gateway.protocol import (
    CLIENT_MESSAGES,
    MAX_MESSAGE_BYTES,
    SERVER_MESSAGES,
    ClientError,
    Ping,
    Subscribe,
    parse_request,
)

MANY = ["A"] * 1001


def resume(from_seq: str, feeds: str = '["ticker"]') -> str:
    """Return a subscription with a `from_seq`."""
    return f'{{"op":"subscribe","products":["BTC-USD"],"feeds":{feeds},"from_seq":{from_seq}}}'


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
    ('{"op":"ping","id":1.5}', "bad_field"),
    ('{"op":"ping","id":"\\ud800"}', "bad_json"),
    ('{"op":"ping","\\ud800":1}', "bad_json"),
    ('{"op":"ping","id":NaN}', "bad_json"),
    ('{"op":"ping"} {"op":"ping"}', "bad_json"),
    ("{'op':'ping'}", "bad_json"),
    ("\ufeff{}", "bad_json"),
    ('{"op":"ping","id":' + "9" * 5000 + "}", "bad_json"),
    (json.dumps({"op": "ping", "x" * 1000: 1}), "unknown_field"),
    ('{"op":"unsubscribe","products":["*"],"depth":5}', "unknown_field"),
    ('{"op":"subscribe","products":["*"],"depth":null}', "bad_field"),
    ('{"op":"subscribe","products":["*"],"depth":true}', "bad_field"),
    ('{"op":"subscribe","products":["*"],"depth":"all"}', "bad_field"),
    ('{"op":"subscribe","products":["*"],"depth":1000001}', "bad_field"),
    ('{"op":"subscribe","products":["*"],"on_slow":"wait"}', "bad_field"),
    ('{"op":"subscribe","products":["*"],"on_slow":null}', "bad_field"),
    ('{"op":"subscribe","products":["*"],"max_rate":0}', "bad_field"),
    ('{"op":"subscribe","products":["*"],"max_rate":0.09}', "bad_field"),
    ('{"op":"subscribe","products":["*"],"max_rate":1001}', "bad_field"),
    ('{"op":"subscribe","products":["*"],"max_rate":-1}', "bad_field"),
    ('{"op":"subscribe","products":["*"],"max_rate":"5"}', "bad_field"),
    ('{"op":"subscribe","products":["*"],"max_rate":true}', "bad_field"),
    ('{"op":"subscribe","products":["*"],"max_rate":1e999}', "bad_json"),
    ('{"op":"subscribe","products":["*"],"epoch":5}', "bad_field"),
    (json.dumps({"op": "subscribe", "products": ["*"], "epoch": "e" * 65}), "bad_field"),
    ('{"op":"subscribe","products":["*"],"namespace":"market"}', "bad_field"),
    ('{"op":"subscribe","products":["*"],"namespace":"replay-"}', "bad_field"),
    ('{"op":"subscribe","products":["*"],"namespace":"replay-Monday"}', "bad_field"),
    ('{"op":"subscribe","products":["*"],"namespace":"replay-a.>"}', "bad_field"),
    ('{"op":"subscribe","products":["*"],"namespace":"replay-a\\n"}', "bad_field"),
    (
        json.dumps({"op": "subscribe", "products": ["*"], "namespace": "replay-" + "a" * 42}),
        "bad_field",
    ),
    ('{"op":"subscribe","products":["*"],"namespace":7}', "bad_field"),
    ('{"op":"unsubscribe","products":["*"],"namespace":"replay-monday"}', "unknown_field"),
    (resume("[1]"), "bad_field"),
    (resume("1234"), "bad_field"),
    (resume('{"BTC-USD":-1}'), "bad_field"),
    (resume('{"BTC-USD":1.0}'), "bad_field"),
    (resume('{"BTC-USD":"1"}'), "bad_field"),
    (resume('{"BTC-USD":null}'), "bad_field"),
    (resume('{"BTC-USD":true}'), "bad_field"),
    (resume('{"BTC-USD":9223372036854775808}'), "bad_field"),
    (resume('{"BTC-USD":{"level3":1}}'), "bad_field"),
    (resume('{"BTC-USD":{"ticker":"1"}}'), "bad_field"),
    (resume('{"BTC-USD":{"ticker":{"a":1}}}'), "bad_field"),
    (resume('{"BTC-USD":{"trades":1}}'), "bad_field"),
    (resume('{"ETH-USD":1}'), "bad_field"),
    (resume('{"coinbase/ETH-USD":1}'), "bad_field"),
    (resume('{"BTC-USD":1}', '["ticker","book"]'), "bad_field"),
    (resume('{"BTC-USD":1},"max_rate":1'), "bad_field"),
    ('{"op":"auth"}', "missing_field"),
    ('{"op":"auth","key":7}', "bad_field"),
    ('{"op":"auth","key":"k","user":"me"}', "unknown_field"),
    (json.dumps({"op": "auth", "key": "k" * 1025}), "bad_field"),
    (" " * (MAX_MESSAGE_BYTES + 1), "too_large"),
    (json.dumps({"op": "ping", "id": "é" * 33_000}, ensure_ascii=False), "too_large"),
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
