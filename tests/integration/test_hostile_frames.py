"""Hostile frames through ingest and normalizer: the shard goes on, and each is a dead letter."""

import json
from collections import Counter

import pytest

from models.checkpoint import ENCODING_HEADER
from models.events import BookDelta, Event, Trade
from models.settings import Settings
from models.subjects import state_subject, ticks_subject
from streaming.broker.jetstream import JetStreamLog
from streaming.core.normalizer import UNPROCESSABLE, ProductNormalizer
from streaming.core.outputs import Outputs
from streaming.deadletters import MAX_DATA_BYTES
from streaming.ingest import MAX_KINDS
from tests.chains import assert_linked, statuses
from tests.hostile import FRAMES
from tests.ingesting import NOW, PRODUCT, STREAMS, consumed, ingest, lines_of, match, normalize
from venues.coinbase.mapper import decode

SHORT_LINE = 6 * MAX_DATA_BYTES + 2000
"""Bytes of the largest dead letter: its data with every character escaped, and a sentence."""


async def trade_ids(log: JetStreamLog) -> list[int]:
    """Return the trades of the canonical log, having checked its chain."""
    stored = await lines_of(log, STREAMS.ticks, ticks_subject(0, "coinbase", PRODUCT))
    assert_linked(stored)
    told = [json.loads(line) for line in stored]
    return [one["fields"]["last_trade"]["id"] for one in told if one["type"] == "tick"]


async def letters(log: JetStreamLog, settings: Settings) -> list[bytes]:
    """Return all dead letters."""
    dead = settings.streams.dead
    return [
        line
        for subject in await log.subjects(dead, "market.dead.>")
        for line in await lines_of(log, dead, subject)
    ]


async def test_no_frame_stops_a_shard(log: JetStreamLog, settings: Settings) -> None:
    """Each between two good ones; then a normalizer that begins anew, from the log alone."""
    frames = [(NOW, match(1))]
    for number, frame in enumerate(FRAMES.values(), 2):
        frames += [(NOW, frame), (NOW, match(number))]
    sink = await ingest(log, frames, [PRODUCT])
    await normalize(log, consumed(log))
    wanted = list(range(1, len(FRAMES) + 2))
    assert set(wanted) <= set(await trade_ids(log))
    found = await letters(log, settings)
    assert len(found) > len(FRAMES) // 2
    assert max(map(len, found)) < SHORT_LINE
    assert len(sink.counts.values) <= MAX_KINDS + 1
    before = await trade_ids(log)
    await normalize(log, consumed(log), graceful=True)
    assert await trade_ids(log) == before


async def test_kinds_of_frames_are_a_bounded_number_of_time_series(log: JetStreamLog) -> None:
    """Whatever words the venue uses, or somebody in its name."""
    kinds = [f"kind{number}" for number in range(300)] + ["x" * 10_000, "a b", "\u00e9"]
    frames = [(NOW, json.dumps({"type": kind, "product_id": PRODUCT}).encode()) for kind in kinds]
    sink = await ingest(log, frames, [PRODUCT])
    counted = sink.counts.values
    assert len(counted) == MAX_KINDS + 1
    assert sum(counted.values()) == len(kinds)
    assert counted["coinbase", "other"] == len(kinds) - MAX_KINDS


async def test_bad_lines_of_one_message_are_not_decoded_again_for_each_of_them(
    log: JetStreamLog, settings: Settings
) -> None:
    """Work grows with what came, not with its square; each line is a dead letter of its own."""
    decoded: Counter[bytes] = Counter()

    def counting(payload: bytes, product: str) -> list[Event]:
        for line in payload.split(b"\n"):
            decoded[line] += 1
        return list(decode(payload, product))

    bad = [match(number).replace(b'"0.10"', b'"x"') for number in range(1, 201)]
    await ingest(log, [*((NOW, frame) for frame in bad), (NOW, match(1))], [PRODUCT])
    await normalize(log, consumed(log), decoder=counting, graceful=True)
    assert max(decoded.values()) <= 2
    found = await lines_of(log, settings.streams.dead, "market.dead.coinbase.bad_number")
    assert len(found) == len(bad)


SNAPSHOT = b'{"type":"snapshot","product_id":"BTC-USD","bids":[["99","1"]],"asks":[["101","1"]]}'
CHANGE = (
    b'{"type":"l2update","product_id":"BTC-USD","time":"2026-09-30T02:03:44.123456Z",'
    b'"changes":[["buy","98","1"]]}'
)


@pytest.mark.parametrize(("kind", "feed"), [(Trade, "trades"), (BookDelta, "book")])
@pytest.mark.parametrize("is_half_done", [False, True], ids=["before it", "behind it"])
async def test_a_record_on_which_the_state_machine_fails_is_left_out_and_noticed(
    log: JetStreamLog,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[Event],
    feed: str,
    is_half_done: bool,  # noqa: FBT001  # pytest hands it on
) -> None:
    """The feed that may have lost something has a gap; the shard goes on."""
    plain, failed = ProductNormalizer._apply, list[Event]()

    def failing(self: ProductNormalizer, event: Event, position: int, out: Outputs) -> None:
        fails = type(event) is kind and event.n > 4 and not failed
        if not fails or is_half_done:
            plain(self, event, position, out)
        if fails:
            failed.append(event)
            raise ZeroDivisionError("as the test wants it")

    monkeypatch.setattr(ProductNormalizer, "_apply", failing)
    frames = [SNAPSHOT, match(1), CHANGE, match(2), match(3), CHANGE, match(4), CHANGE]
    await ingest(log, [(NOW, frame) for frame in frames], [PRODUCT])
    await normalize(log, consumed(log), graceful=True)
    stored = await lines_of(log, STREAMS.ticks, ticks_subject(0, "coinbase", PRODUCT))
    assert_linked(stored)
    gaps = {one.feed for one in statuses(stored) if one.state == "gap"}
    # A print that was emitted before the failure is not missing; of the book nobody can tell.
    assert gaps == ({"book"} if feed == "book" or is_half_done else {"book", "trades"})
    subject = f"market.dead.coinbase.{UNPROCESSABLE}"
    (letter,) = map(json.loads, await lines_of(log, settings.streams.dead, subject))
    assert letter["detail"].startswith("ZeroDivisionError: as the test wants it; MD_RAW ")
    assert json.loads(letter["data"])["n"] == failed[0].n


@pytest.mark.parametrize(
    "payload", [b"\x78\x9c\x00", b"no zlib", b"[" * 100_000, b'{"v":1}', b"\xff\xfe"]
)
@pytest.mark.parametrize("headers", [{}, {ENCODING_HEADER: "zlib"}], ids=["plain", "zlib"])
async def test_a_checkpoint_of_anything_costs_time_only(
    log: JetStreamLog, payload: bytes, headers: dict[str, str]
) -> None:
    """The log has everything."""
    await ingest(log, [(NOW, match(1))], [PRODUCT])
    await log.publish(state_subject(0, "coinbase", PRODUCT), payload, headers=headers)
    await normalize(log, consumed(log), graceful=True)
    assert await trade_ids(log) == [1]
