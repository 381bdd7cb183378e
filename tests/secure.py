"""Servers that ask who is there: NATS with TLS and users, and TLS before Temporal."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import trustme

from tests.servers import NatsServer, eventually

USER, PASSWORD = "ledgerflux", "s3cret-of-the-test"


class Certificates(NamedTuple):
    """PEM files of one authority: its own, a server's on loopback, and a client's."""

    ca: Path
    server: Path
    client: Path


def certificates(root: Path) -> Certificates:
    """Make an authority, and a key with certificate for both sides, each in one file."""
    root.mkdir(parents=True, exist_ok=True)
    files = Certificates(root / "ca.pem", root / "server.pem", root / "client.pem")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(files.ca))
    server = authority.issue_cert("127.0.0.1", "localhost")
    server.private_key_and_cert_chain_pem.write_to_path(str(files.server))
    client = authority.issue_cert("ledgerflux.test")
    client.private_key_and_cert_chain_pem.write_to_path(str(files.client))
    return files


class GuardedNats(NatsServer):
    """The project's own configuration, and what a test adds to it."""

    def __init__(self, data_dir: Path, more: Mapping[str, Any]) -> None:
        super().__init__(data_dir)
        path = data_dir / "nats.conf"
        config = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**config, **more}), encoding="utf-8")


def with_password() -> dict[str, Any]:
    """Let in only one user."""
    return {"authorization": {"user": USER, "password": PASSWORD}}


def with_tls(files: Certificates, *, mutual: bool = True) -> dict[str, Any]:
    """Speak TLS only, and, where mutual, with none but the authority's clients."""
    pem = {"cert_file": str(files.server), "key_file": str(files.server)}
    return {"tls": {**pem, "ca_file": str(files.ca), "verify": mutual}}


@asynccontextmanager
async def tls_before(port: int, files: Certificates) -> AsyncIterator[int]:
    """Give a port that takes HTTP/2 over mutual TLS and hands it on in the clear."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(files.ca))
    context.load_cert_chain(files.server)
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["h2"])

    handling: set[asyncio.Task[None] | None] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handling.add(asyncio.current_task())
        with ExitStack() as ending:
            # Not `close`, which would wait for the other end's word.
            ending.callback(writer.transport.abort)
            there, back = await asyncio.open_connection("127.0.0.1", port)
            ending.callback(back.transport.abort)
            ways = [
                asyncio.create_task(_pump(reader, back)),
                asyncio.create_task(_pump(there, writer)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.wait(ways)

    async with await asyncio.start_server(
        handle, "127.0.0.1", 0, ssl=context, ssl_handshake_timeout=2
    ) as server:
        mine = server.sockets[0].getsockname()[1]
        yield mine
        server.close()
        for task in handling:
            if task is not None:
                task.cancel()
        # Those whose handshake failed have no handler, and are closed a little later.
        await eventually(lambda: mine not in _ports_of_this_process())


def _ports_of_this_process() -> set[int]:
    return {one.laddr.port for one in psutil.Process().net_connections("tcp") if one.laddr}


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(64 * 1024):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass  # the other end has gone, which ends this way
