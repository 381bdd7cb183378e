"""The order book equals the obvious slow one."""

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from models.canonical import Side
from streaming.core.book import Book

PRICES = st.decimals(1, 30, places=2)
SIZES = st.one_of(st.sampled_from(["0", "0.0", "0.00000000"]), st.integers(1, 99).map(str))
SIDES: st.SearchStrategy[Side] = st.sampled_from(["bid", "ask"])


@st.composite
def changes(draw: st.DrawFn) -> tuple[Side, str, str]:
    """Draw one change; the same price may come with more or fewer digits."""
    price = f"{draw(PRICES):f}"
    if draw(st.booleans()):
        price += "0"
    return draw(SIDES), price, draw(SIZES)


def naive(applied: list[tuple[Side, str, str]]) -> dict[Side, dict[Decimal, Decimal]]:
    """Replay into plain dictionaries."""
    levels: dict[Side, dict[Decimal, Decimal]] = {"bid": {}, "ask": {}}
    for side, price, size in applied:
        levels[side][Decimal(price)] = Decimal(size)
        if not Decimal(size):
            del levels[side][Decimal(price)]
    return levels


@given(st.lists(changes(), max_size=200))
def test_book_after_any_changes_equals_a_dictionary(
    applied: list[tuple[Side, str, str]],
) -> None:
    """Levels, order, best prices and the crossed flag agree; no level is zero."""
    book = Book()
    book.apply(applied)
    expected = naive(applied)
    bids = [(Decimal(price), Decimal(size)) for price, size in book.bids()]
    asks = [(Decimal(price), Decimal(size)) for price, size in book.asks()]
    assert bids == sorted(expected["bid"].items(), reverse=True)
    assert asks == sorted(expected["ask"].items())
    assert book.best_bid == max(expected["bid"], default=None)
    assert book.best_ask == min(expected["ask"], default=None)
    crossed = bool(bids and asks and bids[0][0] >= asks[0][0])
    assert book.crossed == crossed
    assert all(size for _, size in bids + asks)
    assert len(book) == len(bids) + len(asks)


@given(st.lists(changes(), max_size=60), st.lists(changes(), max_size=60))
def test_snapshot_plus_changes_equals_the_later_snapshot(
    before: list[tuple[Side, str, str]], after: list[tuple[Side, str, str]]
) -> None:
    """A book built from a snapshot and the changes since is the book that saw everything."""
    whole = Book()
    whole.apply(before)
    rebuilt = Book(whole.bids(), whole.asks())
    rebuilt.apply(after)
    whole.apply(after)
    assert (rebuilt.bids(), rebuilt.asks()) == (whole.bids(), whole.asks())


def test_book_of_many_cancelled_levels_stays_small() -> None:
    """Dead heap entries are bounded by the live levels, however many come and go."""
    book = Book()
    for number in range(100_000):
        price = f"{1 + number % 5000}"
        book.apply([("bid", price, "1"), ("bid", price, "0")])
    assert len(book) == 0
    assert len(book._bids._heap) <= 65
