"""Decoding of outside bytes that never raises: what a decoder cannot take becomes an event.

A venue's decoder answers for what it knows to be wrong. For everything else, a recursion that is
too deep or a mistake of its own, this stands around it: one line may be lost, as a dead letter with
its place, and the lines around it, and the shard, go on.
"""

from models.events import Decode, Event, Invalid
from models.records import head_of
from streaming.core.normalizer import MAX_DETAIL

UNDECODABLE = "undecodable"
"""Reason of a line on which its decoder failed in a way that it does not know."""


def guarded(decode: Decode) -> Decode:
    """Return a decoder that never raises, whatever `decode` does.

    Lines that `decode` takes by themselves give what they give; each other one gives one `Invalid`
    of the book, since a change of it may have been in the line: trades notice by their numbers, and
    the ticker is whole each time. It carries the line's connection and number where these can still
    be read, so that the record counts.

    Raises `MemoryError`, since that says nothing about the line.
    """

    def decode_all(payload: bytes, product: str) -> list[Event]:
        try:
            return list(decode(payload, product))
        except MemoryError:
            raise  # of the machine, not of the line: read again it may be decoded
        except Exception as error:  # noqa: BLE001  # that is what this is for
            lines = payload.split(b"\n")
            if len(lines) == 1:
                return [_undecodable(payload, error)]
        return [event for line in lines for event in decode_all(line, product)]

    return decode_all


def shortened(detail: str) -> str:
    """Return a sentence about bad input that is short, however long what it repeats is."""
    return detail if len(detail) <= MAX_DETAIL else f"{detail[:MAX_DETAIL]}… ({len(detail):,} long)"


def _undecodable(line: bytes, error: Exception) -> Invalid:
    detail = shortened(f"{type(error).__name__}: {error}")
    return Invalid(*head_of(line), UNDECODABLE, detail, "book")
