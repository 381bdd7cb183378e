"""How workflows show in Temporal's list: search attributes, memo, summary, details.

Shared by whoever starts workflows and by the workflow itself, so that a resync by hand looks
the same. Pure.
"""

from temporalio.common import (
    SearchAttributeKey,
    SearchAttributePair,
    SearchAttributeUpdate,
    TypedSearchAttributes,
)

from models.recovery import BY_TRADE_ID, ResyncInput, ResyncReport

VENUE = SearchAttributeKey.for_keyword("Venue")
PRODUCT = SearchAttributeKey.for_keyword("Product")
FEED = SearchAttributeKey.for_keyword("Feed")
OUTCOME = SearchAttributeKey.for_keyword("Outcome")
STREAM = SearchAttributeKey.for_keyword("Stream")
KEYS = (VENUE, PRODUCT, FEED, OUTCOME, STREAM)
"""Everything that a server must have registered."""

REPORT_MEMO = "report"
"""Memo that holds the report of a workflow that has ended: a list needs no further calls."""

_WHY = {
    "trade_id": "a jump of the trade id",
    "watermark": "a heartbeat's watermark that nothing reached",
    "sequence": "a jump of the venue's sequence",
    "lost_record": "a record that never reached the log",
    "crossed": "a crossed book",
    "no_snapshot": "changes without a snapshot",
    "connection": "lost frames of the connection",
    "manual": "ordered by hand",
}


def search_attributes(gap: ResyncInput) -> TypedSearchAttributes:
    """Return what is known of a gap from the start."""
    return TypedSearchAttributes(
        [
            SearchAttributePair(VENUE, gap.venue),
            SearchAttributePair(PRODUCT, gap.product),
            SearchAttributePair(FEED, gap.feed),
        ]
    )


def of_stretch(venue: str) -> TypedSearchAttributes:
    """Return what is known of a lost stretch, which has no product of its own."""
    return TypedSearchAttributes([SearchAttributePair(VENUE, venue)])


def of_archive(stream: str, venue: str) -> TypedSearchAttributes:
    """Return what is known of an archive run, a compaction or an audit."""
    return TypedSearchAttributes(
        [SearchAttributePair(STREAM, stream), SearchAttributePair(VENUE, venue)]
    )


def lost_prints(gap: ResyncInput) -> int | None:
    """Return how many prints a gap has swallowed, or none where that cannot be counted."""
    if gap.feed != "trades" or gap.reason not in BY_TRADE_ID:
        return None
    if gap.after is None or gap.before is None:
        return None
    return gap.before - gap.after - 1


def summary(gap: ResyncInput) -> str:
    """Return one line for the list."""
    lost = lost_prints(gap)
    what = "" if lost is None else f"{lost:,} prints lost, "
    return f"{gap.product} {gap.feed}: {what}{_WHY.get(gap.reason, gap.reason)}"[:200]


def details(gap: ResyncInput) -> str:
    """Return what is known at the start, as Markdown."""
    bounds = f"after `{gap.after}`, before `{'open' if gap.before is None else gap.before}`"
    return "\n".join(
        [
            f"**{gap.venue} {gap.product} {gap.feed}**: {_WHY.get(gap.reason, gap.reason)}",
            "",
            f"- missing: {bounds if gap.after is not None else 'not known'}",
            f"- gap: `{gap.resync_id or 'none: the chain is started anew'}`",
        ]
    )


def introduce(stream: str, venue: str) -> list[SearchAttributeUpdate[str]]:
    """Return what a starter by hand has left out of a workflow of the lake."""
    return [STREAM.value_set(stream), VENUE.value_set(venue)]


def speed(factor: float) -> str:
    """Return a replay's speed in words."""
    return f"{factor:g} times as fast as it happened" if factor else "as fast as it goes"


def ending(report: ResyncReport) -> str:
    """Return what became of it, as Markdown."""
    steps = [f"| {step.step} | {step.seconds:.3f} | {step.note} |" for step in report.steps]
    return "\n".join(
        [
            f"**{report.outcome}**: {report.sentence}",
            "",
            *("| step | seconds | |", "| --- | ---: | --- |", *steps),
        ]
    )
