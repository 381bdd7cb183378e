"""Object stores and DynamoDB for tests: localbucket, moto's server, and one that answers badly."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from models.settings import Settings, load_settings
from tests.servers import Server, free_port

BUCKET = "lake"


_FULL = ("sh", "-c", 'ulimit -f 2; exec "$@" >/dev/null 2>&1', "sh")
"""Runs a command whose writes fail where a file would be larger than 1 KB."""


class LocalBucket(Server):
    """The object store of the embedded stack. Attributes: root, where its objects are files."""

    def __init__(self, root: Path, *, full: bool = False) -> None:
        """Prepare; one that is `full` has room for no object, until it is made."""
        self.port, self.root = free_port(), root
        root.mkdir(parents=True, exist_ok=True)
        program = str(Path(sys.executable).with_name("localbucket"))
        log = root.parent / "localbucket.log"
        self._roomy = [program, "--port", str(self.port), str(root)]
        super().__init__([*_FULL, *self._roomy] if full else self._roomy, log)

    def make_room(self) -> None:
        """Start again with room."""
        self.stop()
        self._command = self._roomy
        self.start()


class MotoServer(Server):
    """AWS as moto plays it: S3 and DynamoDB, in memory."""

    def __init__(self, log_dir: Path, **env: str) -> None:
        self.port = free_port()
        program = str(Path(sys.executable).with_name("moto_server"))
        command = [program, "-H", "127.0.0.1", "-p", str(self.port)]
        super().__init__(command, log_dir / "moto.log", env, measured=False)


def store_settings(port: int, **more: object) -> Settings:
    """Return settings that point S3 and DynamoDB at a port of this machine."""
    address = f"http://127.0.0.1:{port}"
    return load_settings(
        **{
            "s3_endpoint": address,
            "ddb_endpoint": address,
            "s3_bucket": BUCKET,
            "s3_access_key": "test",
            "s3_secret_key": "test",
            "s3_region": "us-east-1",
            **more,
        }
    )


class Proxy:
    """Stands before a server and does it harm, connection by connection.

    Attributes: port; cut_after, bytes of each answer after which its connection is cut, or none;
    refused, how many of the next connections are closed at once.
    """

    def __init__(self, target: int) -> None:
        self.port = 0
        self.cut_after: int | None = None
        self.refused = 0
        self._target = target

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        if self.refused:
            self.refused -= 1
            writer.transport.abort()
            return
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_pump(reader, back, None))
                tasks.create_task(_pump(there, writer, self.cut_after))
        except* OSError:
            pass
        finally:
            writer.transport.abort()
            back.transport.abort()


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, cut_after: int | None
) -> None:
    passed = 0
    while data := await reader.read(4096):
        passed += len(data)
        writer.write(data)
        await writer.drain()
        if cut_after is not None and passed > cut_after:
            break
    raise ConnectionAbortedError


@asynccontextmanager
async def proxy(target: int) -> AsyncIterator[Proxy]:
    """Give a proxy before a port."""
    shown = Proxy(target)
    async with await asyncio.start_server(shown.handle, "127.0.0.1", 0) as server:
        shown.port = server.sockets[0].getsockname()[1]
        yield shown
        server.close()


@asynccontextmanager
async def refusing(status: int, code: str) -> AsyncIterator[int]:
    """Give the port of a store that answers every request with one S3 error."""
    body = f"<Error><Code>{code}</Code><Message>as the test wants it</Message></Error>"
    answer = (
        f"HTTP/1.1 {status} Refused\r\nContent-Type: application/xml\r\n"
        "x-amz-bucket-region: eu-west-1\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
    ).encode()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"100-continue" in head:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                await reader.readexactly(int(line.partition(b":")[2]))
        writer.write(answer.partition(body.encode())[0] if head.startswith(b"HEAD") else answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
