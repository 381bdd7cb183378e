"""The resume merge against a model: exactly what follows a number, or a refusal, never less."""

from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.canonical import Head
from streaming.core.resume import ResumeMerge, UnrecoverableError, links_to
from tests.examples import examples

Kind = Literal["tick", "snapshot", "anew", "status"]
KINDS: tuple[Kind, ...] = ("tick", "tick", "tick", "tick", "status", "snapshot", "anew")


def chain(kinds: list[tuple[Kind, int]]) -> list[Head]:
    """Return a canonical log of one feed: `anew` counts from low numbers again."""
    heads, newest = [], 0
    for kind, step in kinds:
        if kind == "status":
            heads.append(Head("status", "book"))
        elif kind == "tick":
            heads.append(Head("tick", "book", newest + step, newest))
            newest += step
        else:
            newest = step if kind == "anew" else newest + step
            heads.append(Head("snapshot", "book", newest))
    return heads


@dataclass
class Outcome:
    """What a merge said: what follows, or why not."""

    follows: list[Head]
    reason: str | None


def merge(heads: list[Head], from_seq: int, cuts: list[int]) -> Outcome:
    """Feed a merge in pieces of the given sizes."""
    oldest = next(iter(numbered(heads)), None)
    linked = oldest is not None and links_to(oldest, from_seq)
    machine, follows, at = ResumeMerge(from_seq, linked=linked), list[Head](), 0
    try:
        for size in [*cuts, len(heads)]:
            piece = heads[at : at + size]
            at += len(piece)
            follows += piece[machine.take(piece) :]
        machine.finish()
    except UnrecoverableError as error:
        return Outcome(follows, error.reason)
    assert machine.found
    return Outcome(follows, None)


def numbered(heads: list[Head]) -> list[Head]:
    """Return the messages that have a number."""
    return [head for head in heads if head.type != "status"]


logs = st.lists(
    st.tuples(
        st.sampled_from(KINDS),
        st.integers(1, 3),
    ),
    max_size=40,
).map(chain)
pieces = st.lists(st.integers(0, 7), max_size=12)


@given(logs, st.integers(0, 60), st.integers(0, 40), st.integers(0, 40), pieces)
def test_merge_gives_exactly_what_follows_or_refuses(
    log: list[Head], from_seq: int, first: int, last: int, cuts: list[int]
) -> None:
    """However a log is cut at both ends and into pieces, the answer is the model's."""
    kept = log[first:last]
    told = merge(kept, from_seq, cuts)
    places = [n for n, head in enumerate(kept) if head.type != "status" and head.seq == from_seq]
    ahead = numbered(kept)[:1]
    linked = bool(ahead) and ahead[0].type == "tick" and ahead[0].prev_seq == from_seq
    anchor = -1 if linked else min(places, default=None)
    if anchor is None:
        assert told.reason == ("too_old" if not ahead or from_seq < ahead[0].seq else "unknown_seq")
        assert told.follows == []
    elif any(head.seq != from_seq for head in numbered(kept[anchor + 1 : max(places, default=0)])):
        assert told.reason == "unknown_seq"
    else:
        assert told.reason is None
        assert told.follows == kept[anchor + 1 :]


@examples(500)
@given(logs, st.integers(0, 60), st.integers(0, 39), pieces)
def test_merge_of_a_log_with_a_hole_never_passes_it(
    log: list[Head], from_seq: int, hole: int, cuts: list[int]
) -> None:
    """A tick that is missing behind the anchor, with a tick after it, is found out."""
    whole = merge(log, from_seq, cuts)
    if whole.reason is not None or not len(log) - len(whole.follows) <= hole < len(log) - 1:
        return
    before, missing, after = log[:hole], log[hole], numbered(log[hole + 1 :])[:1]
    if missing.type == "status" or not after or after[0].type == "snapshot":
        return
    if missing.seq == next((head.seq for head in reversed(numbered(before))), from_seq):
        return  # a new chain at the number of the old one is no news
    assert merge(before + log[hole + 1 :], from_seq, cuts).reason in ("broken", "too_old")


@given(logs, pieces, st.data())
def test_merge_does_not_depend_on_how_it_is_fed(
    log: list[Head], cuts: list[int], data: st.DataObject
) -> None:
    """Pieces change nothing, and the newest number of all is followed by statuses alone."""
    from_seq = data.draw(st.sampled_from([0, *(head.seq for head in numbered(log))]))
    at_once = merge(log, from_seq, [])
    in_pieces = merge(log, from_seq, cuts)
    assert at_once.reason == in_pieces.reason
    assert at_once.reason is not None or at_once.follows == in_pieces.follows
    if numbered(log) and from_seq == numbered(log)[-1].seq and at_once.reason is None:
        assert all(head.seq == from_seq for head in numbered(at_once.follows))


@pytest.mark.parametrize(
    ("from_seq", "reason"), [(1, "too_old"), (6, "unknown_seq"), (9, "unknown_seq")]
)
def test_number_that_is_not_there_is_refused(from_seq: int, reason: str) -> None:
    """Older than what is kept, between two messages, and still to come."""
    kept = [Head("tick", "book", 5, 3), Head("tick", "book", 8, 5)]
    assert merge(kept, from_seq, []).reason == reason
    assert merge(kept, 3, []).follows == kept
    assert merge(kept, 5, []).follows == kept[1:]
    assert merge(kept, 8, []).follows == []
