"""Counts of a canary run."""

from models.canary import CanaryReport, FeedCount


def test_counts_add_up() -> None:
    """What was judged is what is equal and what is not; a report's counts survive JSON."""
    one, other = FeedCount(equal=5, changed=1, missing=2), FeedCount(extra=3, unjudged=4)
    both = one.plus(other)
    assert (both.compared, both.differences, both.unjudged) == (11, 6, 4)
    report = CanaryReport(
        verdict="diverges", sentence="", venue="coinbase", counts={"BTC-USD": {"book": both}}
    )
    assert CanaryReport.model_validate_json(report.model_dump_json()) == report
