"""What a newcomer waits for: a snapshot of a deep book, or the 10,000 ticks that it missed."""

import json
import random
import time
from contextlib import closing
from statistics import median

from bench.gateway_load import PRODUCT, Connection, Publisher, text_frames, verify_chain
from bench.gateway_stage import Stage, stage

BOOK_PRODUCT = "ETH-USD"
LEVELS = 5000
"""Levels a side of the book whose snapshot is asked for."""

DEPTH = 50
"""Levels a side that a subscriber gets if it asks for no other number."""

SUBSCRIBES = 200

MISSED = 10_000
KEPT = 12_000
"""Ticks in the log: a resume does not begin at its beginning."""

MESSAGE_TICKS = 20
RESUMES = 9

_BOOK = '{"v":1,"type":"%s","venue":"coinbase","product":"%s","feed":"book","seq":%d,%s}'


def gateway_snapshot() -> dict[str, float]:
    """Change a deep book, then subscribe to it, and time the snapshot, again and again."""
    products = f"{PRODUCT},{BOOK_PRODUCT}"
    with stage(COINBASE_PRODUCTS=products) as run, closing(Connection(run.port)) as witness:
        witness.subscribe(products=[BOOK_PRODUCT], feeds=["book"], want_snapshot=False)
        book = Book(run.publisher)
        witness.receive()
        seconds = [_time_snapshot(run, book) for _ in range(SUBSCRIBES)]
    return {"snapshot_on_subscribe_p50_ms": median(seconds) * 1000}


class Book:
    """A deep book in the log. Attributes: seq, of its newest message."""

    def __init__(self, publisher: Publisher) -> None:
        self.seq = 1
        self._publisher = publisher
        self._random = random.Random(1)
        state = {
            "bids": [[f"{30_000 - level / 100:.2f}", "1.5"] for level in range(LEVELS)],
            "asks": [[f"{30_001 + level / 100:.2f}", "1.5"] for level in range(LEVELS)],
        }
        rest = f'"ts_snapshot":1,"reason":"subscribe","resync_id":null,"state":{json.dumps(state)}'
        self._publish("snapshot", rest)

    def change(self) -> None:
        """Publish one tick that changes the size of one level."""
        price = 30_000 - self._random.randrange(LEVELS) / 100
        self.seq += 1
        self._publish(
            "tick",
            f'"prev_seq":{self.seq - 1},"ts_event":1,"ts_ingest":1,'
            f'"fields":{{"changes":[["bid","{price:.2f}","{self._random.randrange(1, 9)}.25"]]}}',
        )

    def _publish(self, kind: str, rest: str) -> None:
        line = _BOOK % (kind, BOOK_PRODUCT, self.seq, rest)
        self._publisher.publish(line.encode(), BOOK_PRODUCT)


def _time_snapshot(run: Stage, book: Book) -> float:
    """Return the seconds from asking to having the snapshot."""
    with closing(Connection(run.port)) as connection:
        book.change()
        began = time.perf_counter()
        connection.subscribe(products=[BOOK_PRODUCT], feeds=["book"], depth=DEPTH)
        message = json.loads(connection.receive())
        taken = time.perf_counter() - began
        assert message["op"] == "snapshot", message
        assert len(message["data"]["state"]["bids"]) == DEPTH
        seq = message["data"]["seq"]
        while seq < book.seq:
            message = json.loads(connection.receive())
            assert message["data"]["prev_seq"] == seq, message
            seq = message["data"]["seq"]
    return taken


def gateway_resume() -> dict[str, float]:
    """Resume 10,000 ticks back, from the gateway's memory and from the log."""
    with stage() as run:
        ring = _resumes(run, "ring")
    with stage(GATEWAY_RING_BYTES="0") as run:
        log = _resumes(run, "log")
    return {"from_seq_10k_ring_ms": ring * 1000, "from_seq_10k_log_ms": log * 1000}


def _resumes(run: Stage, source: str) -> float:
    """Return the median of the seconds that a resume takes."""
    with closing(Connection(run.port)) as witness:
        witness.subscribe(products=[PRODUCT], feeds=["ticker"], want_snapshot=False)
        for _ in range(KEPT // MESSAGE_TICKS):
            run.ticks.publish(MESSAGE_TICKS)
        witness.take(KEPT * run.ticks.frame_bytes)
    return median(_resume(run, source) for _ in range(RESUMES))


def _resume(run: Stage, source: str) -> float:
    """Return the seconds from asking to having all that was missed."""
    from_seq = run.ticks.seq - MISSED
    with closing(Connection(run.port)) as connection:
        began = time.perf_counter()
        connection.subscribe(products=[PRODUCT], feeds=["ticker"], from_seq={PRODUCT: from_seq})
        answer = json.loads(connection.receive())
        missed = connection.take(MISSED * run.ticks.frame_bytes)
        taken = time.perf_counter() - began
    assert (answer["op"], answer["recovered"]) == ("resumed", True), answer
    assert answer["source"] == source, answer
    verify_chain(text_frames(missed), from_seq + 1, run.ticks.seq)
    return taken
