"""The exchange's token buckets."""

from venues.simulator.config import Limits
from venues.simulator.limits import Bucket, Doors


def test_bucket_allows_its_burst_and_then_its_rate() -> None:
    """Twenty at once, then eight a second."""
    bucket = Bucket(8, 20)
    assert [bucket.allow(100.0) for _ in range(21)].count(True) == 20
    assert [bucket.allow(101.0) for _ in range(9)].count(True) == 8


def test_doors_count_each_client_and_can_be_open() -> None:
    """One client's haste is not another's; without limits nobody waits."""
    doors = Doors(Limits(rest_per_s=1, rest_burst=1))
    assert doors.may_request("a", 1.0)
    assert not doors.may_request("a", 1.0)
    assert doors.may_request("b", 1.0)
    free = Doors(Limits.none())
    assert all(free.may_connect("a", 1.0) and free.may_request("a", 1.0) for _ in range(100))
