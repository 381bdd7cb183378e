"""The gateway's own figures: connections, deliveries, and what it serves."""

import asyncio
from typing import Any

import httpx
import msgspec
from prometheus_client.parser import text_string_to_metric_families

from cli.checks.gateway import base_url
from models.settings import Settings

LOOK_S = 1.0
"""Between the two looks of which the pace is made."""

_UNAUTHORIZED = 401


class GatewayRow(msgspec.Struct):
    """One gateway process. `reason`: why it is not ready; none while it is.

    `states`: of each feed, by `venue/product/feed`, as its subscribers see it.
    """

    url: str
    clients: int
    deliveries_per_s: float
    conflated: int
    reason: str | None
    connections: dict[str, int]
    states: dict[str, str]


class GatewayError(Exception):
    """The gateway does not tell; the text says why."""


async def gateways(settings: Settings, api_key: str | None, within_s: float) -> list[GatewayRow]:
    """Return the gateway's processes; of several, those that METRICS_PORT leads to.

    Raises:
        GatewayError: one does not answer, or demands a key.
    """
    count, metrics = settings.gateway_processes, settings.metrics_port
    if count > 1 and metrics:
        ports = [metrics + index for index in range(count)]
    else:
        ports = [settings.gateway_port]
    urls = [base_url(settings.gateway_host, port) for port in ports]
    headers = {} if api_key is None else {"X-API-Key": api_key}
    async with httpx.AsyncClient(timeout=within_s, trust_env=False, headers=headers) as http:
        return list(await asyncio.gather(*(_gateway(http, url) for url in urls)))


async def _gateway(http: httpx.AsyncClient, url: str) -> GatewayRow:
    try:
        answer = await http.get(f"{url}/v1/status")
        if answer.status_code == _UNAUTHORIZED:
            raise GatewayError(f"{url} demands a key: set LEDGERFLUX_API_KEY, or pass --api-key")
        told: dict[str, Any] = answer.raise_for_status().json()
        products = (await http.get(f"{url}/v1/products")).raise_for_status().json()
        before, _ = await _counted(http, url)
        await asyncio.sleep(LOOK_S)
        after, conflated = await _counted(http, url)
        return GatewayRow(
            url,
            told["clients"],
            (after - before) / LOOK_S,
            int(conflated),
            told["reason"],
            told["connections"],
            {
                f"{product['venue']}/{product['product']}/{feed['feed']}": feed["status"]
                for product in products
                for feed in product["feeds"]
            },
        )
    except (httpx.HTTPError, ValueError, KeyError) as error:
        raise GatewayError(f"{url} does not answer ({error!r}); see `ledgerflux doctor`") from error


async def _counted(http: httpx.AsyncClient, url: str) -> tuple[float, float]:
    """Return deliveries and conflations since the process began."""
    text = (await http.get(f"{url}/metrics")).raise_for_status().text
    values = {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    return values["md_gateway_deliveries_total"], values["md_gateway_conflated_total"]
