"""A judge that never complains proves nothing: each kind of fault, made by hand, is found."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from models.canonical import decode_heads
from tests.chaos.crowd import Run, Told, line_digest, state_digest
from tests.chaos.findings import Finding
from tests.chaos.judge import Chain, Truth, _digest, judge_canonical, judge_subscribers
from tests.chaos.table import Injected, Verdict, attribute, complaints
from tests.gateways import snapshot, tick

TRADES = "BTC-USD trades"
TICKER = "BTC-USD ticker"
STATE = '{"last_trade":{"px":1.50,"qty":0.010,"side":"buy","id":1}}'


def chain(lines: Sequence[bytes]) -> Chain:
    """Return a chain of these lines, each stored in the microsecond of its number."""
    made = Chain()
    for line in lines:
        (head,) = decode_heads(line)
        made.add(head, line, head.seq)
    return made


def truth(numbers: Sequence[int]) -> Truth:
    """Return the truth of messages with these keys, said at these times."""
    made = Truth()
    for number in numbers:
        made.add(number, number)
    return made


def ticks(feed: str, *numbers: int, after: int = 0) -> list[bytes]:
    """Return ticks that link to one another."""
    before = [after, *numbers]
    return [tick(seq, prev, feed=feed) for prev, seq in zip(before, numbers, strict=False)]


def counted(findings: Sequence[Finding]) -> list[tuple[str, int, int]]:
    """Return kind, count and time of each."""
    return [(one.kind, one.count, one.at_us) for one in findings]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (ticks("ticker", 1, 2, 3, 4, 5), []),
        (ticks("ticker", 2, 3, 4, 5), []),
        (ticks("ticker", 1, 2, 5), [("lost", 2, 3)]),
        (ticks("ticker", 1, 2, 3), [("lost", 2, 4)]),
        ([*ticks("ticker", 1, 2), snapshot(4), tick(5, 4)], [("announced", 1, 3)]),
        ([*ticks("ticker", 1, 2, 3, 4), tick(5, 3)], [("wrong", 1, 5)]),
        ([*ticks("ticker", 1, 2, 3, 4, 5), tick(9, 5)], [("wrong", 1, 9)]),
        ([*ticks("ticker", 1, 2, 3, 4, 5), tick(5, 5)], [("doubled", 1, 5)]),
        (ticks("ticker", 1, 3, 2, 4, 5), [("lost", 1, 2), ("reordered", 1, 2)]),
    ],
)
def test_canonical_log_is_held_against_the_truth(
    lines: list[bytes], expected: list[tuple[str, int, int]]
) -> None:
    """Of five messages of the exchange, from the first one that is there."""
    found = list(judge_canonical({TICKER: chain(lines)}, {TICKER: truth(range(1, 6))}))
    assert counted(found) == expected


def test_trades_that_are_missing_are_lost_even_if_that_is_announced() -> None:
    """They can be had again, so they must be there."""
    begins = snapshot(4, '{"last_trade":{"px":1,"qty":1,"side":"buy","id":4}}', feed="trades")
    lines = [*ticks("trades", 1, 2), begins, tick(5, 4, feed="trades")]
    found = list(judge_canonical({TRADES: chain(lines)}, {TRADES: truth(range(1, 6))}))
    assert counted(found) == [("lost", 1, 3)]


LOG = [
    snapshot(1, STATE),
    *ticks("ticker", 2, 3, after=1),
    snapshot(4, STATE),
    tick(5, 4),
    tick(6, 5),
]


def run(start: int, length: int, **other: Any) -> Run:
    """Return what comes of a chain that begins at a place of `LOG`."""
    lines = LOG[start + 1 : start + 1 + length]
    (head,) = decode_heads(LOG[start])
    last = decode_heads(LOG[start + length])[0].seq
    told = json.loads(LOG[start], parse_float=str)
    own = state_digest("ticker", told.get("fields", told.get("state")))
    made = Run(head.seq, None, own, line_digest(LOG[start]), length, last, _digest(lines))
    return msgspec.structs.replace(made, **other)


WHOLE = (run(0, 2, missed="first"), run(3, 2))


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        (WHOLE, []),
        # The gateway's own snapshot, in the middle of the chain.
        ((run(1, 1, missed="first", line="own"), run(3, 2)), []),
        ((run(0, 1, missed="first"), run(3, 2)), [("lost", 1)]),
        ((run(0, 2, missed="first"), run(3, 1)), [("lost", 1)]),
        ((run(0, 2, missed="first"),), [("lost", 3)]),
        ((), [("lost", 6)]),
        ((run(0, 2, missed="first", count=1), run(3, 2)), [("lost", 1)]),
        ((run(0, 2, missed="first", count=4), run(3, 2)), [("doubled", 2)]),
        ((run(0, 2, missed="first", digest="other"), run(3, 2)), [("reordered", 1)]),
        ((run(0, 2, missed="first", own="", line=""), run(3, 2)), [("wrong", 1)]),
        ((run(0, 1, missed="first"), run(4, 1, missed="busy", line="own")), [("announced", 3)]),
        ((run(0, 1, missed="first"), run(4, 1, missed="too_old", line="own")), [("lost", 3)]),
        ((*WHOLE, run(3, 2)), [("doubled", 3)]),
        ((run(0, 2, missed="first", seq=99), run(3, 2)), [("wrong", 1)]),
    ],
)
def test_subscriber_is_held_against_the_canonical_log(
    runs: Sequence[Run], expected: list[tuple[str, int]]
) -> None:
    """What was told in runs, by counts and digests."""
    told = Told("one", ["BTC-USD"], 1, 0, {TICKER: list(runs)}, {}, [], None)
    found = list(judge_subscribers({TICKER: chain(LOG)}, [told]))
    assert [(one.kind, one.count) for one in found] == expected


def test_subscriber_that_met_a_broken_link_or_was_refused_is_told() -> None:
    """Even if everything came in the end."""
    told = Told("one", ["BTC-USD"], 1, 0, {TICKER: list(WHOLE)}, {TICKER: "gap"}, ["a link"], "no")
    found = list(judge_subscribers({TICKER: chain(LOG)}, [told]))
    assert [one.kind for one in found] == ["wrong"] * 3


def test_run_fails_for_what_was_found_and_for_what_did_not_recover() -> None:
    """A loss that is announced counts only where nothing else was done than a restart."""
    kill = Injected("kill one", begun_us=10, at_s=0.0, rolling=False, recovered_s=1.0)
    restart = Injected("restart one", begun_us=20, at_s=0.0, rolling=True, recovered_s=1.0)
    announced = [Finding("announced", 3, 15, "some"), Finding("announced", 2, 25, "others")]
    attribute([kill, restart], announced)
    assert (kill.findings, restart.findings) == (announced[:1], announced[1:])
    (told,) = complaints([kill, restart], [Verdict("log", "", announced)])
    assert told.startswith("restart one: 2 ticks were missed")
    stuck = replace(kill, recovered_s=None)
    lost = Verdict("log", "", [Finding("lost", 1, 5, "one is missing")])
    assert complaints([stuck], [lost]) == [
        "kill one at 0 s: not recovered",
        "log: lost: one is missing",
    ]
