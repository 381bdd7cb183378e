"""Properties of the simulated exchange's engine and order flow."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tests.examples import examples
from venues.simulator.catalogue import product
from venues.simulator.engine import BookSide, MatchingEngine
from venues.simulator.events import Change, Done, Event, Match, Open, Received, Side
from venues.simulator.market import POOL_TARGET, Market

_sides = st.sampled_from(["buy", "sell"])
_sizes = st.integers(1, 50)
_commands = st.lists(
    st.one_of(
        st.tuples(st.just("limit"), _sides, st.integers(1, 30), _sizes),
        st.tuples(st.just("size"), _sides, _sizes, _sizes),
        st.tuples(st.just("funds"), _sides, st.integers(1, 500), _sizes),
        st.tuples(st.just("cancel"), _sides, st.integers(0, 40), _sizes),
        st.tuples(st.just("change"), _sides, st.integers(0, 40), _sizes),
    ),
    max_size=60,
)


def _run(engine: MatchingEngine, command: tuple[str, str, int, int]) -> list[Event]:
    name, side_name, number, size = command
    side: Side = "buy" if side_name == "buy" else "sell"
    if name == "limit":
        return engine.limit(side, number, size).events
    if name == "size":
        return engine.market(side, size=size).events
    if name == "funds":
        return engine.market(side, funds=number).events
    order = engine.orders.get(number)
    if order is None:
        return []
    if name == "change" and size < order.remaining:
        return engine.change(number, size).events
    return engine.cancel(number).events


def _check_book(engine: MatchingEngine) -> None:
    bid, ask = engine.bids.best(), engine.asks.best()
    assert bid is None or ask is None or bid < ask
    for side in (engine.bids, engine.asks):
        assert list(side.prices()) == sorted(side.levels, reverse=side.side == "buy")
        for level in side.levels.values():
            assert level.total == sum(order.remaining for order in level.orders.values()) > 0
            assert all(order.remaining > 0 for order in level.orders.values())
    assert _resting(engine.bids) + _resting(engine.asks) == len(engine.orders)


def _resting(side: BookSide) -> int:
    return sum(len(level.orders) for level in side.levels.values())


@given(_commands)
@examples(100)
def test_engine_any_commands_keep_the_book_whole(
    commands: list[tuple[str, str, int, int]],
) -> None:
    """The book is never crossed, never negative, and its levels are the sum of their orders."""
    engine = MatchingEngine()
    for command in commands:
        _run(engine, command)
        _check_book(engine)


@given(_commands)
@examples(100)
def test_engine_any_commands_number_without_gaps(
    commands: list[tuple[str, str, int, int]],
) -> None:
    """Every event takes the next sequence, every match the next trade id."""
    engine = MatchingEngine(sequence=5, trade_id=9)
    events = [event for command in commands for event in _run(engine, command)]
    assert [event.seq for event in events] == list(range(6, 6 + len(events)))
    trades = [event.trade_id for event in events if isinstance(event, Match)]
    assert trades == list(range(10, 10 + len(trades)))


@given(_commands)
@examples(100)
def test_engine_any_commands_conserve_volume(commands: list[tuple[str, str, int, int]]) -> None:
    """What came in limit orders was traded, canceled, reduced, or still rests."""
    engine = MatchingEngine()
    came: Counter[int] = Counter()
    went: Counter[int] = Counter()
    for command in commands:
        for event in _run(engine, command):
            if isinstance(event, Received) and event.price is not None:
                came[event.order] += event.size or 0
            elif isinstance(event, Match):
                went[event.maker] += event.size
                went[event.taker] += event.size
            elif isinstance(event, Done):
                went[event.order] += event.remaining or 0
            elif isinstance(event, Change):
                went[event.order] += event.old_size - event.new_size
    for order, size in came.items():
        rests = engine.orders[order].remaining if order in engine.orders else 0
        assert size == went[order] + rests


@given(_commands)
@examples(100)
def test_engine_events_alone_rebuild_the_book(commands: list[tuple[str, str, int, int]]) -> None:
    """A client that follows `full` knows every resting order: open, match, change, done."""
    engine = MatchingEngine()
    rests: dict[int, int] = {}
    for command in commands:
        for event in _run(engine, command):
            if isinstance(event, Open):
                rests[event.order] = event.remaining
            elif isinstance(event, Match):
                rests[event.maker] -= event.size
            elif isinstance(event, Change):
                rests[event.order] = event.new_size
            elif isinstance(event, Done):
                rests.pop(event.order, None)
    assert rests == {order.id: order.remaining for order in engine.orders.values()}


@given(st.integers(), st.sampled_from(["BTC-USD", "ADA-USD", "DOGE-EUR", "NEW-COIN"]))
@examples(15)
def test_market_same_seed_gives_the_same_events(seed: int, name: str) -> None:
    """The flow depends on seed and product alone; another seed gives another flow."""
    first, second = (Market(product(name), seed, levels=20) for _ in range(2))
    other = Market(product(name), seed + 1, levels=20)
    flows = [[market.step() for _ in range(200)] for market in (first, second, other)]
    assert flows[0] == flows[1]
    assert flows[0] != flows[2]


@given(st.integers(0, 10**6), st.sampled_from([0.05, 0.2, 0.6]))
@examples(6)
def test_market_any_seed_stays_bounded_and_trades(seed: int, trade_share: float) -> None:
    """The book does not grow with time, never crosses, and somebody always trades."""
    market = Market(product("BTC-USD"), seed, levels=20, trade_share=trade_share)
    trades = 0
    for _ in range(4000):
        trades += sum(isinstance(event, Match) for event in market.step().events)
    _check_book(market.engine)
    assert len(market.engine.orders) <= 2 * POOL_TARGET + 40
    assert trades > 100
