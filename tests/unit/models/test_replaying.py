"""Inputs of replays: times, names, and what cannot be meant."""

import pytest

from models.replaying import (
    BadReplayError,
    ReplayInput,
    forget_id,
    moment_us,
    namespace_of,
    replay_id,
)
from models.subjects import NamespaceError

TEN_US = 1_795_168_800_000_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-20T10", TEN_US),
        ("2026-11-20T10:00", TEN_US),
        ("2026-11-20T10:00:00Z", TEN_US),
        ("2026-11-20T11:00:00+01:00", TEN_US),
        ("2026-11-20T10:00:00.000001", TEN_US + 1),
        ("2026-11-20", TEN_US - 36_000_000_000),
        (str(TEN_US), TEN_US),
        (TEN_US, TEN_US),
    ],
)
def test_moment_is_text_or_microseconds(text: str | int, expected: int) -> None:
    """UTC unless it says otherwise, exact to the microsecond."""
    assert moment_us(text) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "10:00", "2026-13-01T00", "-5"])
def test_what_is_no_time_is_refused(text: str) -> None:
    """With an example of what is one."""
    with pytest.raises(BadReplayError, match="write 2026-11-20T10"):
        moment_us(text)


@pytest.mark.parametrize(
    ("name", "workflow_id", "expected"),
    [
        ("monday", "", "replay-monday"),
        ("replay-monday", "whatever", "replay-monday"),
        ("", "replay/monday", "replay-monday"),
        ("", "By Hand/2026", "replay-by-hand-2026"),
        ("", "replay-workflow-" + "x" * 90, "replay-workflow-" + "x" * 32),
    ],
)
def test_namespace_is_of_the_name_or_else_of_the_workflow(
    name: str, workflow_id: str, expected: str
) -> None:
    """Whatever the id is, as long as it has a letter or a digit."""
    assert namespace_of(name, workflow_id) == expected


@pytest.mark.parametrize("name", ["Monday", "a.b", "a b", "-", "x" * 42])
def test_name_that_could_be_no_subject_is_refused(name: str) -> None:
    """The text says which can."""
    with pytest.raises(NamespaceError, match="is no namespace of a replay"):
        namespace_of(name)


def test_ids_are_found_again() -> None:
    """The workflow and the one that deletes are named after the namespace."""
    assert replay_id("replay-monday") == "replay/monday"
    assert forget_id("replay-monday") == "forget/replay-monday"


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("since", "soon", "is no time"),
        ("until", "soon", "is no time"),
        ("feeds", ["ticker", "candles"], "no such feed: 'candles'"),
        ("speed", -1, "speed -1 cannot be"),
        ("speed", float("inf"), "speed inf cannot be"),
        ("speed", float("nan"), "speed nan cannot be"),
        ("keep_minutes", -1, "keep_minutes -1 cannot be"),
    ],
)
def test_input_that_cannot_be_meant_is_refused(field: str, value: object, words: str) -> None:
    """By a sentence that names the field."""
    ReplayInput().check()
    with pytest.raises(BadReplayError, match=words):
        ReplayInput.model_validate({field: value}).check()
