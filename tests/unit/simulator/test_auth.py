"""The signature check."""

import pytest

from venues.simulator.auth import refusal, signature
from venues.simulator.config import Keys

SIGNED: dict[str, object] = {
    "key": "sim-key",
    "passphrase": "sim-passphrase",
    "timestamp": "1493343391.076892",
    "signature": "Gt5TiJQH8Z1/D5L/nu4kxTFOIbT49iONuH36/rKLsHM=",
}
"""The documentation's test vector, with the simulator's default key."""
SENT_S = 1493343391.0


def test_signature_of_the_test_vector_is_as_documented() -> None:
    """The default secret is the vector's."""
    assert signature(Keys().secret, "1493343391.076892") == SIGNED["signature"]


def test_refusal_of_a_good_message_is_none() -> None:
    """Signed with the right key, and fresh."""
    assert refusal(SIGNED, Keys(), SENT_S + 29) is None
    assert refusal(SIGNED, Keys(max_skew_s=None), SENT_S + 10**9) is None


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("key", "other", "invalid api key"),
        ("passphrase", "other", "invalid passphrase"),
        ("timestamp", "nan", "request timestamp expired"),
        ("timestamp", "soon", "request timestamp expired"),
        ("timestamp", "1493343390", "invalid signature"),
        ("signature", "é", "invalid signature"),
    ],
)
def test_refusal_of_a_bad_field_says_which(name: str, value: str, why: str) -> None:
    """Each wrong field has its own reason."""
    assert refusal(SIGNED | {name: value}, Keys(), SENT_S) == why


def test_refusal_of_an_old_message_says_expired() -> None:
    """Half a minute is the limit, in both directions."""
    for now in (SENT_S + 31, SENT_S - 31):
        assert refusal(SIGNED, Keys(), now) == "request timestamp expired"
