"""Pacing on a virtual clock: on time within 1 % over ten minutes, no rush, no time lost twice."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from streaming.core.pace import MAX_BEHIND_US, Pace

SECOND_US = 1_000_000
MINUTES_10_US = 600 * SECOND_US
SPEEDS = st.sampled_from((0.5, 1.0, 10.0, 250.0))
STEPS = st.lists(st.integers(0, 2 * SECOND_US), min_size=1, max_size=200)
STALLS = st.dictionaries(st.integers(0, 199), st.integers(0, 4 * SECOND_US), max_size=3)


def play(
    pace: Pace, times_us: list[int], now_us: int, stalls: dict[int, int] | None = None
) -> list[int]:
    """Return when each record went out: at its time, or later where the clock was lost."""
    out = []
    for number, time_us in enumerate(times_us):
        now_us += (stalls or {}).get(number, 0)
        now_us = max(now_us, pace.due_us(time_us, now_us))
        out.append(now_us)
    return out


def times(steps: list[int], begin_us: int = 1_700_000_000_000_000) -> list[int]:
    """Return record times of distances."""
    found = [begin_us]
    for step in steps:
        found.append(found[-1] + step)
    return found


@given(speed=st.sampled_from((1.0, 10.0)), steps=STEPS, stalls=STALLS)
def test_ten_minutes_are_kept_within_one_percent(
    speed: float, steps: list[int], stalls: dict[int, int]
) -> None:
    """Stalls that can be caught up with leave no trace in the end."""
    whole = max(1, sum(steps))
    scaled = [step * round(MINUTES_10_US * speed) // whole for step in steps] or [0]
    records = times([*scaled, 20 * SECOND_US])
    out = play(Pace(speed), records, 77, stalls)
    expected_us = (records[-1] - records[0]) / speed
    late_us = sum(stalls.values())
    assert out[-1] - out[0] >= expected_us - stalls.get(0, 0) - 1
    if late_us <= MAX_BEHIND_US:
        assert out[-1] - out[0] <= max(1.01 * expected_us, expected_us + late_us)
    if not stalls:
        assert abs((out[-1] - out[0]) / expected_us - 1) < 0.01


@given(speed=SPEEDS, steps=STEPS, stalls=STALLS)
def test_nothing_goes_before_its_time(
    speed: float, steps: list[int], stalls: dict[int, int]
) -> None:
    """However the clock was lost, no two records come closer than they were, but to catch up."""
    records = times(steps)
    out = play(Pace(speed), records, 0, stalls)
    assert out == sorted(out)
    for time_us, at_us in zip(records, out, strict=True):
        assert at_us - out[0] + stalls.get(0, 0) >= (time_us - records[0]) / speed - 1


@given(speed=SPEEDS, lost_s=st.integers(6, 10_000))
def test_a_long_stall_is_not_made_up(speed: float, lost_s: int) -> None:
    """What comes at once behind it is never more than some seconds' worth of the clock."""
    records = times([SECOND_US // 10] * 6000)
    out = play(Pace(speed), records, 0, {100: lost_s * SECOND_US})
    together = [time_us for time_us, at_us in zip(records, out, strict=True) if at_us == out[100]]
    assert (together[-1] - together[0]) / speed <= MAX_BEHIND_US + SECOND_US
    gaps = {after - before for before, after in pairwise(out[-100:])}
    assert max(gaps) - min(gaps) <= 1


@given(speed=SPEEDS, steps=STEPS, paused_s=st.integers(1, 10**6))
def test_a_pause_takes_nothing_and_adds_nothing(
    speed: float, steps: list[int], paused_s: int
) -> None:
    """Who goes on with a new pace has the next record at once and the rest at its distance."""
    records = times(steps)
    resumed_us = paused_s * SECOND_US
    out = play(Pace(speed), records, resumed_us)
    assert out[0] == resumed_us
    assert abs((out[-1] - out[0]) - (records[-1] - records[0]) / speed) <= 1


@given(steps=STEPS, now_us=st.integers(0, 10**15))
def test_speed_zero_never_waits(steps: list[int], now_us: int) -> None:
    """As fast as it goes."""
    assert set(play(Pace(0), times(steps), now_us)) == {now_us}


@given(steps=st.lists(st.integers(-SECOND_US, SECOND_US), min_size=1, max_size=50))
def test_times_that_go_back_are_due_at_once(steps: list[int]) -> None:
    """Records of several connections are not quite in the order of their times."""
    out = play(Pace(1.0), times(steps), 5)
    assert out == sorted(out)
