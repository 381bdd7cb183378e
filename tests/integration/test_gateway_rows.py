"""Warm-up from latest-state rows: only where checkpoint and log fall short, and only whole ones."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from models.settings import Settings
from storage.latest import DEPTH, LatestRow, LatestStore
from storage.latest_store import latest_store
from streaming.broker.jetstream import JetStreamLog
from tests.gateways import (
    PRODUCT,
    SUBJECT,
    publish_checkpoint,
    receive,
    running_gateway,
    snapshot,
    subscriber,
    tick,
)

BOOK = {"products": [PRODUCT], "feeds": ["book"], "depth": "full"}


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[LatestStore]:
    """Give the store that the gateway looks into."""
    async with latest_store(settings, create=True) as store:
        yield store


async def put(
    log: JetStreamLog, settings: Settings, store: LatestStore, position: int, *lines: bytes
) -> None:
    """Store a row of this log."""
    epoch = (await log.extent(settings.streams.ticks)).created_us
    texts = tuple(line.decode() for line in lines)
    await store.put([LatestRow("coinbase", PRODUCT, epoch, position, 1, texts)])


async def lose(log: JetStreamLog, settings: Settings, upto: int) -> None:
    """Publish a book's ticks and have the log drop the first of them."""
    for seq in range(1, 11):
        await log.publish(SUBJECT, tick(seq, feed="book"))
    await log._js.purge_stream(settings.streams.ticks, seq=upto + 1)


async def bids(settings: Settings) -> list[str]:
    """Return the prices of the book that a gateway which starts now shows."""
    async with running_gateway(settings) as gateway, subscriber(gateway, **BOOK) as client:
        begun: Any = (await receive(client, 2))[1]
        return [price for price, _ in begun["data"]["state"]["bids"]]


def book(seq: int, *prices: int) -> bytes:
    """Return a book's snapshot."""
    state = {"bids": [[str(price), "1"] for price in prices], "asks": []}
    return snapshot(seq, json.dumps(state), feed="book")


async def test_row_stands_in_for_what_the_log_has_dropped(
    log: JetStreamLog, settings: Settings, store: LatestStore
) -> None:
    """The checkpoint is older than the log's beginning; the row is not."""
    await lose(log, settings, 7)
    await publish_checkpoint(log, 4, [book(4, 4444)])
    await put(log, settings, store, 8, book(8, 8888))
    assert await bids(settings) == ["8888", "10.50", "9.50"]


async def test_row_is_not_asked_for_where_checkpoint_and_log_tell_all(
    log: JetStreamLog, settings: Settings, store: LatestStore
) -> None:
    """They are the truth themselves."""
    await lose(log, settings, 3)
    await publish_checkpoint(log, 8, [book(8, 4444)])
    await put(log, settings, store, 9, book(9, 9999))
    assert await bids(settings) == ["4444", "10.50", "9.50"]


async def test_row_with_the_best_levels_only_does_not_pass_for_the_book(
    log: JetStreamLog, settings: Settings, store: LatestStore
) -> None:
    """What is below them would be missing once they are gone."""
    await lose(log, settings, 7)
    await put(log, settings, store, 8, book(8, *range(1000, 1000 + DEPTH)))
    assert await bids(settings) == ["10.50", "9.50", "8.50"]


async def test_row_of_another_log_and_one_that_is_older_than_the_checkpoint_are_left_alone(
    log: JetStreamLog, settings: Settings, store: LatestStore
) -> None:
    """Neither knows more than the checkpoint."""
    await lose(log, settings, 7)
    await publish_checkpoint(log, 5, [book(5, 5555)])
    await store.put([LatestRow("coinbase", PRODUCT, 1, 9, 1, (book(9, 9999).decode(),))])
    assert await bids(settings) == ["5555", "10.50", "9.50", "8.50"]
    await put(log, settings, store, 4, book(4, 4444))
    assert await bids(settings) == ["5555", "10.50", "9.50", "8.50"]


async def test_row_that_cannot_be_read_is_left_alone(
    log: JetStreamLog, settings: Settings, store: LatestStore
) -> None:
    """The gateway starts with what the log has."""
    await lose(log, settings, 7)
    await put(log, settings, store, 8, b"nonsense")
    assert await bids(settings) == ["10.50", "9.50", "8.50"]
