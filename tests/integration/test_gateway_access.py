"""Keys and limits over real sockets: HTTP answers before the upgrade, close codes after it."""

import asyncio
import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from gateway import app as gateway_app
from models.settings import Settings
from tests.gateways import PRODUCT, RunningGateway, receive, running_gateway, subscriber
from tests.servers import PATIENCE_S, eventually

KEY = "k-1"
SUBSCRIBE = {"op": "subscribe", "products": [PRODUCT], "feeds": ["ticker"]}


@pytest.fixture
def keyed(settings: Settings) -> Settings:
    """Give settings with two keys, one of them known by its digest only."""
    entries = f"{KEY},sha256:{sha256(b'k-2').hexdigest()}"
    return Settings(**{**settings.model_dump(), "auth_api_keys": entries})


def knock(gateway: RunningGateway, headers: Mapping[str, str] | None = None) -> connect:
    """Return a connection that is to be opened."""
    return connect(gateway.url, additional_headers=headers, proxy=None, close_timeout=1)


async def denied(gateway: RunningGateway, headers: Mapping[str, str] | None = None) -> Any:
    """Return the HTTP answer to a handshake that is refused."""
    with pytest.raises(InvalidStatus) as refused:
        async with knock(gateway, headers):
            pass
    return refused.value.response


async def said(client: ClientConnection, message: Mapping[str, object]) -> Any:
    """Send a message and return the next one."""
    await client.send(json.dumps(message))
    return (await receive(client, 1))[0]


async def closed(
    client: ClientConnection, within_s: float = PATIENCE_S
) -> tuple[int | None, str | None]:
    """Wait for the close; return its code and reason."""
    async with asyncio.timeout(within_s):
        await client.wait_closed()
    return client.close_code, client.close_reason


@pytest.mark.parametrize(
    "headers", [{"X-API-Key": KEY}, {"X-API-Key": "k-2"}, {"Authorization": f"Bearer {KEY}"}]
)
async def test_handshake_with_a_valid_key_is_served(
    keyed: Settings, headers: dict[str, str]
) -> None:
    """Plain keys and digests, in either header; and nothing more is asked."""
    async with running_gateway(keyed) as gateway, knock(gateway, headers) as client:
        assert (await said(client, SUBSCRIBE))["op"] == "subscribed"


async def test_handshake_with_a_wrong_key_gets_401_with_a_sentence(keyed: Settings) -> None:
    """It is final, so there is no Retry-After; and the answer does not show the key."""
    async with running_gateway(keyed) as gateway:
        answer = await denied(gateway, {"X-API-Key": "wrong-key"})
        assert answer.status_code == 401
        assert "Retry-After" not in answer.headers
        assert json.loads(answer.body)["code"] == "unauthorized"
        assert b"wrong-key" not in answer.body


async def test_auth_as_the_first_message_is_served(keyed: Settings) -> None:
    """This is a browser's way; before it nothing else is acted on."""
    async with running_gateway(keyed) as gateway, knock(gateway) as client:
        first = await said(client, SUBSCRIBE)
        assert (first["op"], first["code"]) == ("error", "unauthorized")
        assert await said(client, {"op": "auth", "key": KEY}) == {"op": "authenticated"}
        assert (await said(client, SUBSCRIBE))["op"] == "subscribed"


async def test_auth_with_a_wrong_key_closes_with_4401(keyed: Settings) -> None:
    """The reason is a sentence."""
    async with running_gateway(keyed) as gateway, knock(gateway) as client:
        await client.send('{"op":"auth","key":"x"}')
        code, reason = await closed(client)
        assert code == 4401
        assert reason
        assert "not valid" in reason


async def test_auth_that_does_not_come_closes_with_4408(
    keyed: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Talking of something else does not prolong the time."""
    monkeypatch.setattr(gateway_app, "AUTH_WITHIN_S", 2.0)
    async with running_gateway(keyed) as gateway, knock(gateway) as client:
        for _ in range(4):
            assert (await said(client, {"op": "ping"}))["code"] == "unauthorized"
        assert (await closed(client))[0] == 4408


async def test_auth_beyond_the_connections_of_its_key_closes_with_4429(keyed: Settings) -> None:
    """A place that gets free can be taken."""
    async with running_gateway(keyed, ws_max_per_key=1) as gateway:
        async with knock(gateway, {"X-API-Key": KEY}), knock(gateway) as second:
            await second.send(json.dumps({"op": "auth", "key": KEY}))
            assert (await closed(second))[0] == 4429
            answer = await denied(gateway, {"X-API-Key": KEY})
            assert answer.status_code == 429
            assert int(answer.headers["Retry-After"]) > 0

        async def served() -> bool:
            async with knock(gateway, {"X-API-Key": KEY}) as client:
                return bool((await said(client, SUBSCRIBE))["op"] == "subscribed")

        await eventually(served)


async def test_connections_beyond_those_of_an_address_get_429(settings: Settings) -> None:
    """Whoever is there already is not touched."""
    async with (
        running_gateway(settings, ws_max_per_address=2) as gateway,
        subscriber(gateway) as first,
        subscriber(gateway),
    ):
        answer = await denied(gateway)
        assert (answer.status_code, json.loads(answer.body)["code"]) == (
            429,
            "too_many_connections",
        )
        assert (await said(first, {"op": "ping"}))["op"] == "pong"


async def test_handshakes_beyond_the_rate_get_429_and_may_come_again(settings: Settings) -> None:
    """Retry-After says when."""
    async with running_gateway(settings, ws_handshakes_per_sec=2) as gateway:
        async with knock(gateway), knock(gateway):
            answer = await denied(gateway)
        assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")

        async def served() -> bool:
            try:
                async with knock(gateway):
                    return True
            except InvalidStatus:
                return False

        await eventually(served)


async def test_address_behind_a_trusted_proxy_is_the_clients(settings: Settings) -> None:
    """Only what the proxy itself has added counts; a client cannot choose its address."""
    limits: dict[str, Any] = {"ws_max_per_address": 1, "gateway_trusted_proxies": ("127.0.0.1",)}
    async with (
        running_gateway(settings, **limits) as gateway,
        knock(gateway, {"X-Forwarded-For": "198.51.100.7"}),
        knock(gateway, {"X-Forwarded-For": "198.51.100.8"}),
    ):
        forged = {"X-Forwarded-For": "203.0.113.9, 198.51.100.8"}
        assert (await denied(gateway, forged)).status_code == 429


async def test_address_without_trusted_proxies_is_the_peers(settings: Settings) -> None:
    """By default nobody is believed."""
    async with (
        running_gateway(settings, ws_max_per_address=1) as gateway,
        knock(gateway, {"X-Forwarded-For": "198.51.100.7"}),
    ):
        assert (await denied(gateway, {"X-Forwarded-For": "198.51.100.8"})).status_code == 429


async def test_rest_with_keys_demands_one_and_health_does_not(keyed: Settings) -> None:
    """Load balancers and Prometheus have no key."""
    async with (
        running_gateway(keyed) as gateway,
        httpx.AsyncClient(trust_env=False, base_url=gateway.http, timeout=PATIENCE_S) as http,
    ):
        for path in ("/healthz", "/readyz", "/metrics"):
            assert (await http.get(path)).status_code == 200
        for headers in ({}, {"X-API-Key": "x"}, {"Authorization": "Basic aw=="}):
            answer = await http.get("/v1/products", headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
            assert answer.headers["WWW-Authenticate"] == "Bearer"
        for headers in ({"X-API-Key": KEY}, {"Authorization": "bearer k-2"}):
            assert (await http.get("/v1/products", headers=headers)).status_code == 200


async def test_keys_appear_neither_in_metrics_nor_in_the_log(
    keyed: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    """Valid ones and wrong ones, in headers and in messages, also at the most talkative level."""
    async with running_gateway(keyed, log_level="DEBUG") as gateway:
        await denied(gateway, {"X-API-Key": "wrong-one"})
        async with knock(gateway, {"X-API-Key": KEY}):
            pass
        async with knock(gateway) as client:
            await client.send('{"op":"auth","key":"wrong-two"}')
            assert (await closed(client))[0] == 4401
        text = (await gateway.get("/metrics")).text
    assert 'md_gateway_refused_total{code="unauthorized"} 2.0' in text
    text += "".join(capfd.readouterr())
    assert not [key for key in (KEY, "wrong-one", "wrong-two") if key in text]
