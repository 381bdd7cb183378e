"""Signatures against the documented vector."""

import base64

import pytest

from venues.coinbase.auth import (
    BadSecretError,
    Credentials,
    sign_rest,
    sign_subscribe,
    timestamp_text,
)

KEYS = Credentials("name", base64.b64encode(b"a" * 64).decode(), "phrase")


def test_sign_subscribe_documented_vector_matches() -> None:
    """The vector of COINBASE.md, and all four fields."""
    assert sign_subscribe(KEYS, "1493343391.076892") == {
        "signature": "Gt5TiJQH8Z1/D5L/nu4kxTFOIbT49iONuH36/rKLsHM=",
        "key": "name",
        "passphrase": "phrase",
        "timestamp": "1493343391.076892",
    }


def test_sign_rest_verify_path_equals_subscribe() -> None:
    """A subscribe is signed as a GET of the verify path, so the two agree."""
    headers = sign_rest(KEYS, "1493343391.076892", "get", "/users/self/verify")
    assert headers == {
        "CB-ACCESS-KEY": "name",
        "CB-ACCESS-SIGN": "Gt5TiJQH8Z1/D5L/nu4kxTFOIbT49iONuH36/rKLsHM=",
        "CB-ACCESS-TIMESTAMP": "1493343391.076892",
        "CB-ACCESS-PASSPHRASE": "phrase",
    }


def test_sign_rest_body_changes_the_signature() -> None:
    """The body is signed, too."""
    one = sign_rest(KEYS, "1", "POST", "/orders", '{"a":1}')
    two = sign_rest(KEYS, "1", "POST", "/orders", '{"a":2}')
    assert one["CB-ACCESS-SIGN"] != two["CB-ACCESS-SIGN"]


@pytest.mark.parametrize("secret", ["", "not base64!", "abc", "schlüssel"])
def test_credentials_bad_secret_is_refused(secret: str) -> None:
    """A secret that cannot sign is refused at once, and not shown."""
    with pytest.raises(BadSecretError, match="COINBASE_API_SECRET") as caught:
        Credentials("name", secret, "phrase")
    assert not secret or secret not in str(caught.value)


def test_credentials_repr_hides_secrets() -> None:
    """Neither secret nor passphrase appear in the text form."""
    assert repr(KEYS) == "Credentials(key='name')"


def test_timestamp_text_spells_six_decimals() -> None:
    """Seconds, a dot, and always six digits."""
    assert timestamp_text(1_493_343_391_076_892_999) == "1493343391.076892"
    assert timestamp_text(5_000_001_000) == "5.000001"
