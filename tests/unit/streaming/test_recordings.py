"""The pure normalizer on real traffic."""

import json
from collections import Counter, defaultdict
from decimal import Decimal

from models.canonical import Snapshot, Tick, decode_message
from streaming.core.normalizer import ProductNormalizer
from streaming.core.outputs import Outputs
from tests.chains import assert_linked, statuses
from tests.recordings import full_frames, level2_frames, needs_recordings, raw_lines
from venues.coinbase.mapper import decode

pytestmark = needs_recordings


def normalize(product: str, lines: list[bytes]) -> Outputs:
    """Run one product's raw lines through a fresh normalizer."""
    core, out = ProductNormalizer("coinbase", product), Outputs()
    for position, line in enumerate(lines, start=1):
        for event in decode(line, "BTC-USD"):
            core.apply(event, position, out)
    return out


def test_level2_recording_gives_every_message_once_linked_and_no_gap() -> None:
    """Every ticker, match and l2update becomes one linked tick; nothing is called a gap."""
    kinds: Counter[str] = Counter()
    links = 0
    for product, lines in raw_lines(list(level2_frames())).items():
        out = normalize(product, lines)
        assert out.requests == []
        assert out.invalid == []
        assert statuses(out.lines) == []
        links += assert_linked(out.lines)
        kinds.update(f"{m.__class__.__name__} {m.feed}" for m in map(decode_message, out.lines))
    assert kinds == {
        "Tick book": 9719,
        "Tick ticker": 107,
        "Tick trades": 97,
        "Snapshot book": 10,
        "Snapshot trades": 10,
    }
    assert links == 9719 + 107 + 97


def test_level2_recording_books_equal_a_plain_replay() -> None:
    """The final book of every product equals a dictionary that replays the file."""
    plain: dict[str, dict[str, dict[Decimal, Decimal]]] = defaultdict(
        lambda: {"buy": {}, "sell": {}}
    )
    for _, text in level2_frames():
        frame = json.loads(text)
        if frame["type"] == "snapshot":
            for side, name in (("buy", "bids"), ("sell", "asks")):
                levels = {Decimal(price): Decimal(size) for price, size in frame[name]}
                plain[frame["product_id"]][side] = levels
        elif frame["type"] == "l2update":
            for side, price, size in frame["changes"]:
                levels = plain[frame["product_id"]][side]
                levels[Decimal(price)] = Decimal(size)
                if not levels[Decimal(price)]:
                    del levels[Decimal(price)]
    for product, lines in raw_lines(list(level2_frames())).items():
        core, out = ProductNormalizer("coinbase", product), Outputs()
        for line in lines:
            for event in decode(line, "BTC-USD"):
                core.apply(event, 1, out)
        book = core._book.book
        assert {Decimal(p): Decimal(q) for p, q in book.bids()} == plain[product]["buy"]
        assert {Decimal(p): Decimal(q) for p, q in book.asks()} == plain[product]["sell"]


def test_prices_keep_every_digit_of_the_venue() -> None:
    """A price or size in a tick has exactly the text that the venue sent."""
    sent = {
        (frame["product_id"], frame["sequence"]): (frame["price"], frame["last_size"])
        for frame in (json.loads(text) for _, text in level2_frames())
        if frame["type"] == "ticker"
    }
    for product, lines in raw_lines(list(level2_frames())).items():
        for line in normalize(product, lines).lines:
            if '"feed":"ticker"' in line:
                read = json.loads(line, parse_float=str, parse_int=str)
                trade = read["fields"]["last_trade"]
                assert (trade["px"], trade["qty"]) == sent[product, int(read["seq"])]


def test_trade_side_is_the_takers_on_both_feeds() -> None:
    """Ticker and trades tell the same side for the same trade, though the venue does not."""
    compared = 0
    for product, lines in raw_lines(list(level2_frames())).items():
        sides: dict[int, set[str]] = defaultdict(set)
        for message in map(decode_message, normalize(product, lines).lines):
            fields = message.state if isinstance(message, Snapshot) else None
            fields = message.fields if isinstance(message, Tick) else fields
            if fields is not None and fields.last_trade is not None:
                sides[fields.last_trade.id].add(fields.last_trade.side)
                compared += 1
        assert all(len(told) == 1 for told in sides.values())
    assert compared == 107 + 97 + 10


def full_lines(skip: int | None = None) -> dict[str, list[bytes]]:
    """Return the full sample's raw lines, numbered without the line that is left out."""
    frames = [
        (1_498_389_795_000_000 + number, frame)
        for number, frame in enumerate(full_frames())
        if number != skip
    ]
    return raw_lines(frames)


def test_full_sample_as_recorded_raises_no_gap() -> None:
    """Contiguous sequences are no gap."""
    for product, lines in full_lines().items():
        out = normalize(product, lines)
        assert (out.gaps, out.requests, statuses(out.lines)) == (0, [], [])


def removable() -> list[int]:
    """Return the sequenced lines that are neither their product's first nor last."""
    by_product: dict[str, list[int]] = defaultdict(list)
    for number, text in enumerate(full_frames()):
        frame = json.loads(text)
        if frame["type"] != "heartbeat" and "sequence" in frame:
            by_product[frame["product_id"]].append(number)
    return [number for numbers in by_product.values() for number in numbers[1:-1]]


def test_full_sample_without_any_one_line_raises_exactly_one_gap() -> None:
    """Each lost message of the full channel is one gap with the right bounds."""
    lost = removable()
    assert len(lost) >= 10
    for number in lost:
        frame = json.loads(full_frames()[number])
        outs = {product: normalize(product, lines) for product, lines in full_lines(number).items()}
        assert sum(out.gaps for out in outs.values()) == 1, frame
        (request,) = outs[frame["product_id"]].requests
        assert (request.feed, request.reason) == ("trades", "sequence")
        assert (request.after, request.before) == (frame["sequence"] - 1, frame["sequence"] + 1)
