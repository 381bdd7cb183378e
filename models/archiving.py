"""What the archive's workflows take, pass on and return: the payloads that Temporal keeps.

Positions, counts, names and sentences only: never market data. By hand, stream and venue (and for
an archive run the shard) are enough; everything else has a default.
"""

from typing import Literal, NamedTuple

from pydantic import Field

from models.recovery import Payload

ARCHIVE_QUEUE = "archive"
"""Task queue of the archive runs: each keeps an activity going all the time."""
LAKE_QUEUE = "lake"
"""Task queue of compaction and audit: few at once, because they take memory."""

ARCHIVE = "ArchiveWorkflow"
"""Name of the workflow, as `temporal workflow start --type` takes it."""
COMPACT = "CompactWorkflow"
LAKE_AUDIT = "LakeAuditWorkflow"

ARCHIVE_FAILED = "ArchiveFailedError"
"""Type of the failure that ends an archive run; its details hold the report."""
LAKE_DAMAGED = "LakeDamagedError"
"""Type of the failure of an audit whose findings could not all be mended; details: its report."""
COMPACT_FAILED = "CompactFailedError"
"""Type of the failure of a compaction; its details hold the report."""

MAX_TOLD = 100
"""Sentences that a report keeps at most; its counts count all."""

Stream = Literal["raw", "ticks"]
"""The streams that are archived: what the venue sent, and what it meant."""


class LaneName(NamedTuple):
    """One shard of one venue in a stream, whatever its epoch."""

    stream: Stream
    venue: str
    shard: int

    def __str__(self) -> str:
        return f"{self.stream}/{self.venue}/{self.shard}"


class Checkpoint(Payload):
    """Where the archive of a lane stands.

    `epoch`: when the stream was made, µs; positions of another one mean nothing here. `position`:
    everything of the lane up to here is in the lake, or in a hole of it. `seen`: nothing of the
    lane lies between `position` and here. `hour`: of the newest object, in hours since 1970; later
    ones never go to an earlier hour, so the newest hour always has the checkpoint.
    """

    epoch: int
    position: int
    seen: int
    hour: int = 0


class ArchiveHole(Payload):
    """A range that the log dropped before it was archived: it is lost for good.

    Whatever the lane had from position `first` to `last`; `noticed_us`: when that was seen.
    """

    first: int
    last: int
    noticed_us: int
    reason: str


class Totals(Payload):
    """What a run, and those that it continues, has archived. `bytes_`: of the objects."""

    objects: int = 0
    rows: int = 0
    bytes_: int = 0
    holes: int = 0


class ArchiveInput(Payload):
    """A lane and how often it is flushed: whichever of the two comes first.

    `flush_s`: age of the oldest message; `flush_bytes`: of NDJSON. `steps`: after so many the next
    run goes on, so that no history grows without bounds. The rest is for that next run.
    """

    stream: Stream
    venue: str
    shard: int = 0
    flush_s: float = 60.0
    flush_bytes: int = 5_000_000
    steps: int = 500
    checkpoint: Checkpoint | None = None
    totals: Totals = Totals()
    holes: list[ArchiveHole] = Field(default_factory=list)

    @property
    def lane(self) -> LaneName:
        """The lane."""
        return LaneName(self.stream, self.venue, self.shard)


class ArchiveStep(Payload):
    """One range to archive: what follows the checkpoint; without one the lake is asked for it."""

    stream: Stream
    venue: str
    shard: int
    flush_s: float
    flush_bytes: int
    checkpoint: Checkpoint | None = None
    newest: int = 0

    @property
    def lane(self) -> LaneName:
        """The lane."""
        return LaneName(self.stream, self.venue, self.shard)


class Archived(Payload):
    """What one step has done.

    `newest`: the stream's newest position when it ended. `lag_s`: age of the oldest message that
    was not archived yet, before the range was stored. `holes`: noted by this step. `told`: what a
    person should know, in a sentence.
    """

    checkpoint: Checkpoint
    newest: int
    objects: int = 0
    rows: int = 0
    bytes_: int = 0
    lag_s: float = 0.0
    holes: list[ArchiveHole] = Field(default_factory=list)
    told: str = ""


class ArchiveProgress(Payload):
    """Answer of the `progress` query.

    `position` and `epoch` are none until the checkpoint is known. `newest`, `lag_s`: when the last
    range was stored; the worker's `md_archive_lag_seconds` tells this moment's.
    """

    stream: Stream
    venue: str
    shard: int
    epoch: int | None
    position: int | None
    newest: int
    lag_s: float
    objects: int
    rows: int
    bytes_: int
    holes: int
    last_holes: list[ArchiveHole]
    told: str = ""


class ArchiveReport(ArchiveProgress):
    """What a run that has ended did."""

    outcome: Literal["stopped", "failed"]
    sentence: str


class CompactInput(Payload):
    """Which hours to compact: of the last `hours`, those that ended `settled_s` ago or earlier.

    `linger_s`: how long objects that were replaced stay for readers that know them still.
    `max_rows`, `max_text_bytes`: of one object; decoding one takes four times its text in memory.
    """

    stream: Stream
    venue: str
    hours: int = 50
    settled_s: float = 600.0
    linger_s: float = 300.0
    max_rows: int = 1_000_000
    max_text_bytes: int = 128 * 1024**2


class LaneHour(Payload):
    """An hour of a lane; `hour` counts hours since 1970."""

    stream: Stream
    venue: str
    shard: int
    epoch: int
    hour: int


class CompactHour(Payload):
    """An hour to compact, within the bounds of the workflow's input."""

    where: LaneHour
    max_rows: int
    max_text_bytes: int


class Compacted(Payload):
    """What became of an hour: so many objects were merged into so many."""

    merged: int = 0
    into: int = 0
    rows: int = 0


class CompactReport(Payload):
    """What a compaction did. `failures`: a sentence for each hour that was left as it was."""

    stream: Stream
    venue: str
    outcome: Literal["compacted", "nothing", "failed"]
    sentence: str
    hours: int = 0
    merged: int = 0
    into: int = 0
    rows: int = 0
    swept: int = 0
    failures: list[str] = Field(default_factory=list)


FindingKind = Literal[
    "missing", "damaged", "gap", "overlap", "unlisted", "manifest", "chain", "differs"
]
"""An object that is gone or is not what was written, positions that no range accounts for or two
do, an object that no manifest lists, a manifest that cannot be read, a link that does not fit, an
object that is not what the log says."""


class Finding(Payload):
    """Something that is not as it should be. `where`: the object or the range.

    `repaired`: it is mended, or accepted as lost; the sentence tells which.
    """

    kind: FindingKind
    where: str
    sentence: str
    repaired: bool = False


class AuditCarry(Payload):
    """What the audit of the next hour of a lane must know of the hours before.

    `last`: position up to which ranges were accounted for; `hour`: of that. `seqs`: last `seq` by
    product and feed; a hole empties it, because no chain can be followed over one.
    """

    shard: int
    epoch: int
    last: int | None = None
    hour: int = 0
    seqs: dict[str, dict[str, int]] = Field(default_factory=dict)


class AuditCount(Payload):
    """What was audited.

    `compared`: messages that were held against the log. `links`: chain links between objects.
    `holes`: ranges known to be lost. `bytes_`: of the objects.
    """

    lanes: int = 0
    hours: int = 0
    objects: int = 0
    messages: int = 0
    rows: int = 0
    bytes_: int = 0
    compared: int = 0
    links: int = 0
    holes: int = 0
    findings: int = 0
    repaired: int = 0

    def plus(self, other: "AuditCount") -> "AuditCount":
        """Return the sum."""
        return AuditCount(**{name: value + getattr(other, name) for name, value in self})


class AuditInput(Payload):
    """What to audit: all shards and epochs of a venue's stream.

    `since`, `until`: first and last hour UTC, such as 2026-11-20T10; without them the last `hours`.
    `repair`: archive again what is missing or damaged and still in the log. `accept_loss`: put down
    as a hole, for good, what the log does not have any more. The rest is for the next run of a long
    audit.
    """

    stream: Stream
    venue: str
    since: str | None = None
    until: str | None = None
    hours: int = 26
    repair: bool = True
    accept_loss: bool = False
    waiting: list[LaneHour] | None = None
    carry: AuditCarry | None = None
    count: AuditCount | None = None
    findings: list[Finding] = Field(default_factory=list)
    holes: list[str] = Field(default_factory=list)
    began_s: float = 0.0


class AuditHour(Payload):
    """One hour to audit."""

    where: LaneHour
    carry: AuditCarry
    repair: bool = True
    accept_loss: bool = False


class AuditedHour(Payload):
    """What was found in an hour."""

    carry: AuditCarry
    count: AuditCount
    findings: list[Finding] = Field(default_factory=list)
    holes: list[str] = Field(default_factory=list)


class AuditProgress(Payload):
    """Answer of the audit's `progress` query."""

    count: AuditCount
    waiting: int
    findings: list[Finding]


class AuditReport(Payload):
    """What an audit found: nothing, only what it has mended, or damage that stays.

    `findings`, `holes`: the first hundred; `count` counts all.
    """

    stream: Stream
    venue: str
    outcome: Literal["clean", "repaired", "damaged"]
    sentence: str
    count: AuditCount
    findings: list[Finding] = Field(default_factory=list)
    holes: list[str] = Field(default_factory=list)
    seconds: float = 0.0
