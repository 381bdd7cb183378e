"""The log's contract, on a real server."""

import asyncio
import os
import time
from contextlib import aclosing

import pytest
import uvloop

from models.settings import Settings
from models.subjects import Streams
from streaming.broker.jetstream import JetStreamLog
from streaming.broker.log import (
    FencedError,
    LogMessage,
    LogRemadeError,
    LogUnavailableError,
    StreamMissingError,
)
from streaming.broker.outbox import POSITION_HEADER, Budget, Outbox
from tests.servers import PATIENCE_S, NatsServer, eventually, free_port, port_open

STREAMS = Streams()
SUBJECT = "market.ticks.0.test.BTC-USD"


async def take(log: JetStreamLog, count: int, *, after: int = 0) -> list[LogMessage]:
    """Read `count` messages of the ticks stream."""
    taken: list[LogMessage] = []
    async with (
        asyncio.timeout(PATIENCE_S),
        aclosing(log.read(STREAMS.ticks, ">", after=after)) as messages,
    ):
        async for message in messages:
            taken.append(message)
            if len(taken) == count:
                break
    return taken


async def test_read_after_a_position_gives_the_rest_in_order(log: JetStreamLog) -> None:
    """Reading starts right after the position that is given."""
    for number in range(5):
        await log.publish(SUBJECT, b"%d" % number)
    assert [message.payload for message in await take(log, 3, after=2)] == [b"2", b"3", b"4"]


async def test_publish_behind_another_writer_is_refused(log: JetStreamLog) -> None:
    """A zombie cannot write: the fence names what it expected and what it found."""
    first = await log.publish(SUBJECT, b"a", expected_last=0)
    await log.publish(SUBJECT, b"b", expected_last=first)
    with pytest.raises(FencedError) as refused:
        await log.publish(SUBJECT, b"zombie", expected_last=first)
    assert (refused.value.expected, refused.value.actual) == (first, first + 1)
    assert [message.payload for message in await take(log, 2)] == [b"a", b"b"]


async def test_publish_beyond_the_message_limit_arrives_whole(log: JetStreamLog) -> None:
    """A record of twice the server's limit is split and put together, headers included."""
    large = os.urandom(18 * 1024 * 1024)
    seq = await log.publish(
        SUBJECT, large, headers={"K": "whole"}, unfinished={"K": "part"}, expected_last=0
    )
    await log.publish(SUBJECT, b"next", expected_last=seq)
    whole, after = await take(log, 2)
    assert whole.payload == large
    assert whole.headers["K"] == "whole"
    assert whole.seq == seq
    assert after.payload == b"next"


async def test_unfinished_record_of_a_dead_writer_is_never_shown(log: JetStreamLog) -> None:
    """Only the first part of a record was stored: readers go on with the next record."""
    seq = await log.publish(SUBJECT, b"half", headers={"LF-Part": "dead-1/1/2"}, expected_last=0)
    await log.publish(SUBJECT, b"next", expected_last=seq)
    assert [message.payload for message in await take(log, 1)] == [b"next"]


async def test_publish_with_a_known_id_is_stored_once(log: JetStreamLog) -> None:
    """A repeated message id does not store twice."""
    await log.publish(SUBJECT, b"a", message_id="x")
    await log.publish(SUBJECT, b"a", message_id="x")
    await log.publish(SUBJECT, b"b", message_id="y")
    assert [message.payload for message in await take(log, 2)] == [b"a", b"b"]


async def test_last_of_a_subject_without_messages_is_none(log: JetStreamLog) -> None:
    """An unknown subject has no newest message; a known one gives it with its headers."""
    assert await log.last(STREAMS.ticks, SUBJECT) is None
    seq = await log.publish(SUBJECT, b"a", headers={"K": "v"})
    newest = await log.last(STREAMS.ticks, SUBJECT)
    assert newest is not None
    assert (newest.seq, newest.payload, newest.headers["K"]) == (seq, b"a", "v")
    assert await log.subjects(STREAMS.ticks, "market.ticks.>") == [SUBJECT]
    assert await log.end(STREAMS.ticks) == seq


async def fetch(
    log: JetStreamLog, *, after: int, limit: int = 100, max_bytes: int = 1 << 20
) -> list[tuple[int, bytes]]:
    """Fetch messages of the product in any shard, as (position, payload)."""
    pattern = SUBJECT.replace(".0.", ".*.")
    messages = await log.fetch(
        STREAMS.ticks, pattern, after=after, limit=limit, max_bytes=max_bytes
    )
    return [(message.seq, message.payload) for message in messages]


async def test_fetch_gives_a_stretch_in_order_within_its_bounds(log: JetStreamLog) -> None:
    """Only the product's messages, of all shards, from the position on; none at the end."""
    other = "market.ticks.0.test.ETH-USD"
    for number, subject in enumerate(
        [SUBJECT, other, SUBJECT.replace(".0.", ".3."), SUBJECT, SUBJECT]
    ):
        await log.publish(subject, b"%d" % number, headers={"K": "v"})
    assert await fetch(log, after=0) == [(1, b"0"), (3, b"2"), (4, b"3"), (5, b"4")]
    assert await fetch(log, after=1, limit=2) == [(3, b"2"), (4, b"3")]
    assert await fetch(log, after=3, max_bytes=1) == [(4, b"3")]
    assert await fetch(log, after=5) == []
    assert await fetch(log, after=500) == []
    (first,) = await log.fetch(STREAMS.ticks, SUBJECT, after=0, limit=1, max_bytes=1)
    assert (first.subject, first.headers["K"]) == (SUBJECT, "v")
    assert abs(first.time_us / 1e6 - time.time()) < 60
    assert first.time_us == (await take(log, 1))[0].time_us


async def test_fetch_gives_records_in_parts_whole_or_not_at_all(log: JetStreamLog) -> None:
    """A record of several parts is one message; from its middle on it is left out."""
    large = os.urandom(18 * 1024 * 1024)
    await log.publish(SUBJECT, b"before")
    seq = await log.publish(SUBJECT, large)
    assert seq == 4
    assert await fetch(log, after=1, limit=1) == [(4, large)]
    assert await fetch(log, after=1, max_bytes=1) == [(4, large)]
    assert await fetch(log, after=2) == []
    await log.publish(SUBJECT, b"half", headers={"LF-Part": "dead-1/1/2"})
    assert await fetch(log, after=4) == []
    await log.publish(SUBJECT, b"next")
    assert await fetch(log, after=2) == [(6, b"next")]


async def test_extent_tells_what_is_kept_and_which_stream_it_is(log: JetStreamLog) -> None:
    """Positions and bytes grow; only a stream that is made anew has another time of creation."""
    empty = await log.extent(STREAMS.ticks)
    assert (empty.last, empty.size_bytes) == (0, 0)
    for number in range(3):
        await log.publish(SUBJECT, b"%d" % number)
    full = await log.extent(STREAMS.ticks)
    assert (full.first, full.last, full.created_us) == (1, 3, empty.created_us)
    assert full.size_bytes > 3
    assert abs(full.created_us / 1e6 - time.time()) < 60


async def test_read_of_a_stream_that_is_made_anew_ends_with_an_error(
    log: JetStreamLog, settings: Settings
) -> None:
    """The positions read so far mean nothing in the new stream, so nobody may go on from them."""
    created_us = (await log.extent(STREAMS.ticks)).created_us

    async def read() -> None:
        async with aclosing(log.read(STREAMS.ticks, "market.ticks.>")) as messages:
            async for _ in messages:
                begun.set()

    begun = asyncio.Event()
    reading = asyncio.create_task(read())
    await log.publish(SUBJECT, b"old")
    await begun.wait()
    await log._js.delete_stream(STREAMS.ticks)
    await log.ensure_streams(settings)
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(LogRemadeError, match="MD_TICKS has been made anew"):
            await reading
    assert (await log.extent(STREAMS.ticks)).created_us > created_us


async def test_stream_that_is_not_there_is_told(log: JetStreamLog) -> None:
    """By name, whatever is asked of it; a reader of one that is not lasting hears it as well."""
    nowhere = "replay-nowhere_TICKS"
    for asking in (log.end(nowhere), log.extent(nowhere), log.subjects(nowhere, ">")):
        with pytest.raises(StreamMissingError, match=f"{nowhere} is not on the log"):
            await asking

    async def read() -> None:
        reading = log.read(STREAMS.ticks, "market.ticks.>", lasting=False)
        async with aclosing(reading) as messages:
            async for _ in messages:
                begun.set()

    begun = asyncio.Event()
    reading = asyncio.create_task(read())
    await log.publish(SUBJECT, b"one")
    await begun.wait()
    await log._js.delete_stream(STREAMS.ticks)
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(StreamMissingError, match="MD_TICKS"):
            await reading


@pytest.mark.parametrize("signal", ["kill", "stop"])
async def test_server_restart_loses_and_doubles_nothing(
    log: JetStreamLog, nats_server: NatsServer, signal: str
) -> None:
    """Fenced writing and reading go on over a server that is killed three times."""
    count, seen = 3000, list[bytes]()

    async def write() -> None:
        last = 0
        for number in range(count):
            last = await log.publish(SUBJECT, b"%d" % number, expected_last=last)

    async def read() -> None:
        async with aclosing(log.read(STREAMS.ticks, "market.ticks.>")) as messages:
            async for message in messages:
                seen.append(message.payload)
                if len(seen) == count:
                    return

    async def disturb() -> None:
        for part in (1, 2, 3):
            await eventually(lambda part=part: len(seen) > part * count // 5)  # type: ignore[misc]
            await asyncio.to_thread(nats_server.kill if signal == "kill" else nats_server.stop)
            nats_server.start()
            await port_open(nats_server.port)

    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(write())
        tasks.create_task(read())
        tasks.create_task(disturb())
    assert seen == [b"%d" % number for number in range(count)]


async def test_reader_recovers_from_a_deleted_consumer(log: JetStreamLog) -> None:
    """Missed heartbeats lead to a new consumer that goes on from the cursor."""
    seen: list[bytes] = []

    async def read() -> None:
        async with aclosing(log.read(STREAMS.ticks, "market.ticks.>")) as messages:
            async for message in messages:
                seen.append(message.payload)
                if len(seen) == 4:
                    return

    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(read())
        await log.publish(SUBJECT, b"0")
        await eventually(lambda: len(seen) == 1)
        for consumer in await log._js.consumers_info(STREAMS.ticks):
            await log._js.delete_consumer(STREAMS.ticks, consumer.name)
        for number in (1, 2, 3):
            await log.publish(SUBJECT, b"%d" % number)
    assert seen == [b"0", b"1", b"2", b"3"]


async def test_outbox_under_load_batches_in_order(log: JetStreamLog) -> None:
    """Many lines need few messages, keep their order and carry the consumed position."""
    stored: list[tuple[int, int]] = []
    async with asyncio.TaskGroup() as tasks:
        outbox = Outbox(
            log,
            SUBJECT,
            tasks,
            Budget(1 << 20),
            fenced_after=0,
            on_stored=lambda seq, position: stored.append((seq, position)),
        )
        for number in range(1000):
            outbox.put(b"%d" % number, position=number)
        await outbox.flush()
        assert outbox.idle
    messages = await take(log, len(stored))
    assert b"\n".join(message.payload for message in messages).split(b"\n") == [
        b"%d" % number for number in range(1000)
    ]
    assert len(messages) < 10
    assert messages[-1].headers[POSITION_HEADER] == "999"
    assert stored[-1] == (messages[-1].seq, 999)


async def test_budget_over_its_bound_makes_writers_wait(log: JetStreamLog) -> None:
    """`room` opens only after what waits has been stored."""
    budget = Budget(1000)
    async with asyncio.TaskGroup() as tasks:
        outbox = Outbox(log, SUBJECT, tasks, budget)
        for _ in range(20):
            outbox.put(b"x" * 100)
        waiting = asyncio.ensure_future(budget.room())
        await asyncio.sleep(0)
        assert not waiting.done()
        await asyncio.wait_for(waiting, PATIENCE_S)
    assert budget._used == 0


def test_close_while_the_server_is_away_ends_without_an_error(nats_server: NatsServer) -> None:
    """Even with something unsent, on the event loop of the workers."""

    async def lose() -> None:
        async with await JetStreamLog.connect([nats_server.url], name="test") as log:
            nats_server.kill()
            await eventually(lambda: not log.connected)
            publishing = asyncio.create_task(log.publish(SUBJECT, b"unsent"))
            await eventually(lambda: log._client.pending_data_size > 0)
            publishing.cancel()

    uvloop.run(lose())


async def test_server_that_never_comes_is_told_in_a_sentence() -> None:
    """Bounded in time, with the address, the cause, and what to do."""
    port = free_port()
    with pytest.raises(LogUnavailableError) as raised:
        await JetStreamLog.connect([f"nats://127.0.0.1:{port}"], name="test", wait_s=0.3)
    for part in (str(port), "Connect call failed", "NATS_URLS"):
        assert part in str(raised.value)
