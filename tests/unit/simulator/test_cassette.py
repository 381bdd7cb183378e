"""Reading recordings in both formats."""

from pathlib import Path

import pytest

from models.records import LineDown, frame_line, note_line
from venues.simulator import cassette
from venues.simulator.cassette import CassetteError

MATCH = '{"type":"match","product_id":"BTC-USD","price": "1.0"}'


def _file(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "tape.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_cassette_of_stamped_lines_keeps_frames_and_times(tmp_path: Path) -> None:
    """Connects, blanks, acks and unknown types are skipped; the text stays as it was."""
    path = _file(
        tmp_path,
        "wss://ws-feed.pro.coinbase.com <-> 1618677816.8434298",
        '1618677817.061845: {"type":"subscriptions","channels":[]}',
        f"1618677817.0797: {MATCH}",
        "",
        '1618677818: {"type":"l2update","product_id":"ETH-USD"}',
        '1618677818: {"type":"mystery"}',
    )
    first, second = cassette.read(path)
    assert first == (1618677817079700, ("matches", "full"), "BTC-USD", MATCH)
    assert second.channels == ("level2", "level2_batch")
    assert second.time_us == 1618677818_000000
    assert cassette.products(path) == ["BTC-USD", "ETH-USD"]


def test_cassette_of_raw_lines_keeps_frames_and_times(tmp_path: Path) -> None:
    """The project's own log lines; a note that a line went down is skipped."""
    path = tmp_path / "tape.ndjson"
    lines = [frame_line(17, "c", 1, MATCH.encode()), note_line(18, "c", 2, LineDown("closed"))]
    path.write_bytes(b"\n".join(lines))
    assert [(one.time_us, one.text) for one in cassette.read(path)] == [(17, MATCH)]


@pytest.mark.parametrize(
    "line", ["hello", '12.5: {"type":', '{"ts_ingest":1,"frame":', '{"conn":"a"}', "12.5: []"]
)
def test_cassette_with_a_bad_line_names_it(tmp_path: Path, line: str) -> None:
    """The error tells file and line."""
    path = _file(tmp_path, f"1.0: {MATCH}", line)
    with pytest.raises(CassetteError, match=r"tape\.txt, line 2: ") as caught:
        cassette.products(path)
    assert caught.value.line == 2


def test_cassette_missing_or_empty_is_refused(tmp_path: Path) -> None:
    """There must be something to play."""
    with pytest.raises(CassetteError, match="No such file"):
        cassette.products(tmp_path / "none.txt")
    with pytest.raises(CassetteError, match="holds no frame"):
        cassette.products(_file(tmp_path, ""))


def test_frames_of_a_cassette_are_all_there_and_in_order(tmp_path: Path) -> None:
    """Acks, too, with their lines; a frame older than the one before it is named."""
    ack = '{"type":"subscriptions","channels":[]}'
    path = _file(tmp_path, "wss://x", f"1.5: {ack}", f"2: {MATCH}")
    first, second = cassette.frames(path)
    assert (first.number, first.kind, first.product, first.raw) == (2, "subscriptions", "", None)
    assert (second.time_us, second.text) == (2_000_000, MATCH.encode())
    line = frame_line(17, "c", 1, MATCH.encode())
    (own,) = cassette.frames(_file(tmp_path, line.decode()))
    assert (own.raw, own.time_us, own.product) == (line, 17, "BTC-USD")
    late = _file(tmp_path, f"2: {MATCH}", f"1.999999: {MATCH}")
    with pytest.raises(CassetteError, match=r"line 2: was received 1 µs before the frame above"):
        list(cassette.frames(late))
    with pytest.raises(CassetteError, match="holds no frame"):
        list(cassette.frames(_file(tmp_path, "wss://x")))
