"""Two texts compared: nothing is lost, nothing is made up, and how they are cut does not matter."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Literal

from hypothesis import example, given
from hypothesis import strategies as st

from models.canonical import FEEDS
from streaming.core.compare import Comparison, Difference, End, head_of
from tests.examples import examples

Edit = Literal["keep", "drop", "change", "renumber", "insert", "twice"]
EDITS: tuple[Edit, ...] = ("drop", "change", "renumber", "insert", "twice")
WINDOW_BYTES = 2000


def tick(feed: str, seq: int, prev: int, *, px: int = 1) -> bytes:
    """Return a canonical tick."""
    return (
        f'{{"v":1,"type":"tick","venue":"coinbase","product":"BTC-USD","feed":"{feed}",'
        f'"seq":{seq},"prev_seq":{prev},"ts_event":{seq},"ts_ingest":{1000 + seq},'
        f'"fields":{{"last_trade":{{"px":{px}}}}}}}'
    ).encode()


def status(feed: str, since: int) -> bytes:
    """Return a status line."""
    return (
        f'{{"v":1,"type":"status","venue":"coinbase","product":"BTC-USD","feed":"{feed}",'
        f'"state":"gap","since":{since},"gap":null,"resync_id":null}}'
    ).encode()


@st.composite
def logs(draw: st.DrawFn, most: int = 60) -> list[bytes]:
    """Draw a canonical log of one product, with lines that are none among the others."""
    seqs = dict.fromkeys(FEEDS, 0)
    lines = []
    for number in range(draw(st.integers(0, most))):
        feed = draw(st.sampled_from(sorted(FEEDS)))
        kind = draw(st.sampled_from(("tick", "tick", "tick", "status", "other")))
        if kind == "tick":
            before, seqs[feed] = seqs[feed], seqs[feed] + draw(st.integers(1, 9))
            lines.append(tick(feed, seqs[feed], before))
        elif kind == "status":
            lines.append(status(feed, number))
        else:
            lines.append(b"{%d}" % number)
    return lines


def edited(lines: Sequence[bytes], edits: Sequence[Edit]) -> list[bytes]:
    """Return lines as a broken candidate might say them."""
    said: list[bytes] = []
    for number, line in enumerate(lines):
        edit = edits[number] if number < len(edits) else "keep"
        if edit == "change":
            said.append(line.replace(b'"px":1', b'"px":2').replace(b"null", b"0"))
        elif edit == "renumber":
            said.append(line.replace(b'"seq":', b'"seq":9'))
        elif edit == "insert":
            said += [tick("trades", 900_000 + number, 0), line]
        elif edit != "drop":
            said += [line, line] if edit == "twice" else [line]
    return said


@dataclass
class Compared:
    """What a comparison has told."""

    differences: list[Difference]
    tallies: dict[str, dict[str, int]]
    said: int


def text(lines: Sequence[bytes]) -> bytes:
    """Return lines as a comparison takes them."""
    return b"".join(line + b"\n" for line in lines)


def compare(
    expected: Sequence[bytes],
    actual: Sequence[bytes],
    cuts: Sequence[int] = (),
    end: End | None = None,
) -> Compared:
    """Compare in pieces: the candidate's as they are cut, the archive's when they are wanted."""
    machine, differences = Comparison(window_bytes=WINDOW_BYTES), list[Difference]()
    pieces = [expected[at : at + 7] for at in range(0, len(expected), 7)]
    bounds = [0, *sorted({cut for cut in cuts if 0 < cut < len(actual)}), len(actual)]
    for first, last in pairwise(bounds):
        machine.say(text(actual[first:last]))
        differences += machine.step()
        while machine.wants_expected and pieces:
            machine.expect(text(pieces.pop(0)))
            differences += machine.step()
    for piece in pieces:
        machine.expect(text(piece))
        differences += machine.step()
    machine.expect_no_more()
    differences += machine.finish(end)
    tallies = {feed: asdict(tally) for feed, tally in machine.tallies.items()}
    return Compared(differences, tallies, machine.said)


def total(compared: Compared, *names: str) -> int:
    """Sum counts over all feeds."""
    return sum(tally[name] for tally in compared.tallies.values() for name in names)


cut_lists = st.lists(st.integers(0, 80), max_size=8)
edit_lists = st.lists(st.sampled_from(("keep", "keep", "keep", *EDITS)), max_size=60)


@examples(60)
@given(logs(), cut_lists)
def test_equal_texts_have_no_difference(lines: list[bytes], cuts: list[int]) -> None:
    """Every line is counted once, with its feed."""
    found = compare(lines, lines, cuts)
    assert found.differences == []
    feeds = Counter(head_of(line).feed for line in lines)
    assert {feed: tally["equal"] for feed, tally in found.tallies.items()} == dict(feeds)
    assert found.said == len(lines)


@examples(80)
@given(logs(), edit_lists, cut_lists)
def test_every_line_is_accounted_for_once(
    lines: list[bytes], edits: list[Edit], cuts: list[int]
) -> None:
    """Archived lines are equal, changed or missing; the candidate's equal, changed or extra."""
    said = edited(lines, edits)
    found = compare(lines, said, cuts)
    assert total(found, "equal", "changed", "missing") == len(lines)
    assert total(found, "equal", "changed", "extra") == found.said == len(said)
    assert (found.differences == []) == (lines == said)
    for one in found.differences:
        if one.actual is not None:
            assert said[one.at] == one.actual
    missing = [one.expected for one in found.differences if one.expected is not None]
    assert Counter(missing) <= Counter(lines)


@examples(80)
@given(logs(), edit_lists, cut_lists)
def test_cuts_do_not_matter(lines: list[bytes], edits: list[Edit], cuts: list[int]) -> None:
    """The same texts give the same differences, however they come."""
    said = edited(lines, edits)
    assert compare(lines, said, cuts) == compare(lines, said)


@examples(80)
@given(logs(), edit_lists, cut_lists)
def test_first_difference_is_the_first(
    lines: list[bytes], edits: list[Edit], cuts: list[int]
) -> None:
    """The first one told is where the two first differ."""
    said = edited(lines, edits)
    found = compare(lines, said, cuts)
    if not found.differences:
        return
    where = next(
        (at for at, (one, other) in enumerate(zip(lines, said, strict=False)) if one != other),
        min(len(lines), len(said)),
    )
    first = found.differences[0]
    assert first.at == where
    assert first.expected in {None, lines[where] if where < len(lines) else None}


@examples(60)
@given(logs(), st.integers(0, 59), cut_lists)
@example([tick("book", 1, 0), tick("book", 2, 1)], 0, [])
def test_one_dropped_tick_is_one_missing_line(
    lines: list[bytes], number: int, cuts: list[int]
) -> None:
    """Nothing else is wrong, however much follows."""
    if number >= len(lines) or len(set(lines)) < len(lines):
        return
    found = compare(lines, lines[:number] + lines[number + 1 :], cuts)
    assert [(one.kind, one.expected) for one in found.differences] == [("missing", lines[number])]


@examples(60)
@given(logs(), st.integers(0, 59), cut_lists)
def test_dropped_tick_that_is_linked_over_is_missing_and_changes_the_next(
    lines: list[bytes], number: int, cuts: list[int]
) -> None:
    """A candidate that never knew of a tick says another `prev_seq` once: both are told."""
    ticks = [at for at, line in enumerate(lines) if head_of(line).type == "tick"]
    if number >= len(lines) or number not in ticks:
        return
    head = head_of(lines[number])
    later = [at for at in ticks if at > number and head_of(lines[at]).feed == head.feed]
    said = list(lines)
    if later:
        before = lines[number].partition(b'"prev_seq":')[2].partition(b",")[0]
        said[later[0]] = lines[later[0]].replace(
            b'"prev_seq":%d,' % (head.seq or 0), b'"prev_seq":%b,' % before
        )
    del said[number]
    found = compare(lines, said, cuts)
    kinds = [one.kind for one in found.differences]
    assert kinds == (["missing", "changed"] if later else ["missing"])
    assert found.differences[0].expected == lines[number]


def test_beyond_the_window_lines_are_paired_as_they_come() -> None:
    """What is too far ahead is not looked for; every line is still judged once."""
    lines = [tick("book", seq, seq - 1) for seq in range(1, 200)]
    found = compare(lines, lines[100:])
    assert total(found, "equal", "changed", "missing") == len(lines)
    assert found.differences[0].at == 0


def test_end_of_a_range_judges_only_what_belongs_to_it() -> None:
    """Later archived lines are not missing, and what a closed gate holds is not judged."""
    lines = [tick("book", 1, 0), tick("trades", 2, 0), tick("ticker", 3, 0), tick("book", 9, 1)]
    end = End(applied_us=1005, closed={"trades"})
    found = compare(lines, lines[:1], end=end)
    assert [one.expected for one in found.differences] == [lines[2]]
    assert found.tallies["trades"]["unjudged"] == 1
    assert total(found, "equal", "changed", "missing") == 2


def test_end_of_the_archive_leaves_later_lines_unjudged() -> None:
    """What the candidate says behind the newest archived line was perhaps not archived yet."""
    lines = [tick("book", 1, 0), tick("book", 5, 1)]
    behind = compare(lines[:1], lines, end=End(applied_us=2000, archived_us=1001))
    assert behind.differences == []
    assert behind.tallies["book"]["unjudged"] == 1
    beyond = compare(lines[:1], lines, end=End(applied_us=2000, archived_us=None))
    assert [one.kind for one in beyond.differences] == ["extra"]
