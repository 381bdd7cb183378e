"""The wire does what it is told to, and nothing else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from tests.chaos.wire import Wire, wired
from tests.servers import PATIENCE_S, eventually

GREETING = b"welcome\n"


@asynccontextmanager
async def echo() -> AsyncIterator[Wire]:
    """Give a wire to a server that greets and then says what it hears."""
    handling: set[asyncio.StreamWriter] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handling.add(writer)
        with suppress(OSError):
            writer.write(GREETING)
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        handling.discard(writer)

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        async with wired(server.sockets[0].getsockname()[1]) as wire:
            yield wire
        await eventually(lambda: not handling)


async def closed(writer: asyncio.StreamWriter) -> None:
    """Close a connection, whatever has become of it."""
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


async def opened(wire: Wire) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return a connection that has been greeted."""
    reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
    assert await reader.readline() == GREETING
    return reader, writer


async def ended(reader: asyncio.StreamReader) -> None:
    """Wait for the end of a connection."""
    with suppress(ConnectionError):
        assert await reader.read() == b""


@pytest.mark.parametrize("delay_s", [0.0, 0.05])
async def test_wire_passes_everything_on_in_order(delay_s: float) -> None:
    """More than any buffer holds; also while a delay begins and ends."""
    said = b"".join(b"%07d\n" % number for number in range(500_000))
    async with asyncio.timeout(PATIENCE_S), echo() as wire:
        reader, writer = await opened(wire)
        wire.delay_s = delay_s

        async def say() -> None:
            for at in range(0, len(said), 2**16):
                writer.write(said[at : at + 2**16])
                await writer.drain()
                if at > len(said) // 2:
                    wire.delay_s = 0.0

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(say())
            assert await reader.readexactly(len(said)) == said
        await closed(writer)


async def test_delay_is_added_on_each_way() -> None:
    """There and back takes it twice."""
    async with asyncio.timeout(PATIENCE_S), echo() as wire:
        reader, writer = await opened(wire)
        wire.delay_s = 0.1
        began_s = asyncio.get_running_loop().time()
        writer.write(b"how late?\n")
        assert await reader.readline() == b"how late?\n"
        assert asyncio.get_running_loop().time() - began_s >= 0.2
        await closed(writer)


async def test_cut_ends_every_connection_and_lets_new_ones_through() -> None:
    """Both ends notice."""
    async with asyncio.timeout(PATIENCE_S), echo() as wire:
        connections = [await opened(wire) for _ in range(3)]
        wire.cut()
        for reader, writer in connections:
            await ended(reader)
            await closed(writer)
        await eventually(lambda: wire.connections == 0)
        _, writer = await opened(wire)
        await closed(writer)


async def test_what_is_away_takes_no_connection_until_it_is_back() -> None:
    """A connection is opened and ended at once, as by a port with nobody behind it."""
    async with asyncio.timeout(PATIENCE_S), echo() as wire:
        reader, writer = await opened(wire)
        wire.leave()
        await ended(reader)
        await closed(writer)
        with suppress(ConnectionError):
            reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
            await ended(reader)
            await closed(writer)
        wire.back()
        _, writer = await opened(wire)
        await closed(writer)
