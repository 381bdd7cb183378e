"""Ingest and normalize around a real log, with restarts at bad moments."""

import asyncio
import json
from typing import Any

import nats
import pytest

from models.settings import Settings
from models.subjects import raw_subject, state_subject, ticks_subject
from streaming.broker.jetstream import JetStreamLog
from streaming.broker.log import FencedError, LogBehindError
from streaming.core.normalizer import ProductNormalizer
from streaming.core.outputs import Outputs
from streaming.ingest import Ingest
from streaming.normalize import Normalizer
from tests.chains import assert_linked
from tests.ingesting import (
    CONN,
    NOW,
    PRODUCT,
    STREAMS,
    consumed,
    ingest,
    lines_of,
    match,
    normalize,
)
from tests.recordings import level2_frames, needs_recordings, raw_lines
from tests.servers import eventually
from venues.coinbase.mapper import decode


async def test_raw_log_made_anew_is_not_taken_for_the_old_one(
    log: JetStreamLog, settings: Settings
) -> None:
    """Its first records would be passed over as known; the error says what to do."""
    await ingest(log, [(NOW, match(n)) for n in range(1, 6)], [PRODUCT])
    await normalize(log, consumed(log), graceful=True)
    client = await nats.connect(settings.nats_urls[0])
    await client.jetstream().delete_stream(STREAMS.raw)
    await client.close()
    await log.ensure_streams(settings)
    await ingest(log, [(NOW, match(6))], [PRODUCT])
    async with asyncio.TaskGroup() as tasks:
        normalizer = Normalizer(log, STREAMS, "coinbase", 0, decode, tasks)
        with pytest.raises(LogBehindError, match=r"MD_RAW ends at .*Delete what is in MD_TICKS"):
            await normalizer.run()


@needs_recordings
async def test_recording_through_the_log_equals_the_pure_core(log: JetStreamLog) -> None:
    """The canonical log of the recording is what the core gives, over crashes at any moment."""
    frames = list(level2_frames())
    expected = {}
    for product, raw in raw_lines(frames, CONN).items():
        core, out = ProductNormalizer("coinbase", product), Outputs()
        for line in raw:
            for event in decode(line, "BTC-USD"):
                core.apply(event, 1, out)
        expected[product] = out.lines
    async with asyncio.TaskGroup() as tasks:
        sink = Ingest(log, "coinbase", expected, 1, tasks)
        sink.opened(CONN)
        for part in range(0, len(frames), 1500):
            for time_us, frame in frames[part : part + 1500]:
                sink.frame(time_us, CONN, frame.encode())
            await sink.flush()
            reached = await log.end(STREAMS.ticks)

            async def more(reached: int = reached) -> bool:
                return await log.end(STREAMS.ticks) > reached

            await normalize(log, more)
    for product in expected:
        await normalize(log, consumed(log, product), graceful=True)
    for product, lines in expected.items():
        stored = await lines_of(log, STREAMS.ticks, ticks_subject(0, "coinbase", product))
        assert [line.decode() for line in stored] == lines
        assert_linked(stored)


async def test_restart_after_a_checkpoint_goes_on_without_a_seam(log: JetStreamLog) -> None:
    """A stopped normalizer leaves a checkpoint; the next one links to what was before."""
    await ingest(log, [(NOW, match(number)) for number in range(1, 4)], [PRODUCT])
    await normalize(log, consumed(log), graceful=True)
    saved = await log.last(STREAMS.state, state_subject(0, "coinbase", PRODUCT))
    assert saved is not None
    decoded: list[bytes] = []

    def counting(payload: bytes, _product: str) -> Any:
        decoded.append(payload)
        return decode(payload, "BTC-USD")

    # The same connection goes on, as it does when only the normalizer restarts.
    async with asyncio.TaskGroup() as tasks:
        sink = Ingest(log, "coinbase", [PRODUCT], 1, tasks)
        sink.opened(CONN)
        sink._numbers[CONN][PRODUCT] = 3
        sink.frame(NOW, CONN, match(4))
        await sink.flush()
    await normalize(log, consumed(log), decoder=counting)
    assert len(decoded) == 1
    stored = await lines_of(log, STREAMS.ticks, ticks_subject(0, "coinbase", PRODUCT))
    assert [json.loads(line)["fields"]["last_trade"]["id"] for line in stored] == [1, 2, 3, 4]
    assert assert_linked(stored) == 4


async def test_unreadable_checkpoint_is_ignored(log: JetStreamLog) -> None:
    """The log has everything: a broken checkpoint only costs time."""
    await ingest(log, [(NOW, match(number)) for number in range(1, 4)], [PRODUCT])
    await log.publish(state_subject(0, "coinbase", PRODUCT), b'{"v":')
    await normalize(log, consumed(log), graceful=True)
    stored = await lines_of(log, STREAMS.ticks, ticks_subject(0, "coinbase", PRODUCT))
    assert len(stored) == 3


async def two_normalizers(log: JetStreamLog) -> None:
    """Run two normalizers on one shard while trades come in, until one is refused."""
    async with asyncio.TaskGroup() as tasks:
        for _ in range(2):
            normalizer = Normalizer(log, STREAMS, "coinbase", 0, decode, tasks)
            tasks.create_task(normalizer.run())
        await eventually(consumed(log))
        for number in range(2, 200):
            line = b'{"ts_ingest":%d,"conn":"a-1","n":%d,"frame":%b}'
            await log.publish(
                raw_subject(0, "coinbase", PRODUCT), line % (NOW, number, match(number))
            )
        await asyncio.sleep(20)


async def test_second_normalizer_on_a_shard_is_refused(log: JetStreamLog) -> None:
    """The server refuses the zombie; the canonical log holds every tick once, in order."""
    await ingest(log, [(NOW, match(1))], [PRODUCT])
    with pytest.raises(ExceptionGroup) as raised:
        await two_normalizers(log)
    assert raised.group_contains(FencedError)
    stored = await lines_of(log, STREAMS.ticks, ticks_subject(0, "coinbase", PRODUCT))
    ids = [json.loads(line)["fields"]["last_trade"]["id"] for line in stored]
    assert ids == list(range(1, len(ids) + 1))


async def test_bad_input_is_kept_counted_and_hurts_nobody(
    log: JetStreamLog, settings: Settings
) -> None:
    """Each kind of bad frame is a dead letter with its reason; the good ones go through."""
    bad = {
        "malformed": b'{"type":"match","product_id":"BTC-USD",',
        "unexpected_product": match(1, "DOGE-USD"),
        "unknown_type": b'{"type":"surprise","product_id":"BTC-USD"}',
        "bad_number": match(99).replace(b'"0.10"', b'"0.-10000"'),
        "absurd_time": match(99).replace(b"2026-09-30", b"0001-01-01"),
    }
    good = [(NOW, match(number)) for number in range(1, 11)]
    pretty = (NOW, json.dumps(json.loads(match(11)), indent=1).encode())
    mixed = [*good[:5], *((NOW, frame) for frame in bad.values()), *good[5:], pretty]
    sink = await ingest(log, [*mixed, (NOW, b"\xff\xfe")], [PRODUCT])
    assert sink.dead.counts.values == {
        ("coinbase", "malformed"): 2,
        ("coinbase", "unexpected_product"): 1,
    }
    await normalize(log, consumed(log), graceful=True)
    stored = await lines_of(log, STREAMS.ticks, ticks_subject(0, "coinbase", PRODUCT))
    assert [json.loads(line)["fields"]["last_trade"]["id"] for line in stored] == [*range(1, 12)]
    for reason, frame in bad.items():
        letters = await lines_of(log, settings.streams.dead, f"market.dead.coinbase.{reason}")
        letter = json.loads(letters[0])
        assert letter["reason"] == reason
        assert letter["detail"]
        assert frame.decode() in letter["data"]


async def test_book_of_fifty_thousand_levels_a_side_passes(log: JetStreamLog) -> None:
    """A frame of several MB goes through both hops whole, and so does its checkpoint."""
    bids = [[f"{50000 - i / 100:.2f}", "0.12345678"] for i in range(50_000)]
    asks = [[f"{50001 + i / 100:.2f}", "0.12345678"] for i in range(50_000)]
    frame = json.dumps(
        {"type": "snapshot", "product_id": PRODUCT, "bids": bids, "asks": asks}
    ).encode()
    assert len(frame) > 2 * 1024**2
    await ingest(log, [(NOW, frame)], [PRODUCT])
    await normalize(log, consumed(log), graceful=True)
    (line,) = await lines_of(log, STREAMS.ticks, ticks_subject(0, "coinbase", PRODUCT))
    state = json.loads(line)["state"]
    assert [list(level) for level in state["bids"]] == bids
    assert [list(level) for level in state["asks"]] == asks
    await normalize(log, consumed(log), graceful=True)
