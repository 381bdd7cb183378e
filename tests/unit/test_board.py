"""The live table on terminals of any width."""

import re
from typing import Literal

import pytest
from rich.console import Console

from cli.board import Board
from client.chain import decode_link
from client.update import Update
from tests.gateways import PRODUCT, snapshot, status, tick

BOOK = '{"bids":[["65123.39","1.5"]],"asks":[["65123.41","0.25"]]}'
TICKER = (
    '{"last_trade":{"px":65123.40,"qty":0.12345678,"side":"sell","id":7},'
    '"best_bid":{"px":65123.39,"qty":0.12345678},"best_ask":{"px":65123.41,"qty":1.12345678}}'
)


def made(width: int) -> tuple[Console, Board]:
    """Return the table of one product, whose trades have just been mended."""
    console = Console(width=width, force_terminal=True)
    board = Board(console)
    board.notice("connected")

    def take(op: Literal["snapshot", "incr", "status"], line: bytes) -> None:
        board.take(Update(op, line, decode_link(line)))

    take("snapshot", snapshot(5, TICKER))
    take("snapshot", snapshot(5, BOOK, feed="book"))
    take("incr", tick(6))
    take("status", status("gap", feed="trades"))
    take("status", status("live", feed="trades"))
    return console, board


def drawn(console: Console, board: Board) -> str:
    """Return what is on the screen, as text."""
    with console.capture() as captured:
        console.print(board._table())  # what is drawn, without a screen
    return re.sub(r"\x1b\[[0-9;]*m", "", captured.get())


@pytest.mark.parametrize("width", [80, 100, 120, 160, 240])
def test_table_shows_what_there_is_room_for_and_cuts_nothing(width: int) -> None:
    """What matters most is there on the narrowest one."""
    text = drawn(*made(width))
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    for word in ("product", "last", "bid", "ask", "ticks/s", "gaps", "status", PRODUCT):
        assert word in text
    assert "trades mended in 0.00 s" in text


def test_wide_table_shows_all() -> None:
    """Sizes, depth, spread and links too."""
    text = drawn(*made(240))
    for word in ("bid size", "ask size", "side", "spread", "levels", "links", "age", "65123.41"):
        assert word in text


def test_columns_stay_as_they_are_until_the_terminal_is_resized() -> None:
    """A price with a digit more or less moves nothing; more room brings the columns back."""
    console, board = made(105)
    before = drawn(console, board)
    line = snapshot(6, TICKER.replace("65123.40", "1234567890123.40"))
    board.take(Update("snapshot", line, decode_link(line)))
    fewer = drawn(console, board)
    board.take(Update("snapshot", snapshot(5, TICKER), decode_link(snapshot(5, TICKER))))
    after = drawn(console, board)
    assert len(before.split()) > len(fewer.split()) == len(after.split())
    console.width = 240
    assert "spread" in drawn(console, board)
