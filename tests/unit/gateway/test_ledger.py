"""The gap ledger remembers what was announced, within bounds."""

from gateway.ledger import MAX_CLOSED, Ledger
from models.canonical import GapRange, Status


def status(state: str, name: str | None, since: int = 1) -> Status:
    """Return a status line of one gap."""
    gap = GapRange(10, 13) if state == "gap" else None
    return Status(1, "coinbase", "BTC-USD", "trades", state, since, gap, name)  # type: ignore[arg-type]


def test_gap_that_closes_is_past_with_both_times() -> None:
    """Open first, then closed, with when each happened."""
    ledger = Ledger()
    ledger.take(status("gap", "a", 5))
    ledger.take(status("gap", "b", 6))
    ledger.take(status("live", "a", 9))
    newest, past = ledger.gaps()
    assert (newest.resync_id, newest.is_open) == ("b", True)
    assert (past.resync_id, past.opened_us, past.closed_us, past.after) == ("a", 5, 9, 10)


def test_lines_without_a_gap_or_repeated_change_nothing() -> None:
    """Staleness names no gap; an answer to a recovery may repeat what was said."""
    ledger = Ledger()
    ledger.take(status("stale", None))
    ledger.take(status("gap", "a", 5))
    ledger.take(status("gap", "a", 7))
    ledger.take(status("live", "unknown"))
    assert [gap.opened_us for gap in ledger.gaps()] == [5]


def test_closed_gaps_are_bounded() -> None:
    """The oldest makes room."""
    ledger = Ledger()
    for number in range(MAX_CLOSED + 5):
        ledger.take(status("gap", str(number)))
        ledger.take(status("live", str(number)))
    assert len(ledger.gaps()) == MAX_CLOSED
    assert ledger.gaps()[0].resync_id == str(MAX_CLOSED + 4)
