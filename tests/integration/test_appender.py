"""Appending as a stream's only writer: many at once, each once, whatever happens."""

import asyncio

import pytest

from models.settings import load_settings
from streaming.broker.appender import Appender, DoubtError
from streaming.broker.jetstream import JetStreamLog
from streaming.broker.pages import Pages
from streaming.broker.server import MAX_PAYLOAD_BYTES
from tests.servers import NatsServer, eventually, port_open

STREAM, SUBJECT = "MD_RAW", "market.raw.0.coinbase.BTC-USD"


async def numbers(log: JetStreamLog) -> list[int]:
    """Return what is stored."""
    pages = Pages(log, STREAM, "market.raw.>", after=0)
    return [int(one.payload) for one in await pages.upto(await log.end(STREAM))]


async def put(appender: Appender, number: int) -> int:
    """Append a number; its header says it, too."""
    told = {"N": str(number)}
    return await appender.append(SUBJECT, str(number).encode(), told, {"N": str(number - 1)})


async def test_many_are_on_their_way_at_once_and_come_in_order(log: JetStreamLog) -> None:
    """Positions are known before they are told; nothing is missing after the flush."""
    appender = Appender(log, STREAM)
    assert await appender.newest() is None
    assert [await put(appender, number) for number in range(1, 3001)] == list(range(1, 3001))
    await appender.flush()
    assert await numbers(log) == list(range(1, 3001))
    newest = await Appender(log, STREAM).newest()
    assert newest is not None
    assert (newest.seq, newest.headers["N"]) == (3000, "3000")


async def test_other_writer_is_noticed_and_nothing_is_doubled(log: JetStreamLog) -> None:
    """Both go on behind whatever is there: what is stored is one sequence."""
    one, other = Appender(log, STREAM), Appender(log, STREAM)
    last = {one: 0, other: 0}
    doubts = 0
    for number in range(40):
        appender = (one, other)[number % 2]
        try:
            for _ in range(3):
                last[appender] = await put(appender, last[appender] + 1)
            await appender.flush()
        except DoubtError:
            doubts += 1
            newest = await appender.newest()
            last[appender] = 0 if newest is None else int(newest.headers["N"])
    found = await numbers(log)
    assert doubts >= 10
    assert found == list(range(1, len(found) + 1))


async def test_restarted_server_costs_nothing(nats_server: NatsServer) -> None:
    """In doubt the newest message is looked at; each number is there once."""
    log = await JetStreamLog.connect([nats_server.url], name="test")
    async with log:
        await log.ensure_streams(load_settings())
        appender = Appender(log, STREAM)

        async def write(last: int) -> None:
            doubts = number = 0
            while number < last:
                try:
                    newest = await appender.newest()
                    number = 0 if newest is None else int(newest.headers["N"])
                    while number < last:
                        await put(appender, number + 1)
                        number += 1
                    await appender.flush()
                except DoubtError:
                    doubts += 1
                    number = 0
                assert doubts < 1000

        writing = asyncio.create_task(write(20_000))

        async def under_way() -> bool:
            return await log.end(STREAM) > 2000

        await eventually(under_way)
        nats_server.kill()
        nats_server.start()
        await port_open(nats_server.port)
        await writing
        assert await numbers(log) == list(range(1, 20_001))


async def test_record_beyond_the_servers_limit_is_split(log: JetStreamLog) -> None:
    """What comes first of it says how far everything was before."""
    appender = Appender(log, STREAM)
    await appender.newest()
    await put(appender, 1)
    large = b"2" * (MAX_PAYLOAD_BYTES + 1)
    assert await appender.append(SUBJECT, large, {"N": "2"}, {"N": "1"}) == 3
    await appender.flush()
    found = await Pages(log, STREAM, "market.raw.>", after=0).upto(3)
    assert [one.payload for one in found] == [b"1", large]
    await log._js.purge_stream(STREAM, keep=2)
    await log._js.delete_msg(STREAM, 3)
    newest = await Appender(log, STREAM).newest()
    assert newest is None or newest.headers["N"] == "1"


async def test_expired_newest_message_is_told_from_an_empty_stream(log: JetStreamLog) -> None:
    """There is nothing to go on behind, but something has been there."""
    appender = Appender(log, STREAM)
    await appender.newest()
    await put(appender, 1)
    await appender.flush()
    await log._js.purge_stream(STREAM)
    assert await appender.newest() is None
    assert appender.last == 1
    other = Appender(log, STREAM)
    await put(other, 1)
    with pytest.raises(DoubtError):
        await other.flush()
