"""Frames that no venue should send, by name: each is JSON, or nearly."""

import json

MATCH = {
    "type": "match",
    "trade_id": 2,
    "sequence": 20,
    "side": "buy",
    "size": "0.10",
    "price": "100.50",
    "product_id": "BTC-USD",
    "time": "2026-09-30T02:03:44.123456Z",
}


def _with(**more: object) -> bytes:
    return json.dumps({**MATCH, **more}).encode()


def _nested(depth: int, opened: bytes, closed: bytes, inner: bytes = b"1") -> bytes:
    head = json.dumps(MATCH).encode()[:-1]
    return head + b',"more":' + opened * depth + inner + closed * depth + b"}"


FRAMES: dict[str, bytes] = {
    **{f"lists {depth} deep": _nested(depth, b"[", b"]") for depth in (900, 1000, 5000, 100_000)},
    **{f"objects {depth} deep": _nested(depth, b'{"a":', b"}") for depth in (960, 100_000)},
    "lists that never end": _nested(100_000, b"[", b""),
    "a trade id 5,000 deep": json.dumps(MATCH)
    .replace('"trade_id": 2', '"trade_id": ' + "[" * 5000 + "]" * 5000)
    .encode(),
    "a negative sequence": _with(sequence=-5),
    "a sequence of 2^63": _with(sequence=2**63),
    "a sequence of 300 digits": json.dumps(MATCH).replace("20,", "9" * 300 + ",").encode(),
    "a negative trade id": _with(trade_id=-1),
    "a trade id of 2^64": _with(trade_id=2**64),
    "a sequence with a fraction": _with(sequence=20.5),
    "a price of 10,000 digits": _with(price="9" * 10_000),
    "a price that is a number": _with(price=100.5),
    "a price that is NaN": _with(price="NaN"),
    "a price with an exponent": _with(price="1e400"),
    "a size of nothing": _with(size=""),
    "a side of a megabyte": _with(side="x" * 2**20),
    "a type of a megabyte": _with(type="x" * 2**20),
    "a type that is a list": _with(type=["match"]),
    "a type that is null": _with(type=None),
    "a time of year 0": _with(time="0000-01-01T00:00:00Z"),
    "a time of a megabyte": _with(time="2" * 2**20),
    "an unpaired surrogate": b'{"type":"match","product_id":"BTC-USD","side":"\\ud800"}',
    "octets that are no UTF-8": json.dumps(MATCH).replace("buy", "b\xffy").encode("latin-1"),
    "a nul": json.dumps(MATCH).replace("buy", "b\0y").encode(),
    "an empty object": b'{"product_id":"BTC-USD"}',
    "a book change that is a scalar": b'{"type":"l2update","product_id":"BTC-USD",'
    b'"time":"2026-09-30T02:03:44Z","changes":7}',
    "a book change of four": b'{"type":"l2update","product_id":"BTC-USD",'
    b'"time":"2026-09-30T02:03:44Z","changes":[["buy","1","1","1"]]}',
    "a snapshot with a level of one": b'{"type":"snapshot","product_id":"BTC-USD",'
    b'"bids":[["1"]],"asks":[]}',
}
