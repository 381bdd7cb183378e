"""Ingest with a venue that puts several products into a frame and numbers a connection's frames."""

import asyncio
import json
from typing import Any

from models.subjects import META_PRODUCT, raw_subject
from streaming.broker.jetstream import JetStreamLog
from streaming.ingest import Ingest
from tests.ingesting import lines_of
from tests.unit.coinbase_advanced.frames import NOW, envelope, ticker, tickers
from venues.coinbase_advanced.mapper import VENUE
from venues.coinbase_advanced.route import route

PRODUCTS = ("BTC-USD", "ETH-USD")


async def ingest(log: JetStreamLog, *frames: dict[str, Any] | bytes) -> Ingest:
    """Store frames as one connection would."""
    async with asyncio.TaskGroup() as tasks:
        sink = Ingest(log, VENUE, PRODUCTS, 1, tasks, route=route)
        sink.opened("a-1")
        for frame in frames:
            sink.frame(
                NOW, "a-1", frame if isinstance(frame, bytes) else json.dumps(frame).encode()
            )
        sink.closed(NOW, "a-1", "gone")
        await sink.flush()
    return sink


async def raw(log: JetStreamLog, product: str) -> list[Any]:
    """Return the product's raw lines but the last, which says that the connection ended."""
    lines = await lines_of(log, "MD_RAW", raw_subject(0, VENUE, product))
    *told, down = [json.loads(line) for line in lines]
    assert down["down"] == {"reason": "gone"}
    assert [one["n"] for one in (*told, down)] == list(range(1, len(told) + 2))
    return told


async def test_frame_of_several_products_is_stored_once_for_each(log: JetStreamLog) -> None:
    """Each product's log has the frame, verbatim; a heartbeat is in all, an ack in none of them."""
    both = tickers(ticker(), ticker("ETH-USD"), ticker(), number=0)
    ack = envelope("subscriptions", {"subscriptions": {}}, number=1)
    beat = envelope("heartbeats", {"heartbeat_counter": 9}, number=2)
    one = tickers(ticker("ETH-USD"), number=3)
    sink = await ingest(log, both, ack, beat, one)
    assert [line["frame"] for line in await raw(log, "BTC-USD")] == [both, beat]
    assert [line["frame"] for line in await raw(log, "ETH-USD")] == [both, beat, one]
    assert [line["frame"] for line in await raw(log, META_PRODUCT)] == [ack, beat]
    assert sink.counts.values == {
        (VENUE, "ticker"): 2, (VENUE, "subscriptions"): 1, (VENUE, "heartbeats"): 1,
    }  # fmt: skip


async def test_product_that_nobody_asked_for_hurts_no_other(log: JetStreamLog) -> None:
    """The rest of the frame is stored; the frame is a dead letter as well."""
    frame = tickers(ticker("DOGE-USD"), ticker(), number=0)
    sink = await ingest(log, frame, tickers(ticker("DOGE-USD"), number=1))
    assert [line["frame"] for line in await raw(log, "BTC-USD")] == [frame]
    assert sink.dead.counts.values == {(VENUE, "unexpected_product"): 2}
    assert sink.counts.values == {(VENUE, "ticker"): 1}


async def test_hole_in_the_count_is_noted_for_every_product(log: JetStreamLog) -> None:
    """Before the frame that showed it, with its bounds; also for who has had nothing yet."""
    frames = [tickers(ticker(), number=number) for number in (0, 3)]
    sink = await ingest(log, *frames)
    btc, eth = await raw(log, "BTC-USD"), await raw(log, "ETH-USD")
    assert [list(line)[-1] for line in btc] == ["frame", "bad", "frame"]
    assert [line["bad"] for line in eth] == [btc[1]["bad"]]
    assert (btc[1]["bad"]["after"], btc[1]["bad"]["before"]) == (0, 3)
    assert btc[1]["bad"]["detail"] == "sequence_num 1 to 2 of connection a-1 never came"
    assert sink.lost.values == {(VENUE,): 2}


async def test_repeated_and_late_frames_are_dead_letters(log: JetStreamLog) -> None:
    """They would put back what is past; a count that begins anew is followed, and told."""
    numbers = (0, 1, 1, 0, 2, 0, 1, 2)
    sink = await ingest(log, *(tickers(ticker(), number=number) for number in numbers))
    kept = [
        line["frame"]["sequence_num"] if "frame" in line else line["bad"]["detail"]
        for line in await raw(log, "BTC-USD")
    ]
    anew = "sequence_num of connection a-1 began anew at 1 after 2"
    assert kept == [0, 1, 2, anew, 1, 2]
    assert sink.dead.counts.values == {(VENUE, "repeated_frame"): 3}


async def test_malformed_frame_shows_as_a_hole(log: JetStreamLog) -> None:
    """Its number is lost with it: the product it names is told, and all with the next frame."""
    broken = json.dumps(tickers(ticker(), number=0)).encode()[:-3]
    sink = await ingest(log, broken, tickers(ticker(), number=1))
    reasons = [line["bad"]["reason"] for line in await raw(log, "BTC-USD") if "bad" in line]
    assert reasons == ["malformed", "connection_gap"]
    assert [line["bad"]["reason"] for line in await raw(log, "ETH-USD")] == ["connection_gap"]
    assert sink.dead.counts.values == {(VENUE, "malformed"): 1}
