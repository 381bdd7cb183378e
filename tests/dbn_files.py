"""DBN files for tests, written with databento-dbn's own records: the real format."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
from databento_dbn import (
    Action,
    BidAskPair,
    InstrumentClass,
    InstrumentDefMsg,
    MBP10Msg,
    Metadata,
    Schema,
    SecurityUpdateAction,
    Side,
    SType,
    TradeMsg,
)
from databento_dbn.metadata import MappingInterval

DATASET = "GLBX.MDP3"
START_NS = 1_719_878_281_000_000_000
"""2024-07-01T23:58:01Z."""

TRADES = Schema("trades")
FUTURE = InstrumentClass("F")

RECORD_BYTES = 48
"""Of a trade."""


@dataclass
class Interval:
    """Days, the last one excluded, on which an instrument id meant a symbol."""

    start_date: date
    end_date: date
    symbol: str


@dataclass
class Mapping:
    """What ids a symbol had."""

    raw_symbol: str
    intervals: Sequence[MappingInterval]


def mapping(symbol: str, instrument: int) -> Mapping:
    """Map a symbol to an id for the days around the tests' records."""
    return Mapping(symbol, [Interval(date(2024, 7, 1), date(2024, 7, 3), str(instrument))])


def metadata(
    schema: Schema | None = TRADES, symbols: dict[str, int] | None = None, **more: Any
) -> bytes:
    """Return the head of a file; `symbols`: their ids, ESU4 as 118 unless given."""
    known = {"ESU4": 118} if symbols is None else symbols
    return Metadata(
        dataset=DATASET,
        start=START_NS,
        stype_in=SType("raw_symbol"),
        stype_out=SType("instrument_id"),
        schema=schema,
        symbols=list(known),
        mappings=[mapping(*one) for one in known.items()],
        **more,
    ).encode()


def trade(number: int, instrument: int = 118, **more: Any) -> TradeMsg:
    """Return the trade of a millisecond."""
    given: dict[str, Any] = {
        "publisher_id": 1,
        "instrument_id": instrument,
        "ts_event": START_NS + number * 1_000_000 + 123,
        "ts_recv": START_NS + number * 1_000_000 + 250_789,
        "price": 5_528_750_000_000 + number * 250_000_000,
        "size": number + 1,
        "action": Action("T"),
        "side": Side("B") if number % 2 else Side("A"),
        "depth": 0,
        "sequence": 9_000_000 + number // 2,
        **more,
    }
    return TradeMsg(**given)


def depth(number: int, instrument: int = 118, **more: Any) -> MBP10Msg:
    """Return a change of the ladder of a millisecond: three bids, two asks."""
    bids = [5_528_500_000_000 - level * 250_000_000 for level in range(3)]
    asks = [5_528_750_000_000 + level * 250_000_000 for level in range(2)]
    levels = [
        BidAskPair(
            **({"bid_px": bids[at], "bid_sz": 10 + at, "bid_ct": 1 + at} if at < 3 else {}),
            **({"ask_px": asks[at], "ask_sz": 20 + at, "ask_ct": 2 + at} if at < 2 else {}),
        )
        for at in range(10)
    ]
    given: dict[str, Any] = {
        "publisher_id": 1,
        "instrument_id": instrument,
        "ts_event": START_NS + number * 1_000_000 + 456,
        "ts_recv": START_NS + number * 1_000_000 + 260_000,
        "price": bids[0],
        "size": 7,
        "action": Action("A"),
        "side": Side("B"),
        "depth": 0,
        "sequence": 9_000_000 + number,
        "levels": levels,
        **more,
    }
    return MBP10Msg(**given)


def definition(
    symbol: str, instrument: int = 118, of: InstrumentClass = FUTURE
) -> InstrumentDefMsg:
    """Return what the venue says an instrument is, from before the tests' records."""
    return InstrumentDefMsg(
        publisher_id=1,
        instrument_id=instrument,
        ts_event=START_NS - 1,
        ts_recv=START_NS - 1,
        min_price_increment=250_000_000,
        display_factor=1,
        raw_symbol=symbol,
        asset="ES",
        security_type="FUT",
        instrument_class=of,
        security_update_action=SecurityUpdateAction("A"),
    )


def write(path: Path, records: Iterable[Any] = (), head: bytes | None = None) -> Path:
    """Write a file, compressed if its name ends with `.zst`."""
    data = (metadata() if head is None else head) + b"".join(map(bytes, records))
    compression = "zstd" if path.suffix == ".zst" else None
    with pa.output_stream(str(path), compression=compression) as stream:
        stream.write(data)
    return path
