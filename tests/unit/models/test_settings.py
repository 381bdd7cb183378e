"""Settings: addresses that hold a password are refused, and no sentence shows one."""

import pytest

from models.settings import Settings, SettingsError, load_settings, usable_settings

_ADDRESSES = sorted(
    name
    for name in Settings.model_fields
    if name.endswith(("_endpoint", "_url", "_urls", "temporal_address"))
    or name.startswith(("coinbase_ws_", "coinbase_advanced_ws"))
)


def test_every_address_is_known_here() -> None:
    """A setting whose default is an address is among them."""
    for name, field in Settings.model_fields.items():
        default = "".join(field.default) if isinstance(field.default, tuple) else field.default
        assert "://" not in str(default) or name in _ADDRESSES
    assert len(_ADDRESSES) == 10


@pytest.mark.parametrize("name", _ADDRESSES)
@pytest.mark.parametrize("address", ["https://user:geheim@host:1/x", "user:geheim@host:1"])
def test_a_password_in_an_address_is_refused_and_not_shown(
    name: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Addresses are logged; the sentence says which it is, and where a password belongs."""
    monkeypatch.setenv(name.upper(), address)
    with pytest.raises(SettingsError, match="user and password out of it") as refused:
        load_settings()
    assert name.upper() in str(refused.value)
    assert "geheim" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LOG_LEVEL", "https://user:geheim@host"),
        ("COINBASE_PRODUCTS", "BTC-USD,user:geheim@host"),
        ("GATEWAY_TRUSTED_PROXIES", "user:geheim@host"),
        ("GATEWAY_PORT", "user:geheim@host"),
        ("REPLAY_NAMESPACE", "user:geheim@host"),
        ("NATS_CREDS", "/no/geheim@host"),
        ("AUTH_API_KEYS", "sha256:geheim@host"),
    ],
)
def test_no_sentence_shows_what_may_be_a_password(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where an address was put into another setting, and where the reason would quote it."""
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as refused:
        load_settings()
    assert name in str(refused.value)
    assert "geheim" not in str(refused.value)
    usable, told = usable_settings()
    assert usable is not None
    assert "geheim" not in "".join(told)


def test_other_values_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who mistyped one sees it."""
    monkeypatch.setenv("GATEWAY_PORT", "80000")
    with pytest.raises(SettingsError, match="GATEWAY_PORT='80000': "):
        load_settings()
