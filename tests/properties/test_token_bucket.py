"""What a token bucket promises, for any rate, burst and pattern of calls."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.token_bucket import TokenBucket

RATES = st.floats(0.01, 1e5)
BURSTS = st.floats(1, 1e4)
STEPS = st.lists(st.tuples(st.floats(0, 5), st.floats(0, 1)), min_size=1, max_size=60)
STARTS = st.floats(0, 2e9)


@given(RATES, BURSTS, STARTS, STEPS)
def test_bucket_any_pattern_never_passes_more_than_burst_and_rate(
    rate: float, burst: float, start_s: float, steps: list[tuple[float, float]]
) -> None:
    """In every stretch between two calls, what passed is at most burst + rate * t."""
    bucket = TokenBucket(rate, burst)
    now_s = start_s
    passed: list[tuple[float, float]] = []
    for step_s, share in steps:
        now_s += step_s
        if bucket.take(now_s, share * burst) == 0:
            passed.append((now_s, share * burst))
    for first in range(len(passed)):
        total = 0.0
        for time_s, cost in passed[first:]:
            total += cost
            allowed = burst + rate * (time_s - passed[first][0] + 3e-9)
            assert total <= allowed * (1 + 1e-9)


@given(RATES, BURSTS, STARTS, STEPS)
def test_bucket_waiting_as_told_always_succeeds(
    rate: float, burst: float, start_s: float, steps: list[tuple[float, float]]
) -> None:
    """Asking again after the wait takes the tokens, whatever the size of the clock's reading."""
    bucket = TokenBucket(rate, burst)
    now_s = start_s
    for step_s, share in steps:
        now_s += step_s
        wait_s = bucket.take(now_s, share * burst)
        if wait_s:
            assert wait_s > 0
            now_s += wait_s
            assert bucket.take(now_s, share * burst) == 0


@given(RATES, BURSTS, STARTS)
def test_bucket_idle_fills_to_the_burst_and_no_further(
    rate: float, burst: float, start_s: float
) -> None:
    """After any rest the burst passes once."""
    bucket = TokenBucket(rate, burst)
    assert bucket.take(start_s, burst) == 0
    later_s = start_s + burst / rate * 3 + 1
    assert bucket.take(later_s, burst) == 0
    assert bucket.take(later_s, burst) > 0


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (1, 0), (-1, 1), (float("nan"), 1)])
def test_bucket_senseless_settings_are_refused(rate: float, burst: float) -> None:
    """Nothing could ever pass."""
    with pytest.raises(ValueError, match="above zero"):
        TokenBucket(rate, burst)


@pytest.mark.parametrize("cost", [-1, 3.1])
def test_bucket_cost_that_never_fits_is_refused(cost: float) -> None:
    """Waiting would be for ever."""
    with pytest.raises(ValueError, match="cost"):
        TokenBucket(1, 3).take(0, cost)
