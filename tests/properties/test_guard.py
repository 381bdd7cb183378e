"""The guard around a decoder: whatever it raises, wherever, the other lines give what they give."""

from hypothesis import given
from hypothesis import strategies as st

from models.events import Event, Invalid
from streaming.core.normalizer import MAX_DETAIL
from streaming.guard import UNDECODABLE, guarded
from tests.examples import examples

ERRORS = (RecursionError, ValueError, KeyError, AssertionError, OverflowError)

LINES = st.lists(st.sampled_from([None, *ERRORS]), min_size=1, max_size=12)
"""What each line makes the decoder raise, if anything."""


def line_of(number: int, error: type[Exception] | None) -> bytes:
    """Return a line of MD_RAW that names its error."""
    name = b"null" if error is None else b'"%b"' % error.__name__.encode()
    return b'{"ts_ingest":%d,"conn":"a-1","n":%d,"frame":%b}' % (1000 + number, number, name)


def decode(payload: bytes, _product: str) -> list[Event]:
    """Give an event for each line, or raise what the first bad one names."""
    found: list[Event] = []
    for line in payload.split(b"\n"):
        for error in ERRORS:
            if error.__name__.encode() in line:
                raise error("x" * 1000)
        number = int(line.partition(b'"n":')[2].partition(b",")[0])
        found.append(Event(1000 + number, "a-1", number))
    return found


@examples(300)
@given(LINES)
def test_a_line_that_fails_is_one_event_and_the_others_are_theirs(
    errors: list[type[Exception] | None],
) -> None:
    """In order; each keeps the number by which the record counts."""
    payload = b"\n".join(line_of(number, error) for number, error in enumerate(errors, 1))
    found = guarded(decode)(payload, "BTC-USD")
    assert [(event.ts_ingest, event.conn, event.n) for event in found] == [
        (1000 + number, "a-1", number) for number in range(1, len(errors) + 1)
    ]
    for event, error in zip(found, errors, strict=True):
        assert isinstance(event, Invalid) == (error is not None)
        if isinstance(event, Invalid) and error is not None:
            assert (event.reason, event.feed) == (UNDECODABLE, "book")
            assert event.detail.startswith(error.__name__)
            assert len(event.detail) < MAX_DETAIL + 40


@examples(300)
@given(st.binary(max_size=200))
def test_a_line_of_anything_is_an_event(payload: bytes) -> None:
    """Also one that is not ours at all."""
    payload = payload.replace(b"\n", b" ")

    def refuse(_payload: bytes, _product: str) -> list[Event]:
        raise RecursionError

    (event,) = guarded(refuse)(payload, "BTC-USD")
    assert isinstance(event, Invalid)
