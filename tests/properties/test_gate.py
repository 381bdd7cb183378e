"""The sequence gate knows exactly what was seen."""

from hypothesis import given
from hypothesis import strategies as st

from streaming.core.gate import SequenceGate


@given(st.lists(st.integers(1, 40), max_size=120))
def test_gate_after_any_offers_splits_numbers_into_seen_and_missing(offers: list[int]) -> None:
    """Seen and missing are all numbers up to the top; news is what was not offered before."""
    gate, seen = SequenceGate(0), set[int]()
    for number in offers:
        assert gate.offer(number) == (number not in seen)
        seen.add(number)
        noted = set(range(1, gate.last + 1)) | gate.ahead
        assert noted == seen
        missing = set(range(1, gate.top + 1)) - noted
        assert gate.open == bool(missing)
        if missing:
            assert gate.last + 1 == min(missing)
            assert gate.next_seen == min(number for number in seen if number > gate.last)


@given(st.permutations(range(1, 15)), st.data())
def test_gate_ignores_the_order_of_duplicates(order: list[int], data: st.DataObject) -> None:
    """Any order with any repeats ends at the same place."""
    repeats = data.draw(st.lists(st.sampled_from(order), max_size=20))
    gate = SequenceGate(0)
    for number in [*order, *repeats]:
        gate.offer(number)
    assert (gate.last, gate.top, gate.ahead, gate.open) == (14, 14, set(), False)


@given(st.integers(0, 50), st.integers(0, 50))
def test_gate_with_a_watermark_is_open_below_it(last: int, required: int) -> None:
    """What a watermark proves to exist is missing until it was seen."""
    gate = SequenceGate(last, last)
    gate.require(required)
    assert gate.open == (required > last)
    for number in range(last + 1, required + 1):
        gate.offer(number)
    assert not gate.open
