"""Checks that hold for every canonical log, whatever made it."""

from collections.abc import Iterable

from models.canonical import Message, Snapshot, Status, Tick, decode_message


def messages(lines: Iterable[str | bytes]) -> list[Message]:
    """Decode canonical lines."""
    return [decode_message(line) for line in lines]


def assert_linked(lines: Iterable[str | bytes]) -> int:
    """Assert that every tick links to the message before it or to a snapshot; count the links.

    A chain may only be broken by a snapshot, and only the very first message may link to 0.
    """
    newest: dict[tuple[str, str], int] = {}
    links = 0
    for message in messages(lines):
        key = (message.product, message.feed)
        if isinstance(message, Snapshot):
            newest[key] = message.seq
        elif isinstance(message, Tick):
            assert message.prev_seq == newest.get(key, 0), f"{key}: {message} after {newest}"
            assert message.seq > message.prev_seq, message
            newest[key] = message.seq
            links += 1
    return links


def statuses(lines: Iterable[str | bytes]) -> list[Status]:
    """Return the status messages."""
    return [message for message in messages(lines) if isinstance(message, Status)]


def ticks(lines: Iterable[str | bytes], feed: str) -> list[Tick]:
    """Return the ticks of one feed."""
    return [
        message for message in messages(lines) if isinstance(message, Tick) and message.feed == feed
    ]
