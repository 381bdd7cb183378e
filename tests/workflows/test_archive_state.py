"""The normalizer's checkpoints in the lake: what the archive keeps of them, and what is found."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from models.checkpoint import Checkpoint, encode_checkpoint
from storage.errors import DamagedError
from storage.history import Past
from storage.layout import Hour, Lane
from storage.state import NoStateError, keep_state, kept_states, states_before
from tests.archiving import STREAMS, VENUE, Site, site
from tests.s3_faults import RANDOM

BEGIN = Hour(496_010)
HOUR_US = 3_600_000_000


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Site]:
    """Give an archive that archives the raw lane all the time."""
    async with site(tmp_path) as running:
        await running.start("archive/raw", stream="raw", flush_s=0.05)
        yield running


def checkpoint(product: str, raw_seq: int, overflow_from: int | None = None) -> Checkpoint:
    """Return a checkpoint as the normalizer writes them, as far as the archive looks into it."""
    cursors = {"trades": {"overflow_from": overflow_from}, "book": {"overflow_from": None}}
    return Checkpoint(VENUE, product, raw_seq, 7, [], msgspec.Raw(msgspec.json.encode(cursors)))


async def saved(running: Site, state: Checkpoint) -> None:
    """Put a checkpoint into MD_STATE."""
    payload, headers = encode_checkpoint(state)
    subject = f"market.state.0.{VENUE}.{state.product}"
    await running.log.publish(subject, payload, headers=headers)


async def raw(running: Site, product: str, hour: int, count: int = 1) -> int:
    """Put raw records of an hour into the log; return the position of the last one."""
    position = 0
    for number in range(count):
        time_us = BEGIN.start_us + hour * HOUR_US + number
        line = b'{"ts_ingest":%d,"conn":"a-1","n":%d,"frame":{}}' % (time_us, number + 1)
        position = await running.log.publish(f"market.raw.0.{VENUE}.{product}", line)
    return position


async def archived(running: Site) -> None:
    """Wait until the raw lane is archived up to its end."""
    handle = running.client.get_workflow_handle("archive/raw")
    await running.archived(handle, await running.log.end(STREAMS.raw))


async def kept(running: Site, hour: int) -> dict[str, int]:
    """Return the states of an hour."""
    return await kept_states(running.objects, await lane(running), Hour(BEGIN.number + hour))


async def lane(running: Site) -> Lane:
    """Return the raw lane."""
    return Lane("raw", VENUE, 0, (await running.log.extent(STREAMS.raw)).created_us)


def past(hour: int, *products: str) -> Past:
    """Return an hour of the raw stream."""
    begin_us = BEGIN.start_us + hour * HOUR_US
    return Past("raw", VENUE, begin_us, begin_us + HOUR_US, products or None)


async def test_each_hour_has_the_newest_state_that_can_stand_alone(running: Site) -> None:
    """Once an hour and product; not one that is ahead of the archive, or leans on what was."""
    await saved(running, checkpoint("BTC-USD", 4))
    await saved(running, checkpoint("ETH-USD", 9, overflow_from=6))
    await saved(running, checkpoint("SOL-USD", 99))
    await raw(running, "BTC-USD", 0, 5)
    await raw(running, "ETH-USD", 0, 5)
    await archived(running)
    assert await kept(running, 0) == {"BTC-USD": 4}
    await saved(running, checkpoint("BTC-USD", 9))
    await saved(running, checkpoint("ETH-USD", 10))
    await raw(running, "ETH-USD", 0)
    await archived(running)
    assert await kept(running, 0) == {"BTC-USD": 4, "ETH-USD": 10}
    await raw(running, "BTC-USD", 1, 3)
    await archived(running)
    assert await kept(running, 1) == {"BTC-USD": 9, "ETH-USD": 10}


async def test_states_come_through_a_store_that_fails_at_random(running: Site) -> None:
    """Tried again like any object, and right in the end."""
    running.store.shares = RANDOM
    for hour in range(3):
        await saved(running, checkpoint("BTC-USD", 3 * hour + 3))
        await raw(running, "BTC-USD", hour, 3)
        await archived(running)
    running.store.shares = {}
    for hour in range(3):
        assert await kept(running, hour) == {"BTC-USD": 3 * hour + 3}
    found = await states_before(running.lake, past(2))
    assert found == {"BTC-USD": checkpoint("BTC-USD", 6)}


async def test_product_that_is_new_in_the_range_begins_with_nothing(running: Site) -> None:
    """Its first record of all lies in the range, and everything before is there to prove it."""
    await saved(running, checkpoint("BTC-USD", 3))
    await raw(running, "BTC-USD", 0, 3)
    await archived(running)
    await raw(running, "BTC-USD", 1, 2)
    await raw(running, "ETH-USD", 1, 2)
    await archived(running)
    assert set(await states_before(running.lake, past(1))) == {"BTC-USD"}
    assert await states_before(running.lake, past(1, "ETH-USD")) == {}
    assert await states_before(running.lake, past(0)) == {}


async def test_product_without_a_state_is_refused_by_name(running: Site) -> None:
    """It had records before the range; the error tells from when on there is a state."""
    await raw(running, "BTC-USD", 0, 3)
    await archived(running)
    await saved(running, checkpoint("BTC-USD", 6))
    await raw(running, "BTC-USD", 1, 3)
    await archived(running)
    with pytest.raises(NoStateError, match="BTC-USD cannot be normalized") as raised:
        await states_before(running.lake, past(1))
    assert "begin at 2026-08-02T04:00:00Z or later" in str(raised.value)


async def test_product_after_what_was_never_archived_is_refused(running: Site) -> None:
    """Nobody knows what it was like before."""
    await raw(running, "BTC-USD", 0, 3)
    await running.log._js.purge_stream(STREAMS.raw, seq=3)
    await archived(running)
    with pytest.raises(NoStateError, match="not all archived"):
        await states_before(running.lake, past(0))


async def test_damaged_state_is_named(running: Site) -> None:
    """It is not taken for a product without a past."""
    await saved(running, checkpoint("BTC-USD", 3))
    await raw(running, "BTC-USD", 0, 3)
    await archived(running)
    await raw(running, "BTC-USD", 1, 3)
    await archived(running)
    paths = list((running.root / "lake" / "state").rglob("*.json"))
    assert len(paths) == 2
    for path in paths:
        path.write_bytes(b"{")
    with pytest.raises(DamagedError, match="BTC-USD"):
        await states_before(running.lake, past(1))


async def test_state_may_be_stored_again(running: Site) -> None:
    """A large one is compressed; the first one stays."""
    large = checkpoint("BTC-USD", 3)
    large.messages = [msgspec.Raw(b'"%b"' % (b"x" * 2_000_000))]
    payload, headers = encode_checkpoint(large)
    for _ in range(2):
        await keep_state(running.objects, await lane(running), BEGIN, payload, headers)
    assert await kept(running, 0) == {"BTC-USD": 3}
    (path,) = (running.root / "lake" / "state").rglob("*.json.zlib")
    assert path.stat().st_size < 100_000
