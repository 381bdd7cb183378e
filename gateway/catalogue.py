"""Which products there are: those of the configuration, and whatever the log has brought."""

from collections.abc import Callable, Iterable, Iterator

from gateway.product import Product
from gateway.protocol import ALL_PRODUCTS, ClientError
from models.subjects import product_of

_SHOWN = 10


class Catalogue:
    """Every product by venue and name; it only grows, by what the log holds."""

    def __init__(self, venue: str, names: Iterable[str], on_new: Callable[[Product], None]) -> None:
        """Begin with a venue's products; `on_new` is called with each that appears later."""
        self._products: dict[tuple[str, str], Product] = {}
        self._named: dict[str, list[Product]] = {}
        self._subjects: dict[str, Product] = {}
        self._on_new = on_new
        for name in names:
            self._add(venue, name)

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
            product = self._add(venue, name)
            self._on_new(product)
        return product

    def _add(self, venue: str, name: str) -> Product:
        product = self._products[venue, name] = Product(venue, name)
        self._named.setdefault(name, []).append(product)
        return product

    def one(self, name: str) -> Product:
        """Return the product of a name, which may be `venue/product`.

        Raises:
            ClientError: `unknown_product`, or `ambiguous_product`: several venues have it.
        """
        venue, _, bare = name.rpartition("/")
        found = [product for product in self._named.get(bare, ()) if venue in ("", product.venue)]
        if len(found) > 1:
            raise ClientError(
                "ambiguous_product",
                f"{name} is traded at {_listed([product.venue for product in found])}: name it "
                f"{found[0].venue}/{name}.",
            )
        if not found:
            raise self._unknown([name])
        return found[0]

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
        unknown = [name for name in names if name not in self._named and name != ALL_PRODUCTS]
        if unknown:
            raise self._unknown(unknown)

    def _unknown(self, names: list[str]) -> ClientError:
        return ClientError(
            "unknown_product",
            f"not known here: {_listed(names)}; known: "
            f"{_listed(sorted(self._named)) or 'none'}. "
            'Name known products, or ["*"] for all.',
        )


def _listed(names: list[str]) -> str:
    """Join names, at most a few of them."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(name[:64] for name in names[:_SHOWN]) + more
