"""The plan of reconnects, without a socket or a clock."""

from venues.coinbase.backoff import BackoffSettings, Outcome, ReconnectPlan

SETTINGS = BackoffSettings()


def _plan(*urls: str, draw: float = 1.0) -> ReconnectPlan:
    return ReconnectPlan(urls, SETTINGS, lambda: draw)


def test_plan_new_connects_at_once_to_the_primary() -> None:
    """Nothing to wait for at the start."""
    attempt = _plan("one", "two").next(10.0)
    assert (attempt.url, attempt.at_s) == ("one", 10.0)


def test_plan_good_connection_dropped_is_back_soon_on_the_primary() -> None:
    """At most the first delay, and the primary, even when the fallback dropped."""
    plan = _plan("one", "two")
    plan.next(0.0)
    plan.ended(0.0, Outcome.FAILED)
    assert plan.next(0.0).url == "two"
    plan.ended(100.0, Outcome.GOOD)
    attempt = plan.next(100.0)
    assert attempt.url == "one"
    assert attempt.at_s == 100.0 + SETTINGS.first_s


def test_plan_primary_failing_goes_to_the_fallback_at_once() -> None:
    """The delay comes only after every address failed, and the primary is next again."""
    plan = _plan("one", "two")
    seen = []
    for _ in range(4):
        attempt = plan.next(0.0)
        seen.append((attempt.url, attempt.at_s))
        plan.ended(0.0, Outcome.FAILED)
    assert seen == [("one", 0.0), ("two", 0.0), ("one", 0.5), ("two", 0.0)]


def test_plan_failing_on_grows_to_the_cap_and_never_gives_up() -> None:
    """Delays double up to the cap and stay there."""
    plan = _plan("one")
    delays = []
    for _ in range(2000):
        delays.append(plan.next(0.0).at_s)
        plan.ended(0.0, Outcome.FAILED)
    assert delays[:5] == [0.0, 0.5, 1.0, 2.0, 2.0]
    assert delays[-1] == SETTINGS.cap_s


def test_plan_retry_after_holds_one_address_only() -> None:
    """The address that asked is left alone for so long; the other is used meanwhile."""
    plan = _plan("one", "two")
    plan.next(0.0)
    plan.ended(0.0, Outcome.FAILED, retry_after_s=30.0)
    assert plan.next(0.0).url == "two"
    plan.ended(20.0, Outcome.GOOD)
    assert plan.next(20.0).url == "two"
    plan.ended(40.0, Outcome.GOOD)
    assert plan.next(40.0).url == "one"


def test_plan_retry_after_absurd_is_capped() -> None:
    """A venue cannot silence the feed for a day."""
    plan = _plan("one")
    plan.next(0.0)
    plan.ended(0.0, Outcome.FAILED, retry_after_s=86_400.0)
    assert plan.next(0.0).at_s == SETTINGS.retry_after_cap_s


def test_plan_rejected_keeps_a_growing_distance() -> None:
    """A refused subscription is tried ever more rarely, whatever the dice say."""
    plan = _plan("one", draw=0.0)
    delays = []
    for _ in range(8):
        plan.next(0.0)
        plan.ended(0.0, Outcome.REJECTED)
        delays.append(plan.next(0.0).at_s)
    assert delays == [0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0]
