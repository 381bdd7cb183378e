"""Keys and limits: who may come in, who may not, and what either leaves behind."""

import asyncio
from hashlib import sha256

import pytest
from pydantic import SecretStr
from starlette.datastructures import Headers

from gateway.access import Access, Keys, RefusedError, key_of
from gateway.drain import shares
from models.settings import SettingsError, load_settings
from tests.servers import PATIENCE_S
from tests.unit.gateway.pipes import Pipe

DIGEST = sha256(b"hunter2").hexdigest()


def access(**settings: object) -> Access:
    """Return the door of a gateway with these settings."""
    return Access(load_settings(**settings))


def keys(*entries: str) -> Keys:
    """Return keys of these entries."""
    return Keys(SecretStr(entry) for entry in entries)


@pytest.mark.parametrize(
    ("entries", "key"),
    [
        (["hunter2"], "hunter2"),
        (["other", "hunter2"], "hunter2"),
        ([f"sha256:{DIGEST}"], "hunter2"),
        ([f"sha256:{DIGEST.upper()}"], "hunter2"),
        (["schlüssel"], "schlüssel"),
    ],
)
def test_check_with_a_valid_key_knows_it(entries: list[str], key: str) -> None:
    """Plain entries and digests are the same."""
    assert keys(*entries).check(key) == sha256(key.encode()).digest()


@pytest.mark.parametrize("key", ["", "hunter", "hunter22", DIGEST, f"sha256:{DIGEST}", "\ud800"])
def test_check_with_another_key_refuses_it(key: str) -> None:
    """Nor does a digest open the door that it guards."""
    with pytest.raises(RefusedError) as refused:
        keys(f"sha256:{DIGEST}").check(key)
    assert (refused.value.status, refused.value.close_code) == (401, 4401)
    assert "hunter" not in refused.value.msg


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({"x-api-key": "a"}, "a"),
        ({"authorization": "Bearer a"}, "a"),
        ({"authorization": "bEARER  a "}, "a"),
        ({"authorization": "Basic a"}, None),
        ({"x-api-key": "a", "authorization": "Bearer b"}, "a"),
        ({}, None),
        ({"x-api-key": "schlüssel".encode().decode("latin-1")}, "schlüssel"),
    ],
)
def test_key_of_headers_finds_it(headers: dict[str, str], key: str | None) -> None:
    """X-API-Key comes before Authorization."""
    assert key_of(Headers(headers)) == key


@pytest.mark.parametrize(
    "entry", ["sha256:", "sha256:abc", f"sha256:{DIGEST}0", f"sha256:{'g' * 64}"]
)
def test_settings_with_a_malformed_digest_say_so_without_showing_keys(entry: str) -> None:
    """One sentence names the entry by its number; neither it nor another key is in it."""
    with pytest.raises(
        SettingsError, match=r"AUTH_API_KEYS: .*entry 2 begins with sha256:"
    ) as error:
        load_settings(auth_api_keys=f"hunter2,{entry}")
    assert "hunter2" not in str(error.value)
    assert DIGEST not in str(error.value)


def test_settings_with_a_proxy_that_is_no_network_say_so() -> None:
    """A name would never match an address."""
    with pytest.raises(SettingsError, match="GATEWAY_TRUSTED_PROXIES"):
        load_settings(gateway_trusted_proxies="10.0.0.0/8,proxy.example")


async def test_enter_beyond_the_connections_of_an_address_refuses_until_one_leaves() -> None:
    """Other addresses do not matter, and nothing is kept of those who left."""
    door = access(ws_max_per_address=2)
    first, _ = (door.enter(Pipe(1).sink, "a", None, 0) for _ in range(2))
    other = door.enter(Pipe(1).sink, "b", None, 0)
    with pytest.raises(RefusedError) as refused:
        door.enter(Pipe(1).sink, "a", None, 0)
    assert (refused.value.status, refused.value.code) == (429, "too_many_connections")
    assert refused.value.retry_s
    door.leave(first)
    door.leave(other)
    door.enter(Pipe(1).sink, "a", None, 0)
    assert dict(door._counts) == {"a": 2}


async def test_enter_beyond_the_connections_of_a_key_refuses_until_one_leaves() -> None:
    """Whichever way the key came."""
    door = access(ws_max_per_key=2, auth_api_keys="k,l")
    first = door.enter(Pipe(1).sink, "a", "k", 0)
    second = door.enter(Pipe(1).sink, "b", None, 0)
    door.identify(second, "k")
    third = door.enter(Pipe(1).sink, "c", None, 0)
    with pytest.raises(RefusedError) as refused:
        door.identify(third, "k")
    assert (refused.value.status, refused.value.close_code) == (429, 4429)
    with pytest.raises(RefusedError):
        door.enter(Pipe(1).sink, "d", "k", 0)
    door.enter(Pipe(1).sink, "d", "l", 0)
    door.leave(first)
    door.identify(third, "k")
    assert {guest.address for guest in door.guests} == {"b", "c", "d"}


async def test_enter_with_a_wrong_key_leaves_nothing_behind() -> None:
    """Whoever is refused is not counted."""
    door = access(auth_api_keys="k")
    with pytest.raises(RefusedError):
        door.enter(Pipe(1).sink, "a", "x", 0)
    assert not door.guests
    assert not door._counts
    assert door.empty.is_set()


async def test_enter_of_an_open_gateway_ignores_keys() -> None:
    """A client may send one wherever it connects."""
    door = access(ws_max_per_key=1)
    assert [door.enter(Pipe(1).sink, "a", "k", 0).key for _ in range(2)] == [None, None]


async def test_enter_beyond_the_rate_of_handshakes_refuses_until_the_wait_is_over() -> None:
    """As many as the rate may come at once."""
    door = access(ws_handshakes_per_sec=4)
    for _ in range(4):
        door.enter(Pipe(1).sink, "a", None, 100.0)
    with pytest.raises(RefusedError) as refused:
        door.enter(Pipe(1).sink, "a", None, 100.0)
    assert (refused.value.status, refused.value.retry_s) == (429, 1)
    door.enter(Pipe(1).sink, "a", None, 100.26)


async def test_empty_is_set_when_the_last_guest_leaves() -> None:
    """A drain waits for it."""
    door = access()
    guests = [door.enter(Pipe(1).sink, "a", None, 0) for _ in range(2)]
    waiting = asyncio.create_task(door.empty.wait())
    door.leave(guests[0])
    await asyncio.sleep(0)
    assert not waiting.done()
    door.leave(guests[1])
    async with asyncio.timeout(PATIENCE_S):
        await waiting


@pytest.mark.parametrize("count", [0, 1, 7, 1000])
def test_shares_are_spread_evenly_in_random_order(count: int) -> None:
    """Each tenth of the time gets its part, and none is beyond it."""
    moments = shares(count, 5.0)
    assert len(moments) == count
    assert all(
        number * 5.0 <= moment * count <= (number + 1) * 5.0
        for number, moment in enumerate(sorted(moments))
    )
    assert count < 7 or moments != sorted(moments)
