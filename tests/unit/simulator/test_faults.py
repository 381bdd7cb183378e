"""What each fault does to messages and answers, by itself."""

import pytest
from pydantic import ValidationError

from venues.simulator.fault_spec import FaultSpec
from venues.simulator.faults import Faults, Said, TooManyFaultsError

NOW = 1_000_000


def _said(number: int, channel: str = "matches", product: str = "BTC-USD") -> Said:
    return Said(channel, product, f'{{"type":"match","trade_id":{number},"size":"1"}}')


def _sent(faults: Faults, count: int, now_us: int = NOW) -> list[str]:
    return [
        out.text for number in range(count) for out in faults.alter(_said(number), None, now_us)
    ]


def _texts(*numbers: int) -> list[str]:
    return [_said(number).text for number in numbers]


def test_drop_hits_its_count_after_those_it_skips() -> None:
    """Count and skip count matching messages only."""
    faults = Faults()
    faults.inject(FaultSpec(kind="drop", product="BTC-USD", count=2, skip=1), NOW)
    other = _said(9, product="ETH-USD")
    assert faults.alter(other, None, NOW) == [other]
    assert _sent(faults, 5) == _texts(0, 3, 4)
    assert faults.describe(NOW)[0] | {"fault": None} == {
        "id": 1,
        "fault": None,
        "active": False,
        "hits": 2,
        "left": 0,
    }


def test_drop_without_a_count_hits_one() -> None:
    """One is the default; with a duration there is no limit."""
    faults = Faults()
    faults.inject(FaultSpec(kind="drop"), NOW)
    assert len(_sent(faults, 3)) == 2
    faults.inject(FaultSpec(kind="drop", duration_ms=5), NOW)
    assert _sent(faults, 3) == []
    assert len(_sent(faults, 3, NOW + 5000)) == 3


def test_duplicate_and_reorder_change_the_order_only() -> None:
    """Nothing is lost: twice, and neighbours swapped."""
    faults = Faults()
    faults.inject(FaultSpec(kind="duplicate"), NOW)
    assert _sent(faults, 2) == _texts(0, 0, 1)
    faults.inject(FaultSpec(kind="reorder"), NOW)
    assert _sent(faults, 3) == _texts(1, 0, 2)


def test_reorder_cleared_gives_back_what_it_holds() -> None:
    """A message waiting for its successor is not lost by clearing."""
    faults = Faults()
    faults.inject(FaultSpec(kind="reorder"), NOW)
    assert _sent(faults, 1) == []
    assert faults.expire(NOW + 10**9) == []
    (fault,) = faults.clear()
    assert [said.text for held in fault.held.values() for said in held] == _texts(0)
    assert faults.quiet


def test_malformed_comes_before_the_message_or_in_its_place() -> None:
    """Without `replace` nothing is lost."""
    faults = Faults()
    faults.inject(FaultSpec(kind="malformed"), NOW)
    sent = _sent(faults, 1)
    assert sent[1:] == _texts(0)
    assert _texts(0)[0].startswith(sent[0])
    faults.inject(FaultSpec(kind="malformed", replace=True), NOW)
    assert len(_sent(faults, 1)) == 1


def test_garbage_takes_turns_unless_told() -> None:
    """Four kinds of nonsense, all valid JSON."""
    faults = Faults()
    faults.inject(FaultSpec(kind="garbage", count=4, replace=True), NOW)
    text = "".join(_sent(faults, 4))
    for bad in ("0.-10000", "0001-01-01T00:00:00.000000Z", "mystery", "NOT-LISTED"):
        assert text.count(bad) == 1
    faults.inject(FaultSpec(kind="garbage", variant="bad_number"), NOW)
    changes = Said("level2", "BTC-USD", '{"type":"l2update","changes":[["buy","1","2"]]}')
    garbled, untouched = faults.alter(changes, None, NOW)
    assert '["buy","1","0.-10000"]' in garbled.text
    assert untouched == changes


def test_fault_of_one_connection_leaves_the_others_alone() -> None:
    """`conn` narrows a fault to one; a stall is of those open when it began."""
    faults = Faults()
    faults.inject(FaultSpec(kind="drop", conn=2, count=1), NOW, conns=(1, 2))
    assert faults.alter(_said(0), None, NOW) == [_said(0)]
    assert faults.alter(_said(0), 1, NOW) == [_said(0)]
    assert faults.alter(_said(0), 2, NOW) == []
    faults.inject(FaultSpec(kind="stall", duration_ms=10), NOW, conns=(1, 2))
    assert faults.alter(_said(1), 1, NOW) == []
    assert faults.alter(_said(1), 3, NOW) == [_said(1)]


def test_stall_with_hold_keeps_messages_until_its_end() -> None:
    """They are handed over when it expires, in order."""
    faults = Faults()
    faults.inject(FaultSpec(kind="stall", duration_ms=10, hold=True), NOW, conns=(1,))
    for number in range(3):
        assert faults.alter(_said(number), 1, NOW) == []
    (fault,) = faults.expire(NOW + 10_000)
    assert [one.text for one in fault.held["matches", "BTC-USD", 1]] == _texts(0, 1, 2)


def test_greeting_is_hit_only_by_its_type() -> None:
    """Dropping messages of a channel does not eat the next subscriber's snapshot."""
    faults = Faults()
    snapshot = Said("level2", "BTC-USD", '{"type":"snapshot"}')
    faults.inject(FaultSpec(kind="drop", channel="level2"), NOW)
    assert faults.alter(snapshot, 1, NOW, greeting=True) == [snapshot]
    faults.inject(FaultSpec(kind="drop", channel="level2", type="snapshot"), NOW)
    assert faults.alter(snapshot, 1, NOW, greeting=True) == []


def test_rest_fault_hits_its_endpoint_and_product() -> None:
    """Filters that are given must fit; each hit is counted."""
    faults = Faults()
    faults.inject(FaultSpec(kind="rest_500", endpoint="book", product="BTC-USD", status=503), NOW)
    kinds = frozenset({"rest_500"})
    assert not list(faults.answer("trades", "BTC-USD", NOW, kinds))
    assert not list(faults.answer("book", "ETH-USD", NOW, kinds))
    assert [spec.status for spec in faults.answer("book", "BTC-USD", NOW, kinds)] == [503]
    assert not list(faults.answer("book", "BTC-USD", NOW, kinds))


def test_delist_lasts_until_it_is_cleared() -> None:
    """A product stays away until it is brought back."""
    faults = Faults()
    faults.inject(FaultSpec(kind="delist", product="BTC-USD"), NOW)
    assert faults.delisted("BTC-USD", NOW + 10**12)
    assert not faults.delisted("ETH-USD", NOW)
    faults.clear()
    assert not faults.delisted("BTC-USD", NOW)


@pytest.mark.parametrize(
    "spec",
    [
        {"kind": "explode"},
        {"kind": "stall"},
        {"kind": "delist"},
        {"kind": "drop", "count": 0},
        {"kind": "drop", "channel": "gossip"},
        {"kind": "drop", "colour": "red"},
        {"kind": "rest_500", "status": 200},
    ],
)
def test_spec_that_makes_no_sense_is_refused(spec: dict[str, object]) -> None:
    """Nothing is guessed."""
    with pytest.raises(ValidationError):
        FaultSpec.model_validate(spec)


def test_spec_alias_of_a_channel_is_accepted() -> None:
    """Faults name channels as clients do."""
    assert FaultSpec(kind="drop", channel="level2_50").channel == "level2_batch"


def test_faults_beyond_the_bound_are_refused() -> None:
    """The registry is bounded, and says so."""
    faults = Faults()
    for _ in range(200):
        faults.inject(FaultSpec(kind="drop"), NOW)
    with pytest.raises(TooManyFaultsError):
        faults.inject(FaultSpec(kind="drop"), NOW)
