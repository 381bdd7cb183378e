"""`ledgerflux watch` against a real gateway, and against one that lies."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.server import ServerConnection, serve

from client.errors import GatewayRefusedError, GatewayUnavailableError
from client.subscriber import Subscriber
from models.canonical import Tick
from models.settings import Settings
from streaming.broker.jetstream import JetStreamLog
from tests.clients import proxied
from tests.commands import run_watch
from tests.gateways import PRODUCT, SUBJECT, running_gateway, snapshot, status, tick
from tests.servers import eventually, free_port


@asynccontextmanager
async def lying_gateway(*frames: bytes) -> AsyncIterator[str]:
    """Serve these frames to everybody, then stay silent; give its address."""

    async def handle(connection: ServerConnection) -> None:
        await connection.recv()
        for frame in frames:
            await connection.send(frame.decode())
        await connection.wait_closed()

    async with serve(handle, "127.0.0.1", 0) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws"


def framed(op: str, line: bytes) -> bytes:
    """Return a server message."""
    return b'{"op":"%b","data":%b}' % (op.encode(), line)


async def test_watch_json_prints_every_line_verbatim(log: JetStreamLog, settings: Settings) -> None:
    """The output is the canonical lines and nothing else; the summary is on stderr."""
    async with running_gateway(settings) as gateway:

        async def watched() -> bool:
            return await gateway.metric("md_gateway_clients") > 0

        async def publish() -> None:
            await eventually(watched)
            for seq in range(1, 21):
                await log.publish(SUBJECT, tick(seq))

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(publish())
            arguments = (PRODUCT, "--feeds", "ticker", "--json", "--duration", "2")
            code, out, said = await run_watch(*arguments, "--url", gateway.url)
    lines = out.splitlines()
    assert code == 0
    assert len(lines) > 1
    start = 21 - len(lines)
    assert lines[1:] == [tick(seq) for seq in range(start + 1, 21)]
    assert f"{len(lines) - 1} links verified, 0 broken" in said


async def test_watch_json_over_cuts_prints_every_line_once(
    log: JetStreamLog, settings: Settings
) -> None:
    """A lost connection leaves no mark in the output."""
    async with running_gateway(settings) as gateway, proxied(gateway.port) as proxy:

        async def publish() -> None:
            await eventually(lambda: proxy.most)
            for seq in range(1, 401):
                await log.publish(SUBJECT, tick(seq))
                if seq % 100 == 0:
                    proxy.cut()
                await asyncio.sleep(0.005)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(publish())
            arguments = (PRODUCT, "--feeds", "ticker", "--json", "--duration", "5")
            code, out, said = await run_watch(*arguments, "--url", proxy.url)
    lines = out.splitlines()
    assert code == 0
    assert said.count("lost the gateway") >= 3
    start = 401 - len(lines)
    assert start < 50
    assert lines[1:] == [tick(seq) for seq in range(start + 1, 401)]


async def test_watch_piped_draws_a_table_without_colours(
    log: JetStreamLog, settings: Settings
) -> None:
    """A pipe gets text: prices with every digit, levels, state, and the summary."""
    await log.publish(SUBJECT, tick(1) + b"\n" + tick(2, 0, feed="book") + b"\n" + status("gap"))
    async with running_gateway(settings) as gateway:
        code, out, _ = await run_watch(PRODUCT, "--duration", "1.5", "--url", gateway.url)
    shown = out.decode()
    assert code == 0
    assert "\x1b" not in shown
    assert PRODUCT in shown
    assert "0 broken" in shown


@pytest.mark.parametrize("how", [[], ["--json"]])
async def test_watch_of_a_broken_chain_exits_2_with_a_sentence(how: list[str]) -> None:
    """A missing message is an error, not a line in a table."""
    frames = [framed("snapshot", snapshot(5, "{}")), framed("incr", tick(8, 7))]
    async with lying_gateway(*frames) as url:
        code, out, said = await run_watch(*how, "--duration", "1", "--url", url)
    assert code == 2
    # A table has its notices below it.
    shown = said if how else " ".join(out.decode().split())
    assert "BTC-USD ticker is broken at seq 8: prev_seq 5 was due and 7 came" in shown


async def test_watch_without_a_gateway_waits_then_says_what_to_do() -> None:
    """It says that it waits, and gives up after the time it was given."""
    url = f"ws://127.0.0.1:{free_port()}/ws"
    code, out, said = await run_watch("--json", "--wait", "0.3", "--url", url)
    assert (code, out) == (1, b"")
    assert "waiting for a gateway" in said
    assert "ledgerflux up" in said


async def test_watch_of_an_unknown_product_exits_1(settings: Settings) -> None:
    """The gateway's own sentence reaches the person."""
    async with running_gateway(settings) as gateway:
        code, _, said = await run_watch("NOPE-USD", "--json", "--url", gateway.url)
    assert code == 1
    assert "unknown_product" in said


async def test_watch_of_an_unknown_feed_is_refused() -> None:
    """A wrong option is told before anything is done."""
    code, _, said = await run_watch("--feeds", "level3")
    assert code == 2
    assert "ticker" in said


async def test_subscriber_decodes_only_what_is_looked_at() -> None:
    """Lines stay verbatim; the typed message has exact numbers."""
    async with lying_gateway(framed("snapshot", snapshot(0, "{}")), framed("incr", tick(1))) as url:
        async for update in Subscriber(url, [PRODUCT]):
            if update.op == "incr":
                break
    assert update.line == tick(1)
    assert isinstance(update.message, Tick)
    assert str(update.message.fields.last_trade.px) == "1.50"  # type: ignore[union-attr]


async def test_subscriber_that_is_refused_does_not_try_again() -> None:
    """An error in answer to the subscription is final."""
    async with lying_gateway(b'{"op":"error","code":"unknown_product","msg":"no."}') as url:
        with pytest.raises(GatewayRefusedError) as refused:
            await anext(aiter(Subscriber(url)))
    assert refused.value.code == "unknown_product"


async def test_subscriber_without_a_gateway_gives_up_in_time() -> None:
    """`give_up_after_s` bounds the wait; the error names the address."""
    url = f"ws://127.0.0.1:{free_port()}/ws"
    with pytest.raises(GatewayUnavailableError, match=url):
        await anext(aiter(Subscriber(url, give_up_after_s=0.2)))
