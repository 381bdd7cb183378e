"""Which products there are: those of the configuration, and whatever the log has brought."""

from collections.abc import Callable, Iterable, Iterator

from gateway.product import Product
from gateway.protocol import ALL_PRODUCTS, ClientError
from models.subjects import product_of

VENUE = "coinbase"
"""Venue of a product that is configured and has had no message yet."""

_SHOWN = 10


class Catalogue:
    """Every product by venue and name; it only grows, by what the log holds."""

    def __init__(self, names: Iterable[str], on_new: Callable[[Product], None]) -> None:
        """Begin with configured products; `on_new` is called with each that appears later."""
        self._products = {(VENUE, name): Product(VENUE, name) for name in names}
        self._subjects: dict[str, Product] = {}
        self._on_new = on_new

    def __iter__(self) -> Iterator[Product]:
        return iter(self._products.values())

    def of_subject(self, subject: str) -> Product:
        """Return the product of a ticks subject."""
        product = self._subjects.get(subject)
        if product is None:
            product = self._subjects[subject] = self.find(*product_of(subject))
        return product

    def find(self, venue: str, name: str) -> Product:
        """Return a product, which is new if it has not been seen."""
        product = self._products.get((venue, name))
        if product is None:
            product = self._products[venue, name] = Product(venue, name)
            self._on_new(product)
        return product

    def matching(self, names: Iterable[str]) -> list[Product]:
        """Return the products of these names, at every venue; `*` means all."""
        wanted = set(names)
        if ALL_PRODUCTS in wanted:
            return list(self)
        return [product for product in self if product.name in wanted]

    def check(self, names: Iterable[str]) -> None:
        """Make sure that every name can be subscribed to.

        Raises:
            ClientError: `unknown_product`, with the names.
        """
        known = {product.name for product in self}
        unknown = [name for name in names if name not in known and name != ALL_PRODUCTS]
        if unknown:
            raise ClientError(
                "unknown_product",
                f"not known here: {_listed(unknown)}; known: {_listed(sorted(known))}. "
                'Name known products, or ["*"] for all.',
            )


def _listed(names: list[str]) -> str:
    """Join names, at most a few of them."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
