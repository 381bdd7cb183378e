"""Databento DBN files as canonical ticks of futures and options: the source of such a replay.

Deterministic: the same files always give the same messages, each with its position from 1, so a
replay goes on exactly behind any of them. Prices go from the file's integers (1e-9) to decimals as
text, never through a binary float. What a message holds is in `models.dbn`.

A record becomes one message. Several files are merged by the time of capture; those of schema
`definition` are read before the others, and only say what the instruments are.
"""

import asyncio
import heapq
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import date, timedelta
from functools import lru_cache
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import msgspec
from databento_dbn import (
    FIXED_PRICE_SCALE,
    UNDEF_PRICE,
    UNDEF_TIMESTAMP,
    DBNRecord,
    ErrorMsg,
    InstrumentDefMsg,
    MBP10Msg,
    StatusMsg,
    SymbolMappingMsg,
    SystemMsg,
    TradeMsg,
)

from models.canonical import ORIGIN, VERSION
from models.dbn import DbnFeed, Kind
from models.subjects import LIVE, derivatives_subject
from storage.dbn_file import DbnError, DbnFile
from storage.objects import ObjectStore

S3_PREFIX = "s3://"
"""Begins the name of a file that is in the lake's bucket: `s3://<bucket>/<key>`."""

_KINDS: dict[str, Kind] = {"F": "futures", "S": "futures", "C": "options", "P": "options",
                           "T": "options"}  # fmt: skip
"""Futures and their spreads, calls, puts and their spreads, by DBN's instrument class."""

_TAKERS = {"B": '"buy"', "A": '"sell"', "N": "null"}
_SIDES = {"B": '"bid"', "A": '"ask"', "N": "null"}
_ACTIONS = {
    "A": "add", "M": "modify", "C": "cancel", "R": "clear", "T": "trade", "F": "fill", "N": "none",
}  # fmt: skip
_SKIPPED = (SystemMsg, ErrorMsg, StatusMsg)
_FIRST_DAY = date(1970, 1, 1)
_NS_PER_US = 1000
_NS_PER_DAY = 86_400 * 10**9
_BATCH = 512


class DbnMessage(NamedTuple):
    """One canonical tick. `position`: from 1, over all files; `time_us`: when it was captured."""

    position: int
    subject: str
    payload: bytes
    time_us: int


class _Known(NamedTuple):
    """A record that can be published, and what it is of."""

    time_us: int
    record: TradeMsg | MBP10Msg
    file: DbnFile
    product: str
    kind: Kind


class _Chain:
    """The messages of one product and feed. Attributes: subject; head, how each line begins; seq.

    `seq` is the newest message's.
    """

    __slots__ = ("head", "seq", "subject")

    def __init__(self, one: _Known, feed: DbnFeed, root: str) -> None:
        venue = one.file.metadata.dataset
        self.subject = derivatives_subject(one.kind, feed, venue, one.product, root)
        names = ",".join(
            f'"{name}":{_json(value)}'
            for name, value in (("venue", venue), ("product", one.product), ("feed", feed))
        )
        self.head = f'{{"v":{VERSION},"type":"tick",{names},"seq":'
        self.seq = ORIGIN


@asynccontextmanager
async def opened(
    names: Sequence[str], store: ObjectStore, *, kind: Kind | None = None, root: str = LIVE
) -> AsyncIterator["DbnReplay"]:
    """Open files to be replayed together.

    `names`: paths of this machine, or `s3://<bucket>/<key>` in the lake's bucket, which are copied
    here for so long. `kind`: of the instruments that no definition describes. `root`: first token
    of the subjects.

    Raises:
        DbnError: one cannot be read, is no DBN file, or holds nothing that could be replayed.
        StorageError: the bucket cannot be read.
    """
    async with _local(names, store) as paths:
        yield await asyncio.to_thread(DbnReplay, paths, kind, root)


def _some(reading: Iterator[DbnMessage]) -> tuple[list[DbnMessage], DbnError | None]:
    """Return the next messages, and the error that ended them, if one did."""
    batch: list[DbnMessage] = []
    try:
        batch.extend(islice(reading, _BATCH))
    except DbnError as error:
        return batch, error
    return batch, None


@asynccontextmanager
async def _local(names: Sequence[str], store: ObjectStore) -> AsyncIterator[list[tuple[str, Path]]]:
    """Give name and path of each file; those of the bucket are copied here for so long."""
    bucket = f"{S3_PREFIX}{store.bucket}/"
    with tempfile.TemporaryDirectory(prefix="ledgerflux-dbn-") as folder:
        paths: list[tuple[str, Path]] = []
        for number, name in enumerate(names):
            path = Path(folder, str(number)) if name.startswith(S3_PREFIX) else Path(name)
            if name.startswith(S3_PREFIX):
                if not name.startswith(bucket):
                    raise DbnError(name, f"is not in the lake's bucket; copy it to {bucket}")
                await store.download(name.removeprefix(bucket), path)
            paths.append((name, path))
        yield paths


class _Instruments:
    """What the instruments are called and what they are, by their ids.

    A definition tells both; otherwise the file's mappings tell the name, and `kind` what it is.
    """

    def __init__(self, kind: Kind | None) -> None:
        self._kind = kind
        self._defined: dict[tuple[str, int], tuple[str, str]] = {}
        self._mapped: dict[tuple[str, int], str] = {}
        self._dated: dict[str, dict[int, list[tuple[date, date, str]]]] = {}
        self._found: dict[tuple[str, int, int], tuple[str, Kind]] = {}

    def learn(self, file: DbnFile) -> None:
        """Take the mappings of a file's metadata."""
        dated: dict[int, list[tuple[date, date, str]]] = {}
        for symbol, intervals in file.metadata.mappings.items():
            for one in intervals:
                if one["symbol"].isdecimal():
                    known = dated.setdefault(int(one["symbol"]), [])
                    known.append((one["start_date"], one["end_date"], symbol))
        self._dated[file.name] = dated

    def note(self, file: DbnFile, record: DBNRecord) -> None:
        """Take a record that is not published.

        Raises:
            DbnError: it should be, but there is no feed for its kind.
        """
        dataset = file.metadata.dataset
        if isinstance(record, InstrumentDefMsg):
            about = record.raw_symbol, str(record.instrument_class)
            self._defined[dataset, record.instrument_id] = about
        elif isinstance(record, SymbolMappingMsg):
            self._mapped[dataset, record.instrument_id] = record.stype_out_symbol
        elif not isinstance(record, _SKIPPED):
            raise file.refusal(
                f"is of kind {type(record).__name__}, but only trades, mbp-10 and definitions can "
                "be replayed"
            )
        self._found.clear()

    def of(self, file: DbnFile, instrument: int, day: int) -> tuple[str, Kind]:
        """Return symbol and kind of an instrument on a day since 1970.

        Raises:
            DbnError: they are not known.
        """
        key = file.name, instrument, day
        if key not in self._found:
            self._found[key] = (
                self._symbol(file, instrument, day),
                self._kind_of(file, instrument),
            )
        return self._found[key]

    def _symbol(self, file: DbnFile, instrument: int, day: int) -> str:
        where = file.metadata.dataset, instrument
        defined, _ = self._defined.get(where, (None, None))
        symbol = defined or self._mapped.get(where)
        if symbol is not None:
            return symbol
        on = _FIRST_DAY + timedelta(days=day)
        for since, until, name in self._dated[file.name].get(instrument, ()):
            if since <= on < until:
                return name
        raise file.refusal(
            f"is of instrument {instrument}, which has no symbol on {on} in this file; put a file "
            "with its definition first"
        )

    def _kind_of(self, file: DbnFile, instrument: int) -> Kind:
        _, kind = self._defined.get((file.metadata.dataset, instrument), (None, None))
        if kind is None:
            if self._kind is None:
                raise file.refusal(
                    f"is of instrument {instrument}, which no definition describes; say with "
                    "dbn_kind what these are, futures or options, or add a file of definitions"
                )
            return self._kind
        if kind not in _KINDS:
            raise file.refusal(
                f"is of instrument {instrument}, of class {kind}: neither a future nor an option"
            )
        return _KINDS[kind]


class DbnReplay:
    """One run through files. Attributes: until_us, when their records end, as far as they tell."""

    def __init__(self, paths: Iterable[tuple[str, Path]], kind: Kind | None, root: str) -> None:
        self._root = root
        self._instruments = _Instruments(kind)
        self._files: list[DbnFile] = []
        self._chains: dict[tuple[str, str, DbnFeed], _Chain] = {}
        definitions: list[DbnFile] = []
        for name, path in paths:
            file = DbnFile(path, name)
            self._instruments.learn(file)
            of = definitions if file.metadata.schema == "definition" else self._files
            of.append(file)
        for file in definitions:
            for record in file:
                self._instruments.note(file, record)
        if not self._files:
            names = ", ".join(file.name for file in definitions) or "no file"
            raise DbnError(names, "there is nothing to replay: name a file of trades or mbp-10")

    @property
    def until_us(self) -> int:
        """When the last of the files ends, in microseconds; 0 if none tells."""
        ends = [file.metadata.end for file in self._files]
        return max((end // _NS_PER_US for end in ends if end and end != UNDEF_TIMESTAMP), default=0)

    async def messages(self, after: int = 0) -> AsyncGenerator[list[DbnMessage], None]:
        """Give the messages above a position, some at a time, in bounded memory; once only.

        Raises:
            DbnError: a file ends too early, or cannot be understood; everything before that has
                been given.
        """
        reading = self._read(after)
        while True:
            batch, error = await asyncio.to_thread(_some, reading)
            if batch:
                yield batch
            if error is not None:
                raise error
            if not batch:
                return

    def _read(self, after: int) -> Iterator[DbnMessage]:
        """Give the messages above a position; those before only count."""
        merged = heapq.merge(*map(self._known, self._files), key=attrgetter("time_us"))
        for position, one in enumerate(merged, start=1):
            feed: DbnFeed = "trades" if isinstance(one.record, TradeMsg) else "mbp10"
            key = one.file.metadata.dataset, one.product, feed
            chain = self._chains.get(key)
            if chain is None:
                chain = self._chains[key] = _Chain(one, feed, self._root)
            before, chain.seq = chain.seq, max(_event_ns(one.record) // _NS_PER_US, chain.seq + 1)
            if position > after:
                payload = _line(chain, before, one)
                yield DbnMessage(position, chain.subject, payload, one.time_us)

    def _known(self, file: DbnFile) -> Iterator[_Known]:
        """Give the records of a file that are published."""
        for record in file:
            if not isinstance(record, TradeMsg | MBP10Msg):
                self._instruments.note(file, record)
                continue
            captured_ns = _captured_ns(record)
            if captured_ns == UNDEF_TIMESTAMP:
                raise file.refusal("has no time")
            day = captured_ns // _NS_PER_DAY
            about = self._instruments.of(file, record.instrument_id, day)
            yield _Known(captured_ns // _NS_PER_US, record, file, *about)


def _captured_ns(record: TradeMsg | MBP10Msg) -> int:
    """Return when a record was captured, or else when the venue says it was."""
    return record.ts_event if record.ts_recv == UNDEF_TIMESTAMP else record.ts_recv


def _event_ns(record: TradeMsg | MBP10Msg) -> int:
    """Return the venue's time, or else when the record was captured."""
    return record.ts_recv if record.ts_event == UNDEF_TIMESTAMP else record.ts_event


def _line(chain: _Chain, before: int, one: _Known) -> bytes:
    """Spell a canonical tick.

    Raises:
        DbnError: the record holds a code that DBN does not have.
    """
    record = one.record
    event_ns, ingest_ns = _event_ns(record), _captured_ns(record)
    try:
        fields = _print(record) if isinstance(record, TradeMsg) else _ladder(record)
    except KeyError as error:
        raise one.file.refusal(f"is damaged: there is no action or side {error}") from error
    return (
        f'{chain.head}{chain.seq},"prev_seq":{before},"ts_event":{event_ns // _NS_PER_US},'
        f'"ts_ingest":{one.time_us},"ts_event_ns":{event_ns},"ts_ingest_ns":{ingest_ns},'
        f'"sequence":{record.sequence},"publisher":{record.publisher_id},'
        f'"flags":{record.flags},"fields":{fields}}}'
    ).encode()


def _print(record: TradeMsg) -> str:
    side = _TAKERS[str(record.side)]
    return f'{{"last_trade":{{"px":{_price(record.price)},"qty":{record.size},"side":{side}}}}}'


def _ladder(record: MBP10Msg) -> str:
    change = (
        f'{{"action":"{_ACTIONS[str(record.action)]}","side":{_SIDES[str(record.side)]},'
        f'"px":{_price(record.price)},"qty":{record.size},"depth":{record.depth}}}'
    )
    levels = record.levels
    bids = ",".join(
        f'["{_price(one.bid_px)}","{one.bid_sz}",{one.bid_ct}]'
        for one in levels
        if one.bid_px != UNDEF_PRICE
    )
    asks = ",".join(
        f'["{_price(one.ask_px)}","{one.ask_sz}",{one.ask_ct}]'
        for one in levels
        if one.ask_px != UNDEF_PRICE
    )
    return f'{{"change":{change},"bids":[{bids}],"asks":[{asks}]}}'


@lru_cache(maxsize=65_536)
def _price(fixed: int) -> str:
    """Return a price, given in 1e-9, as a plain decimal; `null` where the venue has none."""
    if fixed == UNDEF_PRICE:
        return "null"
    whole, places = divmod(abs(fixed), FIXED_PRICE_SCALE)
    text = f"{whole}.{places:09d}".rstrip("0").rstrip(".")
    return f"-{text}" if fixed < 0 else text


def _json(text: str) -> str:
    return msgspec.json.encode(text).decode()
