"""The connection counter: every frame is news once, and every hole is told with its bounds."""

from hypothesis import given
from hypothesis import strategies as st

from streaming.core.connection import ConnectionCounter, Lost


@given(st.sets(st.integers(0, 60)), st.integers(0, 3))
def test_counter_tells_exactly_the_missing_numbers(missing: set[int], repeats: int) -> None:
    """What is dropped is within the bounds told, nothing else is; repeats change nothing."""
    counter, told, taken = ConnectionCounter(), set[int](), list[int]()
    for number in range(70):
        if number in missing:
            continue
        verdict = counter.offer(number)
        if isinstance(verdict, Lost):
            told |= set(range(verdict.after + 1, verdict.before))
            assert verdict.count == verdict.before - verdict.after - 1
        assert verdict != "repeat"
        taken.append(number)
        assert all(counter.offer(number) == "repeat" for _ in range(repeats))
    assert told == missing
    assert taken == [number for number in range(70) if number not in missing]


@given(st.lists(st.integers(0, 30)))
def test_counter_never_takes_a_number_twice_in_a_row_of_growth(numbers: list[int]) -> None:
    """Between two announced losses, what is taken counts up by one without a repeat."""
    counter, last = ConnectionCounter(), -1
    for number in numbers:
        verdict = counter.offer(number)
        if verdict == "next":
            assert number == last + 1
        elif isinstance(verdict, Lost):
            assert (verdict.after, verdict.before) == (last, number)
        if verdict != "repeat":
            last = number
        assert counter.newest == last


@given(st.integers(2, 50), st.integers(0, 50), st.integers(2, 50))
def test_venue_that_counts_anew_is_followed_after_one_frame(
    before: int, again: int, more: int
) -> None:
    """A count that begins anew is a loss, told once; it is never taken for repeats for ever."""
    counter = ConnectionCounter()
    for number in range(before):
        counter.offer(number)
    start = min(again, before - 2)
    verdicts = [counter.offer(number) for number in range(start, start + more)]
    assert verdicts[:2] == ["repeat", Lost(before - 1, start + 1)]
    assert set(verdicts[2:]) <= {"next"}


def test_late_frame_is_a_repeat() -> None:
    """The loss was told; what comes late would put back what is past."""
    counter = ConnectionCounter()
    assert [counter.offer(number) for number in (0, 2, 1, 3)] == [
        "next",
        Lost(0, 2),
        "repeat",
        "next",
    ]
    assert ConnectionCounter().offer(3) == Lost(-1, 3)
