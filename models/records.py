"""Records of MD_RAW: one NDJSON line per venue frame, exactly as it was received.

Ingest writes them, the normalizer reads them; the lake keeps them.
"""

import re

import msgspec

from models.canonical import Feed


class LineDown(msgspec.Struct, frozen=True):
    """Ingest's own note that a connection ended; nothing more will come under its `conn`."""

    reason: str


class BadFrame(msgspec.Struct, frozen=True):
    """Ingest's own note that a frame was no JSON; the frame itself is a dead letter."""

    reason: str
    detail: str


class LostFrames(BadFrame, frozen=True):
    """Ingest's own note that frames of a connection never came: any product may have been in them.

    Exclusive bounds in the connection's own counting: `after` came last (-1: nothing had come),
    `before` came next, and is not above `after` where the venue began to count anew.
    """

    after: int
    before: int


class ResyncMarker(msgspec.Struct, frozen=True):
    """What a recovery has fetched; `body` is the venue's own answer, which its mapper reads.

    `last` is false where a large answer is spread over several markers. `given_up`: there is no
    answer and there will be none; the sentence says why. `accept_loss`: a person has decided that
    prints which are still missing after this are lost.
    """

    resync_id: str
    feed: Feed
    body: msgspec.Raw = msgspec.Raw(b"null")
    last: bool = True
    given_up: str | None = None
    accept_loss: bool = False


class RawLine(msgspec.Struct):
    """One line of MD_RAW.

    `ts_ingest`: microseconds, when the frame was received. `conn`: the connection, unique over
    all ingestors and restarts. `n`: counts this product's records on that connection from 1, +1
    each, so a reader can drop what it saw and prove that nothing was lost inside the pipeline.
    Exactly one of `frame` (verbatim JSON of the venue), `down`, `bad` and `marker` is given; a
    marker has no `conn` and no `n`.
    """

    ts_ingest: int
    conn: str = ""
    n: int = 0
    frame: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    down: LineDown | None = None
    bad: BadFrame | None = None
    marker: ResyncMarker | None = None


_head = re.compile(rb'\s*\{"ts_ingest":(\d{1,18}),"conn":"([^"\\]{0,200})","n":(\d{1,18}),').match


def head_of(line: bytes) -> tuple[int, str, int]:
    """Return `ts_ingest`, `conn` and `n` of a line of ours whose rest cannot be read, or nothing.

    So the record counts all the same.
    """
    found = _head(line)
    if found is None:
        return 0, "", 0
    ts_ingest, conn, n = found.groups()
    return int(ts_ingest), conn.decode(errors="replace"), int(n)


def frame_line(ts_ingest_us: int, conn: str, n: int, frame: bytes) -> bytes:
    """Render the line of a frame; the frame must be valid JSON without a line break."""
    return b'{"ts_ingest":%d,"conn":"%b","n":%d,"frame":%b}' % (
        ts_ingest_us,
        conn.encode(),
        n,
        frame,
    )


def note_line(ts_ingest_us: int, conn: str, n: int, note: LineDown | BadFrame) -> bytes:
    """Render the line of one of ingest's own notes."""
    kind = "down" if isinstance(note, LineDown) else "bad"
    return msgspec.json.encode({"ts_ingest": ts_ingest_us, "conn": conn, "n": n, kind: note})


def marker_line(ts_ingest_us: int, marker: ResyncMarker) -> bytes:
    """Render the line of a recovery's answer."""
    return msgspec.json.encode({"ts_ingest": ts_ingest_us, "marker": marker})
