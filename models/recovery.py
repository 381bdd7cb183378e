"""What the recovery workflow takes, passes on and returns: the payloads that Temporal keeps.

Histories and requests by hand outlive releases, so a reader ignores fields that it does not
know, and a new field is optional. Ids, counts and positions only: never market data.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from models.canonical import Feed, State

RESYNC_QUEUE = "resync"
"""Task queue of the workflow and of what reads the log."""
VENUE_QUEUE = "venue-rest"
"""Task queue of REST requests, one each; the server limits its rate over all workers."""
GAP_RESYNC = "GapResyncWorkflow"
"""Name of the workflow, as `temporal workflow start --type` takes it."""
STRETCH_RESYNC = "StretchResyncWorkflow"
"""Name of the parent of all gaps that one lost stretch of a connection has opened."""

NOT_FOUND = "NotFoundError"
BAD_REQUEST = "BadRequestError"
UNAUTHORIZED = "UnauthorizedError"
UNKNOWN_VENUE = "UnknownVenueError"
UNREADABLE_MARKER = "UnreadableMarkerError"
CHAIN_BROKEN = "ChainBrokenError"
FINAL_ERRORS = (
    *(NOT_FOUND, BAD_REQUEST, UNAUTHORIZED),
    *(UNKNOWN_VENUE, UNREADABLE_MARKER, CHAIN_BROKEN),
)
"""Types of errors that no repetition can cure."""
RESYNC_FAILED = "ResyncFailedError"
"""Type of the failure that ends a workflow; its details hold the report."""
NOT_RECOVERED = "NotRecoveredError"
"""Type of the error of a workflow that has used up its attempts."""

BY_TRADE_ID = frozenset({"trade_id", "watermark"})
"""Reasons whose bounds, in the trades feed, are trade ids."""

Outcome = Literal["closed", "already_closed", "aborted", "failed"]
Step = Literal["starting", "fetching", "too_old", "awaiting", "verifying", "done"]


class Payload(BaseModel):
    """Base of all: immutable, and tolerant of what a newer release has added."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class ResyncInput(Payload):
    """The gap, as the normalizer told it; by hand the first three fields are enough.

    `after`, `before`, `since`, `stretch`: see `models.resync.ResyncRequest`. `give_up_after_s`:
    how long the venue, and then the normalizer, may take before the workflow ends as failed.
    `accept_loss`: give up prints that the venue does not have any more. `shard`: of the product,
    where whoever starts the workflow knows it; only traces and logs have use for it.
    """

    venue: str
    product: str
    feed: Feed
    resync_id: str = ""
    reason: str = "manual"
    after: int | None = None
    before: int | None = None
    since: int | None = None
    stretch: str | None = None
    accept_loss: bool = False
    give_up_after_s: float = 3600.0
    max_rounds: int = 20
    shard: int | None = None


class Noted(Payload):
    """Positions in MD_TICKS, taken before anything was published.

    `announced`: before the gap was announced; `newest`: the product's newest message;
    `last_trade_id`: the newest print in it, where the gap itself does not say.
    """

    announced: int
    newest: int
    last_trade_id: int | None = None


class Fetch(Payload):
    """One REST request and the marker made of it.

    `run`: makes message ids unique to this run of the workflow; `round_`: which fetch this is.
    `after`: newest print that is there already. `upto`: last print of the pages that are still
    to come, none for the venue's newest page. `quote`: the first half of a ticker's answer.
    """

    gap: ResyncInput
    run: str
    round_: int = 1
    after: int | None = None
    upto: int | None = None
    quote: str | None = None


class Fetched(Payload):
    """What the venue gave and where it went.

    `marker`: its position in MD_RAW; none if nothing was published. `too_old`: why, in a sentence,
    if the answer does not reach past the gap. `items`: prints, or levels of the book. `newest`:
    print id, or time of the book, that it reaches to. `more`: the request that must follow.
    `attempt`: requests made, failed ones too.
    """

    marker: int | None = None
    too_old: str = ""
    items: int = 0
    newest: int = 0
    more: Fetch | None = None
    attempt: int = 1


class Await(Payload):
    """Where to look for the normalizer's answer to a marker."""

    venue: str
    product: str
    feed: Feed
    resync_id: str
    marker: int
    after: int


class Answer(Payload):
    """The normalizer's answer; `position`: of the message in MD_TICKS that holds it.

    `gap_closed`: whether it was this marker that closed the gap.
    """

    state: State
    position: int
    gap_closed: bool = True


class Verify(Payload):
    """The stretch of MD_TICKS that must be whole: after `first`, up to `last`."""

    venue: str
    product: str
    feed: Feed
    resync_id: str
    first: int
    last: int
    after: int | None = None
    before: int | None = None


class Verified(Payload):
    """A stretch that was read back. `links`: ticks whose link to their predecessor was checked.

    `filled`: prints of the gap itself; `replayed`: ticks from behind the gap, up to `live`;
    `snapshots`: new chains that this recovery has begun; `closed`: gaps that closed, any of them.
    """

    links: int = 0
    filled: int = 0
    replayed: int = 0
    snapshots: int = 0
    closed: int = 0


class GiveUp(Payload):
    """A gap that will not be recovered. `run`: makes the message's id unique to this run."""

    venue: str
    product: str
    feed: Feed
    resync_id: str
    run: str
    sentence: str


class StepTime(Payload):
    """How long one step took."""

    step: Step
    seconds: float
    note: str = ""


class Progress(Payload):
    """Answer of the `progress` query."""

    resync_id: str
    step: Step
    rounds: int = 0
    attempts: int = 0
    too_old: int = 0
    fetched: int = 0
    markers: int = 0
    seconds: float = 0.0
    sentence: str = ""


class ResyncReport(Payload):
    """What became of a gap.

    `lost`: prints that were missing, none where that cannot be counted. `fetched`: prints, or
    levels of books. `replayed`: ticks from behind the gap that came out with its closing.
    `discarded`: prints fetched that were there already, or books that were too old.
    `attempts`: REST requests, failed ones included. `seconds`: from the start of the workflow.
    `gap_seconds`: from the moment the gap was seen.
    """

    resync_id: str
    venue: str
    product: str
    feed: Feed
    reason: str
    outcome: Outcome
    sentence: str
    after: int | None = None
    before: int | None = None
    shard: int | None = None
    lost: int | None = None
    fetched: int = 0
    filled: int = 0
    replayed: int = 0
    discarded: int = 0
    markers: int = 0
    links: int = 0
    rounds: int = 0
    attempts: int = 0
    too_old: int = 0
    seconds: float = 0.0
    gap_seconds: float | None = None
    steps: list[StepTime] = []


class Count(Payload):
    """How many gaps of a stretch ended in which way; `elsewhere`: another workflow has them."""

    closed: int = 0
    already_closed: int = 0
    aborted: int = 0
    failed: int = 0
    elsewhere: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.closed + self.already_closed + self.aborted + self.failed + self.elsewhere


class StretchInput(Payload):
    """A lost stretch of a connection, named as `models.resync.ResyncRequest.stretch` does.

    `one_run`: after so many gaps the next run goes on, so that no history grows without bounds.
    The rest is for that next run: gaps that are still to be recovered, how those before ended,
    and what was said of the failed ones.
    """

    venue: str
    stretch: str
    one_run: int = 1000
    waiting: list[ResyncInput] = []
    count: Count = Count()
    failures: list[str] = []


class StretchProgress(Payload):
    """Answer of the parent's `progress` query."""

    stretch: str
    waiting: int
    open: list[str]
    count: Count


class StretchReport(Payload):
    """What became of the gaps of a stretch. `failures`: a sentence each, the first hundred."""

    venue: str
    stretch: str
    outcome: Outcome
    sentence: str
    count: Count
    failures: list[str]
    seconds: float
