"""The chain verifier: what links passes, everything else does not."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.chain import ChainBrokenError, ChainVerifier, Link, decode_link
from tests.gateways import snapshot, status, tick


def chain(seqs: list[int], product: str = "BTC-USD") -> list[Link]:
    """Return a snapshot and ticks that link."""
    first = Link("snapshot", "coinbase", product, "ticker", seqs[0])
    return [
        first,
        *(Link("tick", "coinbase", product, "ticker", seq, prev) for prev, seq in pairwise(seqs)),
    ]


rising = st.lists(st.integers(0, 10**9), min_size=3, max_size=30, unique=True).map(sorted)


@given(rising)
def test_verifier_of_a_whole_chain_counts_every_link(seqs: list[int]) -> None:
    """Any numbering is fine as long as each tick names the one before it."""
    verifier = ChainVerifier()
    for link in chain(seqs):
        verifier.check(link)
    assert (verifier.verified, verifier.broken) == (len(seqs) - 1, 0)


@given(rising, st.data())
def test_verifier_without_one_message_reports_exactly_that_place(
    seqs: list[int], data: st.DataObject
) -> None:
    """Leaving out any message but the last is noticed at the next one."""
    links = chain(seqs)
    missing = data.draw(st.integers(1, len(links) - 2))
    verifier = ChainVerifier()
    for link in links[:missing]:
        verifier.check(link)
    with pytest.raises(ChainBrokenError) as broken:
        verifier.check(links[missing + 1])
    error = broken.value
    assert (error.expected, error.got) == (seqs[missing - 1], seqs[missing])
    assert (error.product, error.feed, error.seq) == ("BTC-USD", "ticker", seqs[missing + 1])


@given(rising, st.data())
def test_verifier_of_a_doubled_message_reports_it(seqs: list[int], data: st.DataObject) -> None:
    """No tick may come twice."""
    links = chain(seqs)
    double = data.draw(st.integers(1, len(links) - 1))
    verifier = ChainVerifier()
    for link in links[: double + 1]:
        verifier.check(link)
    with pytest.raises(ChainBrokenError):
        verifier.check(links[double])


@given(st.lists(st.booleans(), min_size=2, max_size=60))
def test_verifier_of_interleaved_products_keeps_them_apart(turns: list[bool]) -> None:
    """Chains do not disturb each other, in whatever way they are mixed."""
    one, two = (iter(chain(list(range(1, 80)), name)) for name in ("A-USD", "B-USD"))
    verifier = ChainVerifier()
    for turn in turns:
        verifier.check(next(one if turn else two))
    assert verifier.broken == 0


def test_verifier_after_a_break_goes_on_from_the_next_snapshot() -> None:
    """Nothing is trusted until a new chain begins."""
    verifier = ChainVerifier()
    verifier.check(decode_link(snapshot(5, "{}")))
    for line in (tick(9, 7), tick(10, 9)):
        with pytest.raises(ChainBrokenError):
            verifier.check(decode_link(line))
    verifier.check(decode_link(status("gap")))
    verifier.check(decode_link(snapshot(20, "{}")))
    verifier.check(decode_link(tick(21, 20)))
    assert (verifier.verified, verifier.broken) == (1, 2)


def test_verifier_of_a_tick_before_any_snapshot_reports_it() -> None:
    """A view without a beginning proves nothing; the same holds after a reset."""
    verifier = ChainVerifier()
    with pytest.raises(ChainBrokenError, match="no snapshot"):
        verifier.check(decode_link(tick(1)))
    verifier.check(decode_link(snapshot(5, "{}")))
    verifier.reset()
    with pytest.raises(ChainBrokenError):
        verifier.check(decode_link(tick(6)))
