"""How a process comes to NATS: who it says it is, how it knows the server, and when it is away.

Here because the log and the latest-state store connect alike, and neither may import the other.
"""

import asyncio
import ssl
from collections.abc import Sequence
from typing import Any

import nats.errors
import structlog
from nats.aio.client import Client
from nats.js.errors import NoStreamResponseError, ServiceUnavailableError

from models.settings import Settings

NATS_AWAY = (
    nats.errors.TimeoutError,
    nats.errors.NoRespondersError,
    nats.errors.ConnectionClosedError,
    nats.errors.ConnectionReconnectingError,
    nats.errors.OutboundBufferLimitError,
    nats.errors.StaleConnectionError,
    nats.errors.UnexpectedEOF,
    NoStreamResponseError,
    ServiceUnavailableError,
    OSError,
)
"""What the client raises while the server, or JetStream in it, is away: to be tried again."""

_CANCEL_EVERY_S = 0.05
_log = structlog.get_logger(__name__)


class NatsAwayError(Exception):
    """No server let us in. The text says where, why, and what to do. Attributes: where, reason."""

    def __init__(self, urls: Sequence[str], cause: Exception | None) -> None:
        self.where = ", ".join(urls)
        self.reason = _reason(str(cause or "no answer"))
        super().__init__(f"{self.where}: {self.reason}")


def _reason(told: str) -> str:
    """Say what a failed connection means, and what to do about it."""
    lower = told.lower()
    if "authorization" in lower or "authentication" in lower:
        cure = "check NATS_USER and NATS_PASSWORD, NATS_TOKEN or NATS_CREDS"
        return f"the NATS server does not know us ({told}); {cure}"
    if "certificate" in lower or "tls" in lower or "ssl" in lower:
        cure = "check NATS_TLS_CA, NATS_TLS_CERT and NATS_TLS_KEY"
        return f"no TLS with the NATS server ({told}); {cure}"
    return f"no NATS server answers ({told}); start one, or set NATS_URLS"


class WaryClient(Client):
    """A client that tells a server nothing before TLS, where TLS was asked for.

    nats-py believes the server's first line, which comes before any TLS: whoever stands between
    could strike TLS out of it, and would be told the password.
    """

    def _connect_command(self) -> bytes:
        """Return the line that names the user; nats-py sends it when TLS has been set up."""
        server = self._current_server
        wanted = "tls" in self.options or (server is not None and server.uri.scheme == "tls")
        if wanted and not self._server_info.get("tls_required"):
            raise nats.errors.Error("the server offers no TLS, and these settings ask for it")
        return super()._connect_command()


def nats_options(settings: Settings) -> dict[str, Any]:
    """Return the options with which a client connects under these settings.

    Raises:
        OSError: a certificate or key cannot be read, or is none (`ssl.SSLError`).
    """
    options: dict[str, Any] = {}
    if settings.nats_user is not None and settings.nats_password is not None:
        options["user"] = settings.nats_user
        options["password"] = settings.nats_password.get_secret_value()
    if settings.nats_token is not None:
        options["token"] = settings.nats_token.get_secret_value()
    if settings.nats_creds is not None:
        options["user_credentials"] = str(settings.nats_creds)
    if settings.nats_tls_ca is not None or settings.nats_tls_cert is not None:
        options["tls"] = _tls(settings)
    return options


def _tls(settings: Settings) -> ssl.SSLContext:
    """Return what checks the server's certificate, and shows ours if there is one."""
    context = ssl.create_default_context(cafile=settings.nats_tls_ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.nats_tls_cert is not None:
        context.load_cert_chain(settings.nats_tls_cert, settings.nats_tls_key)
    return context


async def connect_within(
    client: WaryClient,
    urls: Sequence[str],
    wait_s: float,
    **options: Any,  # noqa: ANN401  # nats-py's
) -> None:
    """Connect for good, waiting for a server that is still starting.

    Raises:
        NatsAwayError: no server let us in within `wait_s`.
    """
    told: Exception | None = None

    async def failed(error: Exception) -> None:
        nonlocal told
        _log.debug("NATS client", error=repr(error))
        # A server that refuses us also hangs up, and only one of the two says why.
        if told is None or not isinstance(error, ConnectionError):
            told = error

    connecting = asyncio.create_task(
        client.connect(
            list(urls),
            error_cb=failed,
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.05,  # type: ignore[arg-type]  # seconds; floats work
            **options,
        )
    )
    try:
        await asyncio.wait([connecting], timeout=wait_s)
        if connecting.done():
            connecting.result()
            return
    except (nats.errors.Error, OSError) as error:
        told = error
    finally:
        # It seeks its first server for ever, and may lose a cancellation or two.
        while not connecting.done():
            connecting.cancel()
            await asyncio.wait([connecting], timeout=_CANCEL_EVERY_S)
    await client.close()
    raise NatsAwayError(urls, told)
