"""The one way to a Temporal server: address, namespace and the pydantic data converter.

Also makes sure of the search attributes, without which no workflow could be started.
"""

import asyncio
import os
import sys
from typing import NoReturn
from urllib.parse import quote

import structlog
from pydantic import SecretStr
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import (
    AddSearchAttributesRequest,
    ListSearchAttributesRequest,
)
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.service import RPCError, RPCStatusCode, TLSConfig

from models.settings import Settings
from workflows.attributes import KEYS
from workflows.interceptors import interceptors

DATA_CONVERTER = pydantic_data_converter
"""Payloads are pydantic models as JSON, which `temporal` and `tctl` can write as well."""

_RETRY_S = 0.5
_log = structlog.get_logger(__name__)


async def connect(settings: Settings) -> Client:
    """Connect.

    Raises:
        RuntimeError: nothing answers at the address.
    """
    return await Client.connect(
        settings.temporal_address,
        namespace=settings.temporal_namespace,
        data_converter=DATA_CONVERTER,
        interceptors=interceptors(),
        tls=temporal_tls(settings),
        api_key=_shown(settings.temporal_api_key),
    )


def temporal_tls(settings: Settings) -> TLSConfig | bool:
    """Return how to speak TLS to Temporal, with our certificate if there is one; or not to."""
    ca, cert, key = (
        None if path is None else path.read_bytes()
        for path in (
            settings.temporal_tls_server_ca_cert_path,
            settings.temporal_tls_client_cert_path,
            settings.temporal_tls_client_key_path,
        )
    )
    name, api_key = settings.temporal_tls_server_name, settings.temporal_api_key
    if not (settings.temporal_tls or ca or cert or name or api_key):
        return False
    return TLSConfig(server_root_ca_cert=ca, domain=name, client_cert=cert, client_private_key=key)


def _shown(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


async def connect_patiently(settings: Settings) -> Client:
    """Connect, however long the server takes to come up, and register what it must know."""
    while True:
        try:
            client = await connect(settings)
            await ensure_search_attributes(client)
        except (RuntimeError, RPCError) as error:
            _log.warning(
                "Temporal does not answer yet; requests wait",
                address=settings.temporal_address,
                error=str(error),
            )
            await asyncio.sleep(_RETRY_S)
        else:
            return client


def leave(status: int) -> NoReturn:
    """End the process, which has had a client, with this status.

    A thread of the client's runtime may still ask for the interpreter while that is taken down,
    and then Python aborts, whatever the status was to be.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


async def ensure_search_attributes(client: Client) -> None:
    """Register the search attributes that the namespace does not have. Idempotent.

    Where this is not allowed, as on Temporal Cloud, an operator must have done it.
    """
    service = client.operator_service
    try:
        known = await service.list_search_attributes(
            ListSearchAttributesRequest(namespace=client.namespace)
        )
        missing = [key.name for key in KEYS if key.name not in known.custom_attributes]
        if not missing:
            return
        keyword = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
        request = AddSearchAttributesRequest(namespace=client.namespace)
        for name in missing:
            request.search_attributes[name] = keyword
        await service.add_search_attributes(request)
    except RPCError as error:
        if error.status not in {
            RPCStatusCode.PERMISSION_DENIED,
            RPCStatusCode.UNIMPLEMENTED,
            RPCStatusCode.ALREADY_EXISTS,
        }:
            raise
        _log.warning("cannot register search attributes", error=str(error))


def ui_link(settings: Settings, workflow_id: str, run_id: str | None = None) -> str:
    """Return the page of a workflow in Temporal's UI."""
    run = f"/{run_id}" if run_id else ""
    where = f"{settings.temporal_ui_url}/namespaces/{settings.temporal_namespace}"
    return f"{where}/workflows/{quote(workflow_id, safe='')}{run}"
