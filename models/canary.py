"""What CanaryReplayWorkflow takes, passes on and returns: the payloads that Temporal keeps.

Positions, counts, names and sentences; of market data only what the first divergence is about,
cut to a few kB. By hand nothing has to be given but the range.
"""

from typing import Literal

from pydantic import Field

from models.canonical import FEEDS
from models.recovery import Payload
from models.replaying import FOR_EVER_US, BadReplayError, moment_us
from models.subjects import token

CANDIDATE_QUEUE = "candidate"
"""Task queue that a candidate build serves, unless it is told another."""
CANARY = "CanaryReplayWorkflow"
"""Name of the workflow, as `temporal workflow start --type` takes it."""
CANARY_FAILED = "CanaryFailedError"
"""Type of the failure of a canary that could not be judged; its details hold the report."""
CANNOT_GO_ON = "CannotGoOnError"
"""Type of the error of a checkpoint that the candidate cannot read."""
CANDIDATE_BROKE = "CandidateBrokeError"
"""Type of the error of a candidate that a record of the past has made fail."""
BAD_CANARY = "BadCanaryError"
"""Type of the error of an input that cannot be understood."""

MAX_DIFFERENCES = 100_000
"""Differences that are kept, over all slices; beyond that they are only counted."""

MAX_TEXT_BYTES = 4096
"""Of each message of the first divergence, as the report tells it; the file has them whole."""

Verdict = Literal["agrees", "diverges"]
Kind = Literal["changed", "missing", "extra"]
State = Literal["planning", "awaiting a candidate", "comparing", "done"]


class NormalizerSettings(Payload):
    """What changes a normalizer's output; none means what the candidate's own settings say."""

    resync_max_queue_ms: int | None = None
    resync_stale_ms: int | None = None
    ticker_watermark: bool | None = None


class CanaryInput(Payload):
    """Which past to judge a candidate by, and where it is served.

    `since`, `until` (exclusive): see `models.replaying.moment_us`; none means as far as the lake
    goes. `products`, `feeds`: none means all. `epoch`, `ticks_epoch`: needed where the raw or the
    canonical log was made anew within the range. `settings`: those with which the archived ticks
    were made, where they are not the candidate's own. `start_within_s`: so long the candidate's
    queue may go without anybody who serves it.
    """

    venue: str = "coinbase"
    since: str | int | None = None
    until: str | int | None = None
    products: list[str] | None = None
    feeds: list[str] | None = None
    epoch: int | None = None
    ticks_epoch: int | None = None
    candidate_queue: str = CANDIDATE_QUEUE
    settings: NormalizerSettings = NormalizerSettings()
    start_within_s: float = Field(60.0, gt=0)

    def range_us(self) -> tuple[int, int]:
        """Return beginning and end in µs.

        Raises:
            BadReplayError: one of them is no time, or a feed is not known.
            SubjectError: nothing can have the venue's name.
        """
        token(self.venue)
        unknown = sorted(set(self.feeds or ()) - set(FEEDS))
        if unknown:
            raise BadReplayError(f"no such feed: {unknown[0]!r}; choose from {', '.join(FEEDS)}")
        since = 0 if self.since is None else moment_us(self.since)
        return since, FOR_EVER_US if self.until is None else moment_us(self.until)


class Part(Payload):
    """One product in a slice: raw positions above `after`, up to and with `upto`.

    `from_state`: a checkpoint at `after` is in the lake, otherwise nothing is known there.
    `to_state`: one at `upto`, so that it is known exactly which ticks were said up to there.
    """

    product: str
    after: int
    upto: int
    from_state: bool
    to_state: bool


class SliceInput(Payload):
    """A part of the work that stands alone: some products of a lane for an hour or so.

    `hours`: in which its raw objects are, in hours since 1970. `frames`: about how many. `folder`:
    where its differences go; `keep`: how many at most.
    """

    number: int
    venue: str
    shard: int
    epoch: int
    ticks_epoch: int
    hours: list[int]
    parts: list[Part]
    until_us: int
    frames: int
    folder: str = ""
    keep: int = MAX_DIFFERENCES
    feeds: list[str] | None = None
    settings: NormalizerSettings = NormalizerSettings()


class CanaryPlan(Payload):
    """All slices of a range. `first`, `last`: raw positions in it; `products`: how many."""

    slices: list[SliceInput]
    frames: int
    products: int
    first: int
    last: int
    since_us: int
    until_us: int


class Candidate(Payload):
    """Which build serves the candidate's queue; Temporal's own page tells which worker."""

    version: str
    python: str


class FeedCount(Payload):
    """Canonical messages of one feed.

    `missing`: archived, and the candidate does not say them; `extra`: the other way round.
    `unjudged`: at the end of the range, where it cannot be told whether they belong to it.
    """

    equal: int = 0
    changed: int = 0
    missing: int = 0
    extra: int = 0
    unjudged: int = 0

    @property
    def compared(self) -> int:
        """How many were judged."""
        return self.equal + self.differences

    @property
    def differences(self) -> int:
        """How many are not as they should be."""
        return self.changed + self.missing + self.extra

    def plus(self, other: "FeedCount") -> "FeedCount":
        """Return the sum of both."""
        mine, theirs = self.model_dump(), other.model_dump()
        return FeedCount(**{name: mine[name] + theirs[name] for name in mine})


Counts = dict[str, dict[str, FeedCount]]
"""By product and feed."""


class Divergence(Payload):
    """A message that is not as it was archived, and the raw frame behind it.

    `expected`, `actual`: canonical lines, none where there is none; `differs_at`: the byte in
    which they first differ. `object_`, `position`, `line`: where in the lake the raw record is
    that the candidate was given at that moment, `time_us` when it was received, `raw` its text.
    """

    kind: Kind
    product: str
    feed: str
    seq: int | None = None
    expected: str | None = None
    actual: str | None = None
    differs_at: int | None = None
    position: int = 0
    line: int = 0
    time_us: int = 0
    object_: str = ""
    raw: str = ""

    def sentence(self) -> str:
        """Say what it is in one line."""
        what = {
            "changed": "is said otherwise",
            "missing": "is not said",
            "extra": "was never archived",
        }[self.kind]
        return (
            f"{self.product} {self.feed} message {self.seq} {what} (raw position {self.position}, "
            f"line {self.line} in {self.object_})"
        )


class SliceResult(Payload):
    """What became of a slice. `kept`: differences in `object_`, which is empty if there are none.

    `cpu_s`: processor time that it took.
    """

    number: int
    frames: int
    counts: Counts
    first: Divergence | None = None
    object_: str = ""
    kept: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0


class CanaryProgress(Payload):
    """Answer of the `progress` query. `frames`: judged by slices that are done."""

    state: State = "planning"
    slices: int = 0
    slices_done: int = 0
    frames: int = 0
    frames_total: int = 0
    compared: int = 0
    differences: int = 0
    seconds: float = 0.0


class CanaryReport(Payload):
    """What became of a canary.

    `verdict`: none if it could not be judged; then `sentence` says why, and `reason` is the type
    of the error, if there was one. `counts`: by product
    and feed. `first`: the first divergence by raw position. `objects`: Parquet files of the
    differences, of which `kept` are in them. `cpu_s`: processor time of the candidates.
    """

    verdict: Verdict | None
    sentence: str
    venue: str
    reason: str = ""
    since_us: int = 0
    until_us: int = 0
    first_position: int = 0
    last_position: int = 0
    frames: int = 0
    slices: int = 0
    slices_done: int = 0
    candidate: Candidate | None = None
    counts: Counts = Field(default_factory=dict)
    feeds: dict[str, FeedCount] = Field(default_factory=dict)
    total: FeedCount = FeedCount()
    first: Divergence | None = None
    objects: list[str] = Field(default_factory=list)
    kept: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
