"""permessage-deflate over real sockets: offers and answers, both directions, bombs."""

import json
import zlib
from collections.abc import AsyncIterator

import pytest
from websockets.asyncio.client import connect
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from models.settings import Settings
from streaming.broker.jetstream import JetStreamLog
from tests.gateways import PRODUCT, SUBJECT, RunningGateway, receive, running_gateway, tick
from tests.raw_websocket import CONTINUATION, TEXT, RawFrame, raw_websocket
from tests.servers import eventually

SUBSCRIBE = json.dumps({"op": "subscribe", "products": [PRODUCT], "feeds": ["ticker"]}).encode()
RSV1 = 4
OFFER = {"Sec-WebSocket-Extensions": "permessage-deflate"}


@pytest.fixture
async def gateway(settings: Settings, log: JetStreamLog) -> AsyncIterator[RunningGateway]:
    """Give a gateway that has one tick."""
    await log.publish(SUBJECT, tick(1))
    async with running_gateway(settings) as running:
        yield running


def packed(payload: bytes) -> bytes:
    """Compress a message as a client does."""
    packer = zlib.compressobj(wbits=-15)
    return (packer.compress(payload) + packer.flush(zlib.Z_SYNC_FLUSH)).removesuffix(
        b"\x00\x00\xff\xff"
    )


def read(frame: RawFrame, window_bits: int) -> dict[str, object]:
    """Return the message of a frame, compressed or not."""
    payload = frame.payload
    if frame.rsv:
        inflate = zlib.decompressobj(-window_bits)
        payload = inflate.decompress(payload + b"\x00\x00\xff\xff")
    message: dict[str, object] = json.loads(payload)
    return message


@pytest.mark.parametrize(
    ("offer", "answer", "window_bits"),
    [
        ("permessage-deflate", {"server_no_context_takeover", "client_no_context_takeover"}, 15),
        (
            "permessage-deflate; client_max_window_bits",
            {"server_no_context_takeover", "client_no_context_takeover"},
            15,
        ),
        (
            "permessage-deflate; server_max_window_bits=9; client_max_window_bits=10",
            {
                "server_no_context_takeover",
                "client_no_context_takeover",
                "server_max_window_bits=9",
                "client_max_window_bits=10",
            },
            9,
        ),
        (
            "permessage-deflate; server_max_window_bits=8, permessage-deflate",
            {"server_no_context_takeover", "client_no_context_takeover"},
            15,
        ),
    ],
)
async def test_offer_is_accepted_and_data_comes_compressed(
    gateway: RunningGateway, offer: str, answer: set[str], window_bits: int
) -> None:
    """Each message by itself, within the window that was agreed on."""
    async with raw_websocket(gateway.url, {"Sec-WebSocket-Extensions": offer}) as client:
        name, *parameters = client.headers["sec-websocket-extensions"].split("; ")
        assert (name, set(parameters)) == ("permessage-deflate", answer)
        await client.send(TEXT, SUBSCRIBE)
        frames = [await client.receive() for _ in range(2)]
        assert [read(frame, window_bits)["op"] for frame in frames] == ["subscribed", "snapshot"]
        assert frames[1].rsv == RSV1


@pytest.mark.parametrize(
    "offer", ["", "permessage-deflate; server_max_window_bits=8", "permessage-deflate; nonsense"]
)
async def test_without_an_offer_that_can_be_met_data_comes_plain(
    gateway: RunningGateway, offer: str
) -> None:
    """The connection is served all the same."""
    headers = {"Sec-WebSocket-Extensions": offer} if offer else {}
    async with raw_websocket(gateway.url, headers) as client:
        assert "sec-websocket-extensions" not in client.headers
        await client.send(TEXT, SUBSCRIBE)
        frames = [await client.receive() for _ in range(2)]
        assert [json.loads(frame.payload)["op"] for frame in frames] == ["subscribed", "snapshot"]
        assert {frame.rsv for frame in frames} == {0}


async def test_clients_with_and_without_compression_share_a_stream(
    gateway: RunningGateway, log: JetStreamLog
) -> None:
    """Both get every message, in order, and the compressed one fewer bytes."""
    async with raw_websocket(gateway.url, OFFER) as small, raw_websocket(gateway.url) as plain:
        for client in (small, plain):
            await client.send(TEXT, SUBSCRIBE)
            assert [read(await client.receive(), 15)["op"] for _ in range(2)]
        for first in range(2, 202, 20):
            lines = [tick(seq) for seq in range(first, first + 20)]
            await log.publish(SUBJECT, b"\n".join(lines))
        got = {client: [await client.receive() for _ in range(200)] for client in (small, plain)}
    messages = [[read(frame, 15) for frame in frames] for frames in got.values()]
    assert messages[0] == messages[1]
    sizes = [sum(len(frame.payload) for frame in frames) for frames in got.values()]
    assert sizes[0] < 0.8 * sizes[1]


async def test_compressed_message_of_a_client_is_read(gateway: RunningGateway) -> None:
    """Whole and in fragments, and a plain one in between."""
    async with raw_websocket(gateway.url, OFFER) as client:
        for number in range(3):
            payload = packed(b'{"op":"ping","id":%d}' % number)
            if number == 1:
                await client.send(TEXT, b'{"op":"ping","id":1}')
            elif number == 2:
                await client.send(TEXT, payload[:5], fin=False, rsv=RSV1)
                await client.send(CONTINUATION, payload[5:])
            else:
                await client.send(TEXT, payload, rsv=RSV1)
            assert read(await client.receive(), 15)["id"] == number


@pytest.mark.parametrize("fragments", [1, 3])
async def test_bomb_closes_with_1009_before_it_goes_off(
    gateway: RunningGateway, fragments: int
) -> None:
    """100 KB that would be 100 MB: no more than the limit is ever unpacked."""
    bomb = packed(b"x" * 100 * 1024**2)
    assert len(bomb) < 200_000
    step = len(bomb) // fragments + 1
    before = await gateway.metric("process_resident_memory_bytes")
    async with raw_websocket(gateway.url, OFFER) as client:
        for number in range(fragments):
            await client.send(
                CONTINUATION if number else TEXT,
                bomb[number * step : (number + 1) * step],
                fin=number == fragments - 1,
                rsv=0 if number else RSV1,
            )
        assert (await client.closed())[0] == 1009
    assert await gateway.metric("process_resident_memory_bytes") - before < 30 * 1024**2


@pytest.mark.parametrize("payload", [b"\xff\xff\xff\xff", b"\x07" + packed(b"x" * 1000)])
async def test_rubbish_instead_of_deflate_closes(gateway: RunningGateway, payload: bytes) -> None:
    """Nobody else notices."""
    async with raw_websocket(gateway.url, OFFER) as client:
        await client.send(TEXT, payload, rsv=RSV1)
        assert (await client.closed())[0] == 1002
    assert await gateway.there()


@pytest.mark.parametrize("window_bits", [9, 12, 15])
async def test_client_of_websockets_reads_it_with_any_window(
    gateway: RunningGateway, log: JetStreamLog, window_bits: int
) -> None:
    """Its offer names the window; one of 12 is its default."""
    factory = ClientPerMessageDeflateFactory(
        server_max_window_bits=window_bits, client_max_window_bits=True
    )
    async with connect(gateway.url, proxy=None, compression=None, extensions=[factory]) as client:
        assert client.protocol.extensions
        await client.send(SUBSCRIBE.decode())
        await receive(client, 2)
        await log.publish(SUBJECT, tick(2))
        assert (await receive(client, 1))[0]["data"]["seq"] == 2


async def test_many_clients_cost_one_compression(
    gateway: RunningGateway, log: JetStreamLog
) -> None:
    """Each of fifty gets the very same bytes."""
    async with raw_websocket(gateway.url, OFFER) as first:
        await first.send(TEXT, SUBSCRIBE)
        for _ in range(2):
            await first.receive()
        async with raw_websocket(gateway.url, OFFER) as second:
            await second.send(TEXT, SUBSCRIBE)
            for _ in range(2):
                await second.receive()
            await log.publish(SUBJECT, tick(2))
            assert await first.receive() == await second.receive()
    await eventually(gateway.there)
