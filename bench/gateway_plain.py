"""What the gateway is compared with: the same log, the same frames, the usual ways to send them.

`python -m bench.gateway_plain KIND PORT` follows MD_TICKS and sends each tick to every client
that has said anything. `send_text` awaits `websocket.send_text` client by client, as FastAPI's
documentation does; `broadcast` is the function of `websockets`. Neither bounds what a slow
client costs.
"""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from contextlib import aclosing

import uvicorn
import uvloop
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from websockets.asyncio.server import ServerConnection, broadcast, serve

from models.settings import load_settings
from streaming.broker.jetstream import JetStreamLog

SUBSCRIBED = '{"op":"subscribed"}'
Send = Callable[[str], Coroutine[None, None, None]]


async def follow(log: JetStreamLog, stream: str, send: Send) -> None:
    """Send every tick of the log, one message each."""
    async with aclosing(log.read(stream, "market.ticks.>")) as messages:
        async for message in messages:
            for line in message.payload.decode().split("\n"):
                await send(f'{{"op":"incr","data":{line}}}')
            await asyncio.sleep(0)


async def send_text(port: int, follow_with: Callable[[Send], Coroutine[None, None, None]]) -> None:
    """Serve with FastAPI, on uvicorn as the gateway has it."""
    app = FastAPI()
    clients: set[WebSocket] = set()

    @app.websocket("/ws")
    async def stream(websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            await websocket.receive_text()
            await websocket.send_text(SUBSCRIBED)
            clients.add(websocket)
            await websocket.receive_text()
        except WebSocketDisconnect:
            clients.discard(websocket)

    async def send(text: str) -> None:
        for client in tuple(clients):
            await client.send_text(text)

    config = uvicorn.Config(
        app,
        port=port,
        http="httptools",
        ws="websockets-sansio",
        ws_ping_interval=None,
        ws_per_message_deflate=False,
        lifespan="off",
        log_level="warning",
        backlog=4096,
    )
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(uvicorn.Server(config).serve())
        tasks.create_task(follow_with(send))


async def websockets_broadcast(
    port: int, follow_with: Callable[[Send], Coroutine[None, None, None]]
) -> None:
    """Serve with `websockets`."""
    clients: set[ServerConnection] = set()

    async def stream(connection: ServerConnection) -> None:
        await connection.recv()
        await connection.send(SUBSCRIBED)
        clients.add(connection)
        await connection.wait_closed()
        clients.discard(connection)

    async def send(text: str) -> None:
        broadcast(clients, text)

    async with serve(stream, "127.0.0.1", port, compression=None, ping_interval=None, backlog=4096):
        await follow_with(send)


KINDS = {"send_text": send_text, "broadcast": websockets_broadcast}


async def main(kind: str, port: int) -> None:
    """Serve until killed."""
    settings = load_settings()
    async with await JetStreamLog.of(settings, name=kind) as log:
        await log.ensure_streams(settings)
        await KINDS[kind](port, lambda send: follow(log, settings.streams.ticks, send))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
