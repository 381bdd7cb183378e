"""What is said to the gateway stays within its limits and leaves nothing out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.chain import Key
from client.subscription import (
    MAX_PRODUCTS,
    Position,
    Request,
    Subscription,
    from_position,
    to_position,
)
from gateway.protocol import MAX_MESSAGE_BYTES
from models.canonical import FEEDS

chains = st.dictionaries(
    st.tuples(
        st.sampled_from(["coinbase", "kraken"]),
        st.integers(0, 3000).map(lambda number: f"P{number}-USD"),
        st.sampled_from(FEEDS),
    ),
    st.integers(0, 2**53),
    max_size=30,
)


def many(count: int) -> dict[Key, int]:
    """Return chains of so many products."""
    return {
        ("coinbase", f"PRODUCT{number}-USD", feed): 10**15 + number
        for number in range(count)
        for feed in FEEDS
    }


def resumed(requests: list[Request]) -> dict[Key, int]:
    """Return all positions of the requests."""
    found: dict[Key, int] = {}
    for request in requests:
        position: Position = {"epoch": "e", "from_seq": request.fields.get("from_seq", {})}
        found |= from_position(position)
        assert set(request.resumes) == set(from_position(position))
    return found


@given(chains)
def test_position_comes_back_as_it_was(known: dict[Key, int]) -> None:
    """What is stored is what is read."""
    assert from_position(to_position(known, "e")) == known


@pytest.mark.parametrize("count", [1, 400, 3000])
@pytest.mark.parametrize("how", ["all", "named"])
def test_requests_keep_the_limits_and_name_everything_once(count: int, how: str) -> None:
    """However many products there are, each message can be read and each chain goes on."""
    known = many(count)
    products = ["*"] if how == "all" else list(dict.fromkeys(product for _, product, _ in known))
    requests = list(Subscription(products).requests(known, "e"))
    assert resumed(requests) == known
    assert all(len(request.text().encode()) <= MAX_MESSAGE_BYTES for request in requests)
    names = [name for request in requests for name in request.fields["products"]]
    assert len(names) == len(set(names))
    assert all(len(request.fields["products"]) <= MAX_PRODUCTS for request in requests)
    if how == "all":
        assert requests[0].fields["products"] == ["*"]
    else:
        assert names == products
    assert (len(requests) > 1) == (count > 400)


def test_requests_without_a_position_are_one_message() -> None:
    """The usual case is the plain one, and `*` stands alone."""
    (request,) = Subscription(["*", "A-USD"], ["book"], depth=7, on_slow="disconnect").requests(
        {}, None
    )
    assert request.fields == {
        "products": ["*"],
        "feeds": ("book",),
        "depth": 7,
        "on_slow": "disconnect",
    }


def test_every_request_names_the_replay() -> None:
    """However many messages it takes, and for one chain alone, too."""
    known = many(3000)
    subscription = Subscription(["*"], namespace="replay-monday")
    requests = [*subscription.requests(known, "e"), subscription.one(next(iter(known)), 5, "e")]
    assert len(requests) > 2
    assert {request.fields["namespace"] for request in requests} == {"replay-monday"}
    assert {request.anew().fields["namespace"] for request in requests} == {"replay-monday"}


def test_requests_keep_a_product_of_two_venues_together() -> None:
    """A name subscribes to all venues, so one message must have all of its positions."""
    known: dict[Key, int] = {}
    for (_, product, feed), seq in many(1200).items():
        known["coinbase", product, feed] = known["kraken", product, feed] = seq
    for request in Subscription(["*"]).requests(known, "e"):
        venues: dict[str, set[str]] = {}
        for venue, product, _ in request.resumes:
            venues.setdefault(product, set()).add(venue)
        assert all(found == {"coinbase", "kraken"} for found in venues.values())


@pytest.mark.parametrize("bad", [{"epoch": 5}, {"epoch": None, "from_seq": {"A-USD": {}}}])
def test_position_that_is_none_is_told(bad: Position) -> None:
    """A wrong file is noticed before anything is asked."""
    with pytest.raises(ValueError, match="position"):
        from_position(bad)


@pytest.mark.parametrize(("products", "feeds"), [("BTC-USD", FEEDS), ([], FEEDS), (["*"], [])])
def test_subscription_to_nothing_is_told(products: list[str], feeds: list[str]) -> None:
    """A plain word would be taken for a list of letters."""
    with pytest.raises(ValueError, match="as lists"):
        Subscription(products, feeds)  # type: ignore[arg-type]
