"""Random lines of the log: canonical ones in every spelling, and some that are none."""

from hypothesis import strategies as st

from models.canonical import FEEDS, SnapshotReason
from models.records import BadFrame, LineDown, ResyncMarker, frame_line, marker_line, note_line
from storage.rows import Message
from streaming.core.outputs import Outputs
from streaming.core.writer import Gap, Writer

PRODUCTS = ("BTC-USD", "SHIB-USDC", "A_1")
VENUE = "coinbase"
REASONS: tuple[SnapshotReason, ...] = ("subscribe", "resync")

small = st.integers(0, 10**12)
counts = st.one_of(small, st.integers(0, 10**18 - 1), st.integers(0, 10**30))
digits = st.text("0123456789", min_size=1, max_size=9)


@st.composite
def decimals(draw: st.DrawFn) -> str:
    """Draw a price or size as a venue may spell it: mostly such that it fits the columns."""
    whole = str(draw(st.one_of(st.integers(0, 10**10 - 1), st.integers(0, 10**20))))
    if draw(st.booleans()):
        return whole
    return f"{whole}.{draw(st.one_of(digits, st.just('00'), st.just('0' * 12)))}"


@st.composite
def trades(draw: st.DrawFn) -> str:
    """Draw the member of a print."""
    side = draw(st.sampled_from(["buy", "sell"]))
    return (
        f'"last_trade":{{"px":{draw(decimals())},"qty":{draw(decimals())},"side":"{side}",'
        f'"id":{draw(counts)}}}'
    )


@st.composite
def quotes(draw: st.DrawFn, side: str) -> str:
    """Draw the member of a best price, with or without its size."""
    size = f',"qty":{draw(decimals())}' if draw(st.booleans()) else ""
    return f'"best_{side}":{{"px":{draw(decimals())}{size}}}'


@st.composite
def tickers(draw: st.DrawFn) -> str:
    """Draw a ticker's state."""
    first = draw(st.one_of(trades(), decimals().map('"last_px":{}'.format), st.just("")))
    sides = [draw(st.one_of(quotes(side), st.just(""))) for side in ("bid", "ask")]
    return "{" + ",".join(filter(None, [first, *sides])) + "}"


@st.composite
def level_lists(draw: st.DrawFn, *, sided: bool) -> str:
    """Draw levels."""
    entries = []
    for _ in range(draw(st.integers(0, 6))):
        texts = [draw(st.sampled_from(["bid", "ask"]))] if sided else []
        texts += [draw(decimals()), draw(decimals())]
        entries.append('["' + '","'.join(texts) + '"]')
    return "[" + ",".join(entries) + "]"


@st.composite
def canonical(draw: st.DrawFn, product: str) -> str:
    """Draw a line as the core writes it."""
    feed = draw(st.sampled_from(FEEDS))
    writer, out = Writer(VENUE, product, feed), Outputs()
    writer.seq = draw(counts)
    kind = draw(st.sampled_from(["tick", "snapshot", "status"]))
    resync = draw(st.one_of(st.none(), st.just(f"resync/coinbase/{product}/{feed}/1-open")))
    if kind == "status":
        before = draw(st.one_of(st.none(), counts))
        gap = Gap("sequence", draw(counts), before, 0, resync or "x")
        writer.gap = draw(st.one_of(st.none(), st.just(gap)))
        writer.state = draw(st.sampled_from(["live", "gap", "resyncing", "stale"]))
        return writer.status_line(draw(counts))
    if feed == "ticker":
        state = draw(tickers())
    elif feed == "trades":
        state = "{" + draw(st.one_of(trades(), st.just(""))) + "}"
    elif kind == "tick":
        state = f'{{"changes":{draw(level_lists(sided=True))}}}'
    else:
        bids, asks = draw(level_lists(sided=False)), draw(level_lists(sided=False))
        state = f'{{"bids":{bids},"asks":{asks}}}'
    if kind == "tick":
        writer.tick(out, draw(counts), draw(counts), draw(counts), state)
        return out.lines[0]
    reason: SnapshotReason = draw(st.sampled_from(REASONS))
    return writer.snapshot_line(draw(counts), draw(counts), reason, state, resync)


@st.composite
def damaged(draw: st.DrawFn, product: str) -> bytes:
    """Draw a canonical line in which some bytes are others, fewer or more."""
    line = draw(canonical(product)).encode()
    at = draw(st.integers(0, len(line)))
    cut = draw(st.integers(0, 3))
    put = draw(
        st.sampled_from([b"", b":", b'"', b",", b"0", b".", b"-", b"\\", b" ", b"{", b"\xff"])
    )
    return (line[:at] + put + line[at + cut :]).replace(b"\n", b"")


@st.composite
def raw(draw: st.DrawFn) -> bytes:
    """Draw a line of the raw log."""
    time_us, number = draw(counts), draw(counts)
    kind = draw(st.sampled_from(["frame", "frame", "frame", "down", "bad", "marker"]))
    if kind == "down":
        return note_line(time_us, "a-1", number, LineDown("gone"))
    if kind == "bad":
        return note_line(time_us, "a-1", number, BadFrame("no_json", "it is no JSON: {"))
    if kind == "marker":
        return marker_line(min(time_us, 2**62), ResyncMarker("resync/x", "book"))
    frame = draw(
        st.sampled_from(['{"type":"ticker","time":"2026-01-01T00:00:00Z"}', "{}", '"a:é"'])
    )
    return frame_line(
        time_us, draw(st.sampled_from(["a-18f-1", 'q"', "b:1"])), number, frame.encode()
    )


def junk() -> st.SearchStrategy[bytes]:
    """Draw lines that are anything at all."""
    return st.one_of(
        st.just(b""),
        st.just(b'{"v":2,"type":"tick","feed":"ticker","seq":5,"prev_seq":4,"new":true}'),
        st.binary(max_size=40).map(lambda line: line.replace(b"\n", b" ")),
        st.text(max_size=20).map(lambda text: text.replace("\n", " ").encode()),
    )


@st.composite
def logs(draw: st.DrawFn, *, of: str = "ticks") -> list[Message]:
    """Draw messages of several products at rising positions."""
    messages, position = [], draw(small)
    for _ in range(draw(st.integers(1, 8))):
        product = draw(st.sampled_from(PRODUCTS))
        good = canonical(product).map(str.encode)
        line = {
            "canonical": good,
            "ticks": st.one_of(good, good, good, damaged(product), junk()),
            "raw": st.one_of(raw(), raw(), junk()),
        }[of]
        lines = draw(st.lists(line, min_size=1, max_size=6))
        position += draw(st.integers(1, 5))
        messages.append(Message(position, product, b"\n".join(lines)))
    return messages
