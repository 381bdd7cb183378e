"""Which addresses bypass the proxy."""

import pytest

from venues.coinbase.addresses import goes_direct, proxy_for


@pytest.mark.parametrize(
    "url", ["ws://127.0.0.1:1", "ws://localhost", "ws://[::1]:2", "wss://in.x"]
)
def test_goes_direct_own_host_needs_no_proxy(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """This host, and what the environment exempts, are reached directly."""
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "in.x")
    assert goes_direct(url)
    assert proxy_for(url) is None


def test_proxy_for_outside_is_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    """A venue outside is reached as the environment says."""
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    assert proxy_for("wss://ws-feed.exchange.coinbase.com") == "http://proxy:3128"
