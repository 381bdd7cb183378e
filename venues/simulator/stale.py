"""Books that are older than they should be, as the exchange's edge cache gives them.

Real answers can be two seconds old. An injected `rest_stale_book` keeps the book of its
injection and answers with it until its count or time is used up; with `stale_ms` it is taken
anew when it has become older than that.
"""

from collections.abc import Mapping

from models.numbers import us_to_iso
from venues.simulator.exchange import Listed
from venues.simulator.fault_spec import FaultSpec
from venues.simulator.faults import Faults

_LEVELS = (1, 2, 3)


class StaleBooks:
    """Rendered books of the past, by product; `note` before the market moves on."""

    def __init__(self, faults: Faults, listed: Mapping[str, Listed]) -> None:
        self._faults = faults
        self._listed = listed
        self._kept: dict[str, tuple[int, dict[int, str]]] = {}

    def note(self, spec: FaultSpec, now_us: int) -> None:
        """Keep the books that a fault just injected will answer with."""
        for product, listed in self._listed.items():
            if spec.product in {None, product}:
                self._keep(listed, now_us)

    def book(self, listed: Listed, level: int, now_us: int) -> str:
        """Return REST's book: the present one, or the stale one if a fault says so."""
        product = listed.product.id
        kinds = frozenset({"rest_stale_book"})
        for spec in self._faults.answer("book", product, now_us, kinds):
            taken_us, books = self._kept.get(product, (0, {}))
            too_old = spec.stale_ms is not None and now_us - taken_us > spec.stale_ms * 1000
            if too_old or not books:
                books = self._keep(listed, now_us)
            return books[level]
        return listed.wire.rest_book(listed.engine, level, us_to_iso(now_us))

    def _keep(self, listed: Listed, now_us: int) -> dict[int, str]:
        time = us_to_iso(now_us)
        books = {level: listed.wire.rest_book(listed.engine, level, time) for level in _LEVELS}
        self._kept[listed.product.id] = (now_us, books)
        return books
