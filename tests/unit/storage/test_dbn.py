"""DBN files to canonical ticks: real records in, exact messages out, and every way to be broken."""

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import pytest
from databento_dbn import (
    UNDEF_PRICE,
    UNDEF_TIMESTAMP,
    InstrumentClass,
    MBOMsg,
    Schema,
    Side,
    SystemCode,
    SystemMsg,
)
from databento_dbn import Action as DbnAction
from hypothesis import given
from hypothesis import strategies as st

from models.canonical import ORIGIN
from models.dbn import Change, DbnTick, Kind, Print, decode_dbn_tick
from models.subjects import derivatives_subject, escaped, unescaped
from storage.dbn import DbnMessage, opened
from storage.dbn_file import DbnError
from storage.objects import ObjectStore
from tests import dbn_files as dbn
from tests.recordings import DATA, needs_recordings

NO_STORE = ObjectStore(None, "lake", None)
"""Files of this machine need none."""


async def read(*paths: Path, kind: Kind | None = "futures", after: int = 0) -> list[DbnMessage]:
    """Return all messages of files."""
    got: list[DbnMessage] = []
    await read_into(got, paths, kind, after)
    return got


async def read_into(
    got: list[DbnMessage], paths: Sequence[Path], kind: Kind | None, after: int = 0
) -> None:
    """Add the messages of files."""
    names = list(map(str, paths))
    async with opened(names, NO_STORE, kind=kind) as files:
        async for batch in files.messages(after):
            got += batch


async def read_broken(
    *paths: Path, kind: Kind | None = "futures"
) -> tuple[list[DbnMessage], DbnError]:
    """Return the messages before an error, and the error."""
    got: list[DbnMessage] = []
    with pytest.raises(DbnError) as caught:
        await read_into(got, paths, kind)
    assert caught.value.is_final
    return got, caught.value


def ticks(got: list[DbnMessage]) -> list[DbnTick]:
    """Decode messages."""
    return [decode_dbn_tick(one.payload) for one in got]


def chained(found: list[DbnTick]) -> bool:
    """Tell whether each tick links to the one before it, and the first to nothing."""
    seqs = [ORIGIN, *(one.seq for one in found)]
    return [one.prev_seq for one in found] == seqs[:-1] and seqs == sorted(set(seqs))


@pytest.mark.parametrize("name", ["es.dbn", "es.dbn.zst"])
async def test_trades_become_exact_linked_ticks(tmp_path: Path, name: str) -> None:
    """Price, size, taker, times to the nanosecond, the venue's number; plain and compressed."""
    path = dbn.write(tmp_path / name, [dbn.trade(0), dbn.trade(1), dbn.trade(2)])
    got = await read(path)
    assert [one.position for one in got] == [1, 2, 3]
    assert {one.subject for one in got} == {"market.futures.trades.GLBX_2EMDP3.ESU4"}
    first, second, third = found = ticks(got)
    assert got[0].time_us == first.ts_ingest == (dbn.START_NS + 250_789) // 1000
    assert (first.ts_event_ns, first.ts_ingest_ns) == (dbn.START_NS + 123, dbn.START_NS + 250_789)
    assert (first.venue, first.product, first.feed) == ("GLBX.MDP3", "ESU4", "trades")
    assert first.fields.last_trade == Print(Decimal("5528.75"), 1, "sell")
    assert second.fields.last_trade == Print(Decimal(5529), 2, "buy")
    assert (second.sequence, third.sequence) == (9_000_000, 9_000_001)
    assert chained(found)


async def test_ladder_is_whole_each_time(tmp_path: Path) -> None:
    """Ten levels a side as far as there are so many, best first, with the change that led to it."""
    path = dbn.write(tmp_path / "l.dbn.zst", [dbn.depth(0), dbn.depth(1)],
                     dbn.metadata(Schema("mbp-10")))  # fmt: skip
    got = await read(path)
    assert {one.subject for one in got} == {"market.futures.mbp10.GLBX_2EMDP3.ESU4"}
    first, _ = found = ticks(got)
    assert first.fields.change == Change("add", "bid", Decimal("5528.5"), 7, 0)
    assert first.fields.bids == [
        ("5528.5", "10", 1), ("5528.25", "11", 2), ("5528", "12", 3),
    ]  # fmt: skip
    assert first.fields.asks == [("5528.75", "20", 2), ("5529", "21", 3)]
    assert chained(found)


@given(st.integers(-(2**63), 2**63 - 2))
def test_any_price_is_exact(fixed: int) -> None:
    """All that the file's integers can say, digit by digit, and never in an exponent."""
    from storage.dbn import _price  # noqa: PLC0415  # the one private rule that has a property

    assert Decimal(_price(fixed)).scaleb(9) == fixed
    assert set(_price(fixed)) <= set("-0123456789.")


async def test_what_the_venue_does_not_tell_is_null(tmp_path: Path) -> None:
    """No price, no side, no time of one of both kinds."""
    undefined = dbn.trade(0, price=UNDEF_PRICE, side=Side("N"), ts_event=UNDEF_TIMESTAMP)
    (tick,) = ticks(await read(dbn.write(tmp_path / "a.dbn", [undefined])))
    assert tick.fields.last_trade == Print(None, 1, None)
    assert tick.ts_event_ns == tick.ts_ingest_ns == dbn.START_NS + 250_789
    (tick,) = ticks(
        await read(dbn.write(tmp_path / "b.dbn", [dbn.trade(0, ts_recv=UNDEF_TIMESTAMP)]))
    )
    assert tick.ts_ingest_ns == dbn.START_NS + 123
    timeless = dbn.trade(1, ts_recv=UNDEF_TIMESTAMP, ts_event=UNDEF_TIMESTAMP)
    got, error = await read_broken(dbn.write(tmp_path / "c.dbn", [dbn.trade(0), timeless]))
    assert len(got) == 1
    assert "record 2 has no time" in str(error)


async def test_equal_and_receding_times_still_make_a_chain(tmp_path: Path) -> None:
    """`seq` grows even where the venue's time does not."""
    records = [dbn.trade(5), dbn.trade(5), dbn.trade(3), dbn.trade(6)]
    found = ticks(await read(dbn.write(tmp_path / "a.dbn", records)))
    assert chained(found)
    assert found[1].seq == found[0].seq + 1


async def test_products_have_their_own_chains_and_any_name(tmp_path: Path) -> None:
    """Names with blanks and dots are escaped in the subject, and whole in the message."""
    symbols = {"ESU4": 118, "ESU4 C5600": 7, "UD:1V: VT 01": 8}
    records = [dbn.trade(at, instrument) for at, instrument in enumerate((118, 7, 8, 7, 118))]
    got = await read(dbn.write(tmp_path / "a.dbn", records, dbn.metadata(symbols=symbols)))
    assert got[1].subject == "market.futures.trades.GLBX_2EMDP3.ESU4_20C5600"
    for symbol in symbols:
        assert chained([one for one in ticks(got) if one.product == symbol])
    names = [unescaped(one.subject.split(".")[4]) for one in got]
    assert names == ["ESU4", "ESU4 C5600", "UD:1V: VT 01", "ESU4 C5600", "ESU4"]


@given(st.text(min_size=1, max_size=40), st.text(min_size=1, max_size=40))
def test_escaping_is_reversible_and_makes_one_token(name: str, other: str) -> None:
    """Whatever a venue calls a product."""
    assert unescaped(escaped(name)) == name
    assert (escaped(name) == escaped(other)) == (name == other)
    assert derivatives_subject("options", "trades", "X", name).count(".") == 4


async def test_definitions_say_what_an_instrument_is(tmp_path: Path) -> None:
    """A file of definitions, or definitions among the records, win over names and `kind`."""
    define = dbn.write(
        tmp_path / "def.dbn.zst",
        [
            dbn.definition("ESU4 P5500", 7, InstrumentClass("P")),
            dbn.definition("ESU4-ESZ4", 8, InstrumentClass("S")),
        ],
        dbn.metadata(Schema("definition")),
    )
    trades = dbn.write(tmp_path / "t.dbn", [dbn.trade(0, 7), dbn.trade(1, 8)])
    got = await read(trades, define, kind=None)
    assert [one.subject.split(".", 1)[1] for one in got] == [
        "options.trades.GLBX_2EMDP3.ESU4_20P5500",
        "futures.trades.GLBX_2EMDP3.ESU4-ESZ4",
    ]
    mixed = [
        SystemMsg(dbn.START_NS, "hello", SystemCode(0)),
        dbn.definition("ESU4 C1", 9, InstrumentClass("C")),
        dbn.trade(0, 9),
        dbn.depth(1, 9),
    ]
    got = await read(dbn.write(tmp_path / "m.dbn", mixed, dbn.metadata(None)), kind=None)
    assert [".".join(one.subject.split(".")[1:3]) for one in got] == [
        "options.trades",
        "options.mbp10",
    ]


async def test_instruments_that_are_not_known_are_refused(tmp_path: Path) -> None:
    """Without a definition `kind` decides; without a name nothing can; a stock is neither."""
    path = dbn.write(tmp_path / "t.dbn", [dbn.trade(0)])
    got, error = await read_broken(path, kind=None)
    assert got == []
    assert "instrument 118, which no definition describes; say with dbn_kind" in str(error)
    path = dbn.write(tmp_path / "u.dbn", [dbn.trade(0), dbn.trade(1, 5)])
    got, error = await read_broken(path)
    assert len(got) == 1
    assert "record 2 is of instrument 5, which has no symbol on 2024-07-01" in str(error)
    stock = [dbn.definition("NVDA", 118, InstrumentClass("K")), dbn.trade(0)]
    _, error = await read_broken(dbn.write(tmp_path / "s.dbn", stock, dbn.metadata(None)))
    assert "of class K: neither a future nor an option" in str(error)
    _, error = await read_broken(
        dbn.write(tmp_path / "d.dbn", [dbn.definition("X")], dbn.metadata(Schema("definition")))
    )
    assert "there is nothing to replay" in str(error)


async def test_files_are_merged_by_time_and_go_on_exactly(tmp_path: Path) -> None:
    """Trades and ladders as they came; from any position on, the same messages."""
    trades = dbn.write(tmp_path / "t.dbn.zst", map(dbn.trade, range(700)))
    ladder = dbn.write(
        tmp_path / "l.dbn.zst", map(dbn.depth, range(700)), dbn.metadata(Schema("mbp-10"))
    )
    whole = await read(trades, ladder)
    assert [one.position for one in whole] == list(range(1, 1401))
    times = [one.time_us for one in whole]
    assert times == sorted(times)
    assert whole[0].subject.split(".")[2] == "trades"
    assert whole[1].subject.split(".")[2] == "mbp10"
    for after in (1, 511, 512, 1399, 1400):
        assert await read(trades, ladder, after=after) == whole[after:]


@pytest.mark.parametrize("keep", [1, 20, dbn.RECORD_BYTES - 1])
async def test_file_that_is_cut_gives_every_whole_record_and_says_where(
    tmp_path: Path, keep: int
) -> None:
    """The error names the file, the record, the byte and what is there of it."""
    whole = dbn.write(tmp_path / "whole.dbn", map(dbn.trade, range(1000))).read_bytes()
    head = len(dbn.metadata())
    path = tmp_path / "cut.dbn"
    path.write_bytes(whole[: head + 900 * dbn.RECORD_BYTES + keep])
    got, error = await read_broken(path)
    assert len(got) == 900
    assert error.record == 901
    assert str(error) == (
        f"{path}: record 901 at byte {head + 900 * dbn.RECORD_BYTES:,} is cut: the file ends after "
        f"{keep} bytes of it"
    )


async def test_compressed_file_that_is_cut_gives_all_that_can_be_unpacked(tmp_path: Path) -> None:
    """Not only up to the last whole read: up to the last whole record."""
    whole = dbn.write(tmp_path / "w.dbn.zst", map(dbn.trade, range(20_000)))
    path = tmp_path / "cut.dbn.zst"
    path.write_bytes(whole.read_bytes()[:-200])
    got, error = await read_broken(path)
    assert got == (await read(whole))[: len(got)]
    # A zstd block is 128 KiB; everything before the one that is cut can be had.
    assert len(got) > 20_000 - 2 * 128 * 1024 / dbn.RECORD_BYTES
    assert error.record == len(got) + 1
    assert "the file is cut or damaged" in str(error)


@pytest.mark.parametrize(
    ("at", "data", "why"),
    [
        (0, b"\0", "is damaged: it has no length"),
        (1, b"\x77", "is damaged"),
        (29, b"z", "is damaged: there is no action or side 'z'"),
    ],
)
async def test_damaged_record_is_named_and_those_before_it_are_given(
    tmp_path: Path, at: int, data: bytes, why: str
) -> None:
    """A length, a kind or a side that DBN does not have."""
    whole = bytearray(dbn.write(tmp_path / "w.dbn", map(dbn.trade, range(10))).read_bytes())
    start = len(dbn.metadata()) + 6 * dbn.RECORD_BYTES + at
    whole[start : start + 1] = data
    path = tmp_path / "bad.dbn"
    path.write_bytes(whole)
    got, error = await read_broken(path)
    assert len(got) == 6
    assert error.record == 7
    assert why in str(error)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "is empty"),
        (b"hello, this is no such file", "is no DBN file"),
        (b"DBN", "is no DBN file"),
        (b"DBN\x09" + dbn.metadata()[4:], "is of DBN version 9, but only 1 to 3"),
        (b"DBN\x00" + dbn.metadata()[4:], "is of DBN version 0, but only 1 to 3"),
        (dbn.metadata()[:50], "has metadata that cannot be read"),
        (b"DBN\x03\xff\xff\xff\xff", "is no DBN file"),
        (dbn.metadata(Schema("ohlcv-1s")), "holds ohlcv-1s, but only trades, mbp-10, definition"),
        (dbn.metadata(), "has metadata, but no record"),
    ],
)
async def test_what_is_no_such_file_is_refused(tmp_path: Path, data: bytes, why: str) -> None:
    """In one sentence that names the file, before anything is given."""
    path = tmp_path / "a.dbn"
    path.write_bytes(data)
    got, error = await read_broken(path)
    assert got == []
    assert str(error).startswith(f"{path}: {why}")


async def test_file_that_is_not_there_or_no_kind_to_publish_is_refused(tmp_path: Path) -> None:
    """A wrong path, a folder, a bucket that is not the lake's, records of another kind."""
    _, error = await read_broken(tmp_path / "none.dbn")
    assert "cannot be read (No such file" in str(error)
    _, error = await read_broken(tmp_path)
    assert "Is a directory" in str(error)
    with pytest.raises(DbnError, match="is not in the lake's bucket; copy it to s3://lake/"):
        await opened(["s3://other/a.dbn"], NO_STORE).__aenter__()
    order = MBOMsg(1, 118, dbn.START_NS, 1, 1, 1, DbnAction("A"), Side("B"), dbn.START_NS)
    path = dbn.write(tmp_path / "m.dbn", [dbn.trade(0), order], dbn.metadata(None))
    got, error = await read_broken(path)
    assert len(got) == 1
    assert "record 2 is of kind MBOMsg" in str(error)


@needs_recordings
async def test_real_files_of_all_versions_are_read() -> None:
    """Databento's own samples: version 3, and version 1 in the recorded futures."""
    counts = {}
    for name in ("GLBX.MDP3.trades", "GLBX.MDP3.mbp-10"):
        got = await read(DATA / "dbn" / f"{name}.dbn.zst")
        assert chained(ticks(got))
        counts[got[0].subject] = len(got)
    (recorded,) = (DATA / "dbn").glob("nautilus.futures_trades_*")
    got = await read(recorded)
    assert chained(ticks(got))
    counts[got[0].subject] = len(got)
    assert counts == {
        "market.futures.trades.GLBX_2EMDP3.ESH1": 4,
        "market.futures.mbp10.GLBX_2EMDP3.ESH1": 4,
        "market.futures.trades.GLBX_2EMDP3.ESU4": 120,
    }
