"""What ReplayWorkflow takes, passes on and returns: the payloads that Temporal keeps.

Positions, counts, names and sentences only: never market data. By hand nothing has to be given
but the range; everything else has a default.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Literal

from pydantic import Field

from models.canonical import FEEDS
from models.dbn import Kind
from models.recovery import Payload
from models.subjects import Streams

REPLAY_QUEUE = "replay"
"""Task queue of replays and of what judges candidates by them."""
REPLAY = "ReplayWorkflow"
"""Name of the workflow, as `temporal workflow start --type` takes it."""
FORGET_REPLAY = "ForgetReplayWorkflow"
"""Name of the workflow that deletes a namespace when its time has come."""
REPLAY_FAILED = "ReplayFailedError"
"""Type of the failure that ends a replay; its details hold the report."""
BAD_REPLAY = "BadReplayError"
"""Type of the error of an input that cannot be understood."""
NAMESPACE_TAKEN = "NamespaceTakenError"
"""Type of the error of a namespace that holds another replay."""

NAMESPACE_PREFIX = "replay-"
FOR_EVER_US = 4_102_444_800_000_000
"""2100: the end of a range that has none."""

_NAME_LENGTH = 41
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_HOUR_ONLY = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}").fullmatch

State = Literal["starting", "running", "paused", "ending", "complete", "aborted", "failed"]
Outcome = Literal["complete", "aborted", "failed"]


class BadReplayError(ValueError):
    """An input that cannot be understood; the text names it and what to write instead."""


def moment_us(text: str | int) -> int:
    """Return a moment in µs since 1970 of ISO text, or as it is.

    Text is UTC unless it names another zone; minutes may be left out: 2026-11-20T10.

    Raises:
        BadReplayError: it is neither.
    """
    if isinstance(text, int):
        return text
    if text.isdecimal():
        return int(text)
    try:
        moment = datetime.fromisoformat(f"{text}:00" if _HOUR_ONLY(text) else text)
    except ValueError:
        raise BadReplayError(
            f"{text!r} is no time: write 2026-11-20T10, 2026-11-20T10:15:30 (UTC), or microseconds "
            "since 1970"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - _BEGINNING) // _MICROSECOND


def namespace_of(name: str, workflow_id: str = "") -> str:
    """Return a replay's namespace; without a name it is made of the workflow's id.

    Raises:
        NamespaceError: the name cannot be used.
    """
    if not name:
        plain = re.sub(r"[^a-z0-9]+", "-", workflow_id.lower().removeprefix("replay")).strip("-")
        name = plain[:_NAME_LENGTH].strip("-")
    return Streams.of_replay(NAMESPACE_PREFIX + name.removeprefix(NAMESPACE_PREFIX)).prefix


def replay_id(namespace: str) -> str:
    """Return the id that the workflow of a namespace has, if `ledgerflux replay` started it."""
    return f"replay/{namespace.removeprefix(NAMESPACE_PREFIX)}"


def forget_id(namespace: str) -> str:
    """Return the id of the workflow that deletes a namespace."""
    return f"forget/{namespace}"


class ReplayInput(Payload):
    """What to replay, where to, and how fast.

    `name`: the namespace is `replay-<name>`; none means that it is made of the workflow's id.
    `shards`, `products`, `feeds`: none means all; raw records hold all feeds, so `feeds` chooses
    what is said of them. `since`, `until` (exclusive): see `moment_us`; none means as far as the
    lake goes. `epoch`: needed where the log was made anew within the range. `speed`: 1 as it
    happened, 10 ten times as fast, 0 as fast as it goes. `normalize`: canonical messages too, not
    only the raw ones. `keep_minutes`: the namespace is deleted so long after the end. `dbn`:
    Databento files instead of the lake, by path or as `s3://<lake's bucket>/<key>`; their ticks go
    to `market.futures` and `market.options`, which nobody else writes, and only `speed` and
    `dbn_kind` count beside: what the instruments are that no definition in the files describes.
    """

    name: str = ""
    venue: str = "coinbase"
    shards: list[int] | None = None
    products: list[str] | None = None
    feeds: list[str] | None = None
    since: str | int | None = None
    until: str | int | None = None
    epoch: int | None = None
    speed: float = 1.0
    normalize: bool = True
    keep_minutes: float = 60.0
    dbn: list[str] | None = None
    dbn_kind: Kind | None = None

    def check(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            BadReplayError: a field cannot be used; the text names it.
        """
        for text in (self.since, self.until):
            if text is not None:
                moment_us(text)
        if self.dbn is not None:
            self._check_dbn()
        unknown = sorted(set(self.feeds or ()) - set(FEEDS))
        if unknown:
            raise BadReplayError(f"no such feed: {unknown[0]!r}; choose from {', '.join(FEEDS)}")
        if not 0 <= self.speed < float("inf"):
            raise BadReplayError(f"speed {self.speed:g} cannot be: give 0 or more")
        if not 0 <= self.keep_minutes < float("inf"):
            raise BadReplayError(f"keep_minutes {self.keep_minutes:g} cannot be: give 0 or more")

    def _check_dbn(self) -> None:
        if not self.dbn:
            raise BadReplayError("dbn names no file: give paths, or s3://<lake's bucket>/<key>")
        for name in ("shards", "products", "feeds", "since", "until", "epoch"):
            if getattr(self, name) is not None:
                raise BadReplayError(f"DBN files are replayed whole: leave {name} out")


class ReplayProgress(Payload):
    """How far a replay has come; answer of the `progress` query.

    It is told once a second at first, and later after each fiftieth of the time it has taken.

    `position`, `time_us`: in the lake, of the newest record published, and when it was received;
    `first_position`, `first_time_us`: of the first one. `messages`: of the raw stream, which are
    those of the lake; `frames`: lines in them. `ticks`: canonical lines with a change; none where
    a worker was lost and the log does not have them all any more. `fraction`: of the range's time,
    0 to 1. `rate`: frames a second. `eta_s`: seconds left, none where it is not known. `seconds`:
    that it has run, without pauses.
    """

    namespace: str
    state: State = "starting"
    speed: float = 1.0
    position: int = 0
    time_us: int = 0
    first_position: int = 0
    first_time_us: int = 0
    messages: int = 0
    frames: int = 0
    ticks: int | None = 0
    fraction: float = 0.0
    rate: float = 0.0
    eta_s: float | None = None
    seconds: float = 0.0


class ReplayReport(ReplayProgress):
    """What became of a replay."""

    outcome: Outcome
    sentence: str


class LanePlan(Payload):
    """What is replayed of a shard: its raw positions `first` to `last`."""

    shard: int
    first: int
    last: int


class ReplayPlan(Payload):
    """A range of time, made exact once, so that every go replays the same.

    `after`: by product, the raw position of the checkpoint that the namespace was given; a product
    that is not here begins with its lane's range. `sentence`: all of it in words.
    """

    since_us: int = 0
    until_us: int = FOR_EVER_US
    epoch: int | None = None
    lanes: list[LanePlan] = Field(default_factory=list)
    after: dict[str, int] = Field(default_factory=dict)
    sentence: str = ""


class ReplayOpen(Payload):
    """A replay whose namespace is to be made ready."""

    what: ReplayInput
    namespace: str


class ReplayStep(Payload):
    """One go: from where the namespace says that the replay stands, to its end.

    `round_`: counts the goes of a workflow; with the attempt it tells a newer writer from a
    zombie. `so_far`: what the goes before this one have told.
    """

    what: ReplayInput
    namespace: str
    plan: ReplayPlan
    speed: float
    round_: int = 1
    so_far: ReplayProgress | None = None


class ForgetInput(Payload):
    """A namespace to delete after so many minutes; the signal `now` does it at once.

    `owner`: run of the replay that it must hold; none means whichever it holds.
    """

    namespace: str
    keep_minutes: float = 0.0
    owner: str = ""


class Forgotten(Payload):
    """What was deleted. `streams`: none if it was gone already."""

    namespace: str
    streams: list[str] = Field(default_factory=list)
