"""What a check finds: one line each, and how bad it is."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from models.settings import Settings

State = Literal["ok", "warning", "broken"]


class Finding(NamedTuple):
    """One line. `check`: what was looked at; `text`: what is wrong and what to do, or how it is."""

    check: str
    state: State
    text: str


@dataclass(frozen=True, slots=True)
class Check:
    """Looks at one dependency. `cure`: what to do when that does not answer in time.

    `look` takes the settings, and how long any one answer may take, in seconds.
    """

    name: str
    look: Callable[[Settings, float], Awaitable[list[Finding]]]
    cure: str


def ok(check: str, text: str) -> Finding:
    """Say how something is that is fine."""
    return Finding(check, "ok", text)


def warning(check: str, text: str) -> Finding:
    """Say what works, and may not for long, or not as somebody thinks."""
    return Finding(check, "warning", text)


def broken(check: str, text: str) -> Finding:
    """Say what does not work, and what to do."""
    return Finding(check, "broken", text)
