"""What the simulated exchange lists: products, their increments and where their price starts.

Any name of the form BASE-QUOTE can be listed; those not named here trade around 100.00.
Renders the exact decimal text of integer prices and sizes.
"""

import re
from dataclasses import dataclass, field
from functools import cached_property

from models.subjects import token

_NAME = re.compile(r"[A-Z0-9]{1,16}-[A-Z0-9]{1,16}").fullmatch

_KNOWN = {
    "BTC": ("83420.00", "0.00000001"),
    "ETH": ("3120.50", "0.00000001"),
    "SOL": ("178.40", "0.00000001"),
    "LTC": ("96.10", "0.00000001"),
    "LINK": ("17.200", "0.01"),
    "AVAX": ("28.500", "0.00000001"),
    "DOT": ("6.400", "0.00000001"),
    "ADA": ("0.7200", "0.00000001"),
    "XRP": ("2.3100", "0.000001"),
    "DOGE": ("0.17000", "0.1"),
}
"""Base currency to start price (its digits are the quote increment) and base increment."""

_ORDINARY = ("100.00", "0.00000001")


class ProductError(ValueError):
    """A product name that cannot be listed.

    Attributes: name, the offending text.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"{name!r} is no product name: use BASE-QUOTE, such as BTC-USD")
        self.name = name


def exact(value: int, places: int) -> str:
    """Render an integer count of 10^-places with all its digits."""
    if not places:
        return str(value)
    whole, part = divmod(value, 10**places)
    return f"{whole}.{part:0{places}d}"


def short(value: int, places: int) -> str:
    """Render an integer count of 10^-places without trailing zeros."""
    return exact(value, places).rstrip("0").rstrip(".") if places else str(value)


@dataclass(frozen=True)
class Product:
    """One product: `price_places` and `size_places` are the digits after the point."""

    id: str
    start_price: int
    price_places: int
    size_places: int
    base: str = field(init=False)
    quote: str = field(init=False)

    def __post_init__(self) -> None:
        """Split the name, which the rest of the product follows from."""
        base, _, quote = self.id.partition("-")
        object.__setattr__(self, "base", base)
        object.__setattr__(self, "quote", quote)

    @cached_property
    def listing(self) -> dict[str, object]:
        """The product as REST `/products` and the `status` channel show it."""
        return {
            "id": self.id,
            "base_currency": self.base,
            "quote_currency": self.quote,
            "quote_increment": exact(1, self.price_places),
            "base_increment": exact(1, self.size_places),
            "display_name": f"{self.base}-{self.quote}",
            "min_market_funds": "1",
            "margin_enabled": False,
            "post_only": False,
            "limit_only": False,
            "cancel_only": False,
            "status": "online",
            "status_message": "",
            "trading_disabled": False,
            "fx_stablecoin": False,
            "max_slippage_percentage": "0.02000000",
            "auction_mode": False,
            "high_bid_limit_percentage": "",
        }


def product(name: str) -> Product:
    """Return the product of that name.

    Raises:
        ProductError: the name is not BASE-QUOTE in capitals and digits.
    """
    if not _NAME(name):
        raise ProductError(name)
    price, increment = _KNOWN.get(token(name).partition("-")[0], _ORDINARY)
    whole, _, part = price.partition(".")
    return Product(
        id=name,
        start_price=int(whole + part),
        price_places=len(part),
        size_places=len(increment.partition(".")[2]),
    )
