"""What any WebSocket client may expect (RFC 6455), frame by frame, and unchanged clients."""

import asyncio
import contextlib
import json
import os
import struct
import sys
from collections.abc import AsyncIterator

import aiohttp
import pytest
from websockets.asyncio.client import connect

from gateway import http as gateway_http
from models.settings import Settings
from streaming.broker.jetstream import JetStreamLog
from tests.clients import NODE
from tests.gateways import PRODUCT, SUBJECT, RunningGateway, receive, running_gateway, tick
from tests.raw_websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    RawWebSocket,
    close_of,
    frame,
    raw_websocket,
)
from tests.servers import PATIENCE_S, eventually

ASK = b'{"op":"ping","id":"%d"}'
SUBSCRIBE = {"op": "subscribe", "products": [PRODUCT], "feeds": ["ticker"]}
MEGABYTE = 1024 * 1024


@pytest.fixture
async def gateway(settings: Settings) -> AsyncIterator[RunningGateway]:
    """Give a gateway; whatever a client did, it works in the end and nobody is left in it."""
    async with running_gateway(settings) as running:
        yield running
        assert await running.there()
        await eventually(lambda: nobody(running))


async def nobody(gateway: RunningGateway) -> bool:
    """Tell whether all clients have been forgotten."""
    return await gateway.metric("md_gateway_clients") == 0


async def pong(client: RawWebSocket) -> object:
    """Return the id of the answer to a ping of the gateway's own protocol."""
    answer = await client.receive()
    assert (answer.opcode, answer.fin, answer.rsv) == (TEXT, True, 0)
    message = json.loads(answer.payload)
    assert message["op"] == "pong"
    return message["id"]


async def test_message_in_fragments_is_one_message(gateway: RunningGateway) -> None:
    """Also in very many, some of them empty, with control frames in between."""
    text = ASK % 1
    async with raw_websocket(gateway.url) as client:
        await client.send(TEXT, text[:1], fin=False)
        for byte in text[1:]:
            await client.send(CONTINUATION, bytes([byte]), fin=False)
        client.writer.write(frame(CONTINUATION, fin=False) * 10_000)
        await client.send(PING, b"between")
        await client.send(CONTINUATION)
        assert await client.receive() == (PONG, b"between", True, 0)
        assert await pong(client) == "1"


async def test_utf8_character_cut_by_a_fragment_is_whole_again(gateway: RunningGateway) -> None:
    """Only the whole message must be UTF-8."""
    text = '{"op":"ping","id":"€"}'.encode()
    cut = text.index(b"\xe2") + 1
    async with raw_websocket(gateway.url) as client:
        await client.send(TEXT, text[:cut], fin=False)
        await client.send(CONTINUATION, text[cut:])
        assert await pong(client) == "€"


async def test_messages_in_one_segment_are_answered_in_order(gateway: RunningGateway) -> None:
    """However the bytes are cut by the network."""
    async with raw_websocket(gateway.url) as client:
        stream = b"".join(frame(TEXT, ASK % number) for number in range(20))
        client.writer.write(stream)
        assert [await pong(client) for _ in range(20)] == [str(number) for number in range(20)]
        for number in range(0, len(stream), 7):
            client.writer.write(stream[number : number + 7])
            await asyncio.sleep(0)
        assert [await pong(client) for _ in range(20)] == [str(number) for number in range(20)]


async def test_message_beyond_64_kb_gets_an_error_and_the_connection_stays(
    gateway: RunningGateway,
) -> None:
    """It has been read, and is not acted on."""
    async with raw_websocket(gateway.url) as client:
        await client.send(TEXT, b'{"op":"ping","id":"%b"}' % (b"x" * 70_000))
        answer = json.loads((await client.receive()).payload)
        assert (answer["op"], answer["code"]) == ("error", "too_large")
        await client.send(TEXT, ASK % 2)
        assert await pong(client) == "2"


async def test_binary_message_gets_an_error_and_the_connection_stays(
    gateway: RunningGateway,
) -> None:
    """The protocol is text."""
    async with raw_websocket(gateway.url) as client:
        await client.send(BINARY, ASK % 1)
        assert json.loads((await client.receive()).payload)["code"] == "not_text"
        await client.send(TEXT, ASK % 2)
        assert await pong(client) == "2"


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        pytest.param(frame(TEXT, b"x" * (MEGABYTE + 1)), 1009, id="oversized"),
        pytest.param(frame(TEXT, b"x" * (4 * MEGABYTE)), 1009, id="oversized-much"),
        pytest.param(
            frame(TEXT, b"x" * 600_000, fin=False) + frame(CONTINUATION, b"x" * 600_000),
            1009,
            id="oversized-in-fragments",
        ),
        pytest.param(frame(TEXT, b"\xff\xfe"), 1007, id="no-utf8"),
        pytest.param(frame(TEXT, b"\xed\xa0\x80"), 1007, id="surrogate"),
        pytest.param(frame(TEXT, b"\xe2", fin=False) + frame(CONTINUATION), 1007, id="cut-utf8"),
        pytest.param(frame(TEXT, ASK % 1, masked=False), 1002, id="unmasked"),
        pytest.param(frame(TEXT, ASK % 1, rsv=4), 1002, id="rsv1"),
        pytest.param(frame(TEXT, ASK % 1, rsv=2), 1002, id="rsv2"),
        pytest.param(frame(PING, rsv=1), 1002, id="rsv3"),
        pytest.param(frame(3), 1002, id="unknown-data-opcode"),
        pytest.param(frame(11), 1002, id="unknown-control-opcode"),
        pytest.param(frame(PING, b"x" * 126), 1002, id="long-control-frame"),
        pytest.param(frame(PING, fin=False), 1002, id="fragmented-control-frame"),
        pytest.param(frame(CONTINUATION, b"x"), 1002, id="nothing-to-continue"),
        pytest.param(
            frame(TEXT, b"{", fin=False) + frame(TEXT, b"}"), 1002, id="message-within-message"
        ),
        pytest.param(frame(CLOSE, b"\x03"), 1002, id="close-code-of-one-byte"),
        pytest.param(frame(CLOSE, struct.pack(">H", 1005)), 1002, id="close-code-reserved"),
        pytest.param(frame(CLOSE, struct.pack(">H", 999)), 1002, id="close-code-too-small"),
        pytest.param(frame(CLOSE, struct.pack(">H", 1000) + b"\xff"), 1007, id="close-no-utf8"),
    ],
)
async def test_breach_closes_with_its_code_and_harms_nobody_else(
    gateway: RunningGateway, stream: bytes, code: int
) -> None:
    """The code arrives even where the client was still sending; what follows is not read."""
    async with raw_websocket(gateway.url) as other, raw_websocket(gateway.url) as client:
        client.writer.write(stream + frame(TEXT, ASK % 9))
        assert (await client.closed())[0] == code
        await other.send(TEXT, ASK % 1)
        assert await pong(other) == "1"


@pytest.mark.parametrize("payload", [b"", b"x", b"\x00\xff" * 62 + b"!"])
async def test_ping_is_answered_with_its_payload(gateway: RunningGateway, payload: bytes) -> None:
    """Up to 125 bytes of anything."""
    async with raw_websocket(gateway.url) as client:
        await client.send(PING, payload)
        assert await client.receive() == (PONG, payload, True, 0)


async def test_unasked_pong_is_ignored(gateway: RunningGateway) -> None:
    """It is a heartbeat of the client's (5.5.3)."""
    async with raw_websocket(gateway.url) as client:
        await client.send(PONG, b"hello")
        await client.send(TEXT, ASK % 1)
        assert await pong(client) == "1"


@pytest.mark.parametrize(
    ("payload", "code"),
    [(b"", 1005), (struct.pack(">H", 1000) + b"bye", 1000), (struct.pack(">H", 3333), 3333)],
)
async def test_close_is_echoed_and_nothing_follows(
    gateway: RunningGateway, payload: bytes, code: int
) -> None:
    """What was asked before it is answered first."""
    async with raw_websocket(gateway.url) as client:
        await client.send(TEXT, ASK % 1)
        assert await pong(client) == "1"
        client.writer.write(frame(CLOSE, payload) + frame(TEXT, ASK % 2))
        answer = await client.receive()
        assert (answer.opcode, answer.payload, close_of(answer)[0]) == (CLOSE, payload, code)
        assert await client.ended() == b""


async def test_close_of_a_subscriber_under_load_is_the_last_frame(
    gateway: RunningGateway, log: JetStreamLog
) -> None:
    """Data that is due at that moment does not come behind it."""
    async with raw_websocket(gateway.url) as client:
        await client.send(TEXT, json.dumps(SUBSCRIBE).encode())
        for seq in range(1, 50):
            await log.publish(SUBJECT, tick(seq))
        await client.send(CLOSE)
        for seq in range(50, 60):
            await log.publish(SUBJECT, tick(seq))
        await client.closed()


async def test_half_closed_socket_is_closed_whole(gateway: RunningGateway) -> None:
    """A client that says it will send nothing more cannot close properly: it has gone."""
    async with raw_websocket(gateway.url) as client:
        await client.send(TEXT, json.dumps(SUBSCRIBE).encode())
        await client.receive()
        client.writer.write_eof()
        await client.ended()
        await eventually(lambda: nobody(gateway))


async def test_reset_socket_is_forgotten(gateway: RunningGateway) -> None:
    """A client that is killed leaves nothing behind."""
    async with raw_websocket(gateway.url) as client:
        await client.send(TEXT, json.dumps(SUBSCRIBE).encode())
        await client.receive()
        client.writer.transport.abort()
        await eventually(lambda: nobody(gateway))


@pytest.mark.parametrize(
    ("request_line", "headers", "status"),
    [
        ("GET /nowhere HTTP/1.1", "Sec-WebSocket-Version: 13", b"403"),
        ("GET /ws HTTP/1.1", "Sec-WebSocket-Version: 8", b"400"),
        ("POST /ws HTTP/1.1", "Sec-WebSocket-Version: 13", b"405"),
    ],
)
async def test_bad_handshake_gets_an_http_answer(
    gateway: RunningGateway, request_line: str, headers: str, status: bytes
) -> None:
    """Before the upgrade there are no frames."""
    port = int(gateway.http.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        f"{request_line}\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n{headers}\r\n\r\n".encode()
    )
    async with asyncio.timeout(PATIENCE_S):
        assert (await reader.readline()).split()[1] == status
        await reader.read()
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("said", [b"", b"GET /ws HT", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nG"])
async def test_request_that_does_not_come_ends_the_connection(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    """Whoever connects and says nothing costs little, and not for long."""
    monkeypatch.setattr(gateway_http, "REQUEST_WITHIN_S", 0.3)
    port = int(gateway.http.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(said)
    async with asyncio.timeout(PATIENCE_S):
        answer = await reader.read()
    assert (b"200 OK" in answer) == (b"healthz" in said)
    writer.close()
    await writer.wait_closed()


async def test_headers_without_end_are_not_taken(gateway: RunningGateway) -> None:
    """They would fill the memory of a process that has not even counted the connection."""
    port = int(gateway.http.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
    line, sent = b"X-Filler: " + b"x" * 8000 + b"\r\n", 0
    with contextlib.suppress(ConnectionError):
        while sent < 4 * 1024**2 and not reader.at_eof():
            writer.write(line)
            await writer.drain()
            sent += len(line)
            await asyncio.sleep(0)
    assert sent < 1024**2
    with contextlib.suppress(ConnectionError):  # what it has not read resets the connection
        assert (await reader.read()).startswith(b"HTTP/1.1 431 ")
    writer.transport.abort()


async def test_client_of_websockets_works_unchanged(
    gateway: RunningGateway, log: JetStreamLog
) -> None:
    """With its defaults: compression offered, pings of its own."""
    async with connect(gateway.url, proxy=None) as client:
        await client.send(json.dumps(SUBSCRIBE))
        await receive(client, 2)
        await (await client.ping())
        await log.publish(SUBJECT, tick(1))
        assert (await receive(client, 1))[0]["data"]["seq"] == 1
    assert client.close_code == 1000


async def test_client_of_aiohttp_works_unchanged(
    gateway: RunningGateway, log: JetStreamLog
) -> None:
    """With compression on and a heartbeat."""
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(gateway.url, heartbeat=0.2, compress=15) as client,
        asyncio.timeout(PATIENCE_S),
    ):
        await client.send_json(SUBSCRIBE)
        assert [(await client.receive_json())["op"] for _ in range(2)] == ["subscribed", "snapshot"]
        await log.publish(SUBJECT, tick(1))
        assert (await client.receive_json())["data"]["seq"] == 1
        await client.close()
        assert client.close_code == 1000


BROWSER = """
const socket = new WebSocket(process.argv[1]);
socket.onopen = () => socket.send(process.argv[2]);
socket.onmessage = ({ data }) => {
  console.log(data);
  if (JSON.parse(data).op === "incr") socket.close(1000, "done");
};
socket.onclose = ({ code, wasClean }) => { console.log(JSON.stringify({ code, wasClean })); };
"""


async def test_websocket_of_a_browser_works_unchanged(
    gateway: RunningGateway, log: JetStreamLog
) -> None:
    """Node's is the same interface: nothing but an address can be given."""
    arguments = ["--no-warnings", "--experimental-websocket", "-e", BROWSER]
    browser = await asyncio.create_subprocess_exec(
        NODE, *arguments, gateway.url, json.dumps(SUBSCRIBE), stdout=asyncio.subprocess.PIPE
    )
    assert browser.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        ops = [json.loads(await browser.stdout.readline())["op"] for _ in range(2)]
        await log.publish(SUBJECT, tick(1))
        tick_line, close_line = [json.loads(line) async for line in browser.stdout]
        assert await browser.wait() == 0
    assert ops == ["subscribed", "snapshot"]
    assert (tick_line["op"], tick_line["data"]["seq"]) == ("incr", 1)
    assert close_line == {"code": 1000, "wasClean": True}


async def test_interactive_client_works_unchanged(
    gateway: RunningGateway, log: JetStreamLog
) -> None:
    """A person types and reads: the WebSocket shell that comes with `websockets`."""
    shell = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "websockets", gateway.url),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "NO_PROXY": "*"},
    )
    assert shell.stdin is not None
    assert shell.stdout is not None
    said = b""

    async def read_until(words: bytes) -> None:
        nonlocal said
        assert shell.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            while words not in said:
                chunk = await shell.stdout.read(4096)
                assert chunk, said
                said += chunk

    await read_until(b"Connected")
    shell.stdin.write(json.dumps(SUBSCRIBE).encode() + b"\n")
    await read_until(b'"snapshot"')
    await log.publish(SUBJECT, tick(1))
    await read_until(b'"incr"')
    shell.stdin.close()
    async with asyncio.timeout(PATIENCE_S):
        said += await shell.stdout.read()
        assert await shell.wait() == 0
    assert b"1000" in said
