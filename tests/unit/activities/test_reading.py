"""ChainReader: what it counts, and each thing that it must not let pass."""

import json
from typing import Any

import pytest

from activities.reading import ChainReader
from models.recovery import Verify

ID = "resync/coinbase/BTC-USD/trades/2-5"


def stretch(feed: Any = "trades", **more: Any) -> Verify:
    """Return a stretch of prints 3 and 4, lost."""
    bounds = {"after": 2, "before": 5} | more
    return Verify(
        venue="coinbase", product="BTC-USD", feed=feed, resync_id=ID, first=0, last=9, **bounds
    )


def print_(number: int, prev: int | None = None) -> dict[str, Any]:
    """Return a print's tick."""
    prev = number - 1 if prev is None else prev
    trade = {"last_trade": {"px": 1, "qty": 1, "side": "buy", "id": number}}
    return {"type": "tick", "feed": "trades", "seq": number, "prev_seq": prev, "fields": trade}


def status(state: str, gap: bool = True) -> dict[str, Any]:  # noqa: FBT001, FBT002
    """Return a status of the gap."""
    bounds = {"after": 2, "before": 5} if gap else None
    return {"type": "status", "feed": "trades", "state": state, "resync_id": ID, "gap": bounds}


def read(lines: list[dict[str, Any]], what: Verify | None = None) -> ChainReader:
    """Read lines, as one payload."""
    chain = ChainReader(what or stretch())
    chain.take("\n".join(json.dumps(line, separators=(",", ":")) for line in lines).encode())
    return chain


def test_whole_chain_is_counted() -> None:
    """Prints of the gap are filled, those behind it replayed, until the feed is live."""
    lines = [print_(1), print_(2), status("gap"), *map(print_, (3, 4, 5, 6)), status("live")]
    chain = read([*lines, print_(7)])
    assert chain.problem() is None
    counted = chain.verified()
    assert (counted.links, counted.filled, counted.replayed, counted.closed) == (6, 2, 2, 1)


def test_other_feeds_are_not_looked_at() -> None:
    """A product's messages mix its feeds."""
    other = {"type": "tick", "feed": "book", "seq": 9, "prev_seq": 3, "fields": {"changes": []}}
    assert read([print_(2), other, other, print_(3), print_(4)]).problem() is None


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ([print_(2), print_(4, prev=2)], "print 4 came where 3 was due"),
        ([print_(4)], "print 4 came where 3 was due"),
        ([print_(2), print_(3, prev=1)], "tick 3 links to 1, not to 2"),
        ([print_(2), print_(3)], "prints end at 3, but 4 was lost as well"),
        ([print_(2), print_(3), print_(3, prev=3)], "print 3 came where 4 was due"),
    ],
)
def test_what_does_not_fit_is_named(lines: list[dict[str, Any]], problem: str) -> None:
    """A hole, a missing beginning, a wrong link, a missing end, a repeat."""
    found = read(lines).problem()
    assert found is not None
    assert found.endswith(problem)


def test_snapshot_begins_a_new_chain() -> None:
    """Links across a snapshot are not demanded; one of this recovery is counted."""
    snapshot = {"type": "snapshot", "feed": "book", "seq": 50, "state": {}, "resync_id": ID}
    tick = {"type": "tick", "feed": "book", "seq": 51, "prev_seq": 50, "fields": {}}
    chain = read([{**tick, "seq": 3, "prev_seq": 2}, snapshot, tick], stretch("book", after=None))
    assert chain.problem() is None
    assert (chain.verified().snapshots, chain.verified().replayed) == (1, 1)
