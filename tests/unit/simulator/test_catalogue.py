"""Products and exact decimal text."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.examples import examples
from venues.simulator.catalogue import ProductError, exact, product, short


@given(st.integers(0, 10**27), st.integers(0, 12))
@examples(100)
def test_exact_and_short_spell_the_same_number(value: int, places: int) -> None:
    """Every digit, or every digit that matters."""
    number = Decimal(value).scaleb(-places)
    assert Decimal(exact(value, places)) == Decimal(short(value, places)) == number
    assert len(exact(value, places).partition(".")[2]) == places
    assert not short(value, places).endswith(".")


def test_product_is_listed_with_its_increments() -> None:
    """Known coins have their own increments, others the ordinary ones."""
    assert product("DOGE-USD").listing["base_increment"] == "0.1"
    assert product("DOGE-USD").listing["quote_increment"] == "0.00001"
    assert product("NEW-EUR").start_price == 10_000


@pytest.mark.parametrize("name", ["", "BTC", "btc-usd", "BTC-USD-X", "BTC/USD", "BTC-"])
def test_product_with_a_bad_name_is_refused(name: str) -> None:
    """The error names it."""
    with pytest.raises(ProductError) as caught:
        product(name)
    assert caught.value.name == name
