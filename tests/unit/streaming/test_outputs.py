"""What is said of some feeds only."""

from streaming.core.outputs import Outputs
from streaming.core.writer import Writer


def test_other_feeds_are_dropped_whole() -> None:
    """Lines, requests and counts; the product's name does not matter."""
    out = Outputs()
    book, trades = Writer("coinbase", "book", "book"), Writer("coinbase", "book", "trades")
    for writer in (book, trades):
        writer.snapshot(out, 1, 5, "subscribe", "{}")
        writer.tick(out, 2, 6, 7, '{"last_trade":{"px":1}}')
        out.requests.append(writer.open_gap(out, "trade_id", 2, 9, 8))
    both = list(out.lines)
    out.keep({"book", "trades"})
    assert (out.lines, out.ticks, out.gaps) == (both, 2, 2)
    out.keep({"trades"})
    assert out.lines == both[3:]
    assert [request.feed for request in out.requests] == ["trades"]
    assert (out.ticks, out.gaps) == (1, 1)
