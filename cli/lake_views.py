"""What `ledgerflux lake` does and prints; `cli.lake` has its options.

Apart from those because it needs Arrow, DuckDB and AWS's library: 120 MB and a second, which no
other command should pay.
"""

import asyncio
import csv
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

import duckdb
import msgspec
import pyarrow as pa
import typer
from rich.console import Console
from rich.table import Table

from cli.lake import Chosen, Streams
from models.settings import Settings, SettingsError, load_settings
from storage.dataset import Listed, Selection, dataset, listed
from storage.errors import StorageError
from storage.layout import Hour
from storage.manifest import Entry
from storage.objects import ObjectStore
from storage.schema import FORMATS, Stream

EXIT_FAILED = 1
_PAGE_COLUMNS = 200
_BATCH_ROWS = 1000
_MEMORY = "1GB"


@dataclass(frozen=True)
class HourRow:
    """An hour of a lane in `ls`."""

    stream: str
    venue: str
    hour: str
    shard: int
    epoch: int
    objects: int
    rows: int
    bytes: int
    holes: int


@dataclass
class StreamRow:
    """A stream of a venue in `stat`."""

    stream: str
    venue: str
    objects: int = 0
    rows: int = 0
    bytes: int = 0
    bytes_per_row: float = 0.0
    text_bytes: int = 0
    holes: int = 0
    since: str = ""
    until: str = ""


@dataclass
class FeedRow:
    """A product and feed in `stat`; numbers are those of the first and the last tick."""

    stream: str
    venue: str
    product: str
    feed: str
    rows: int = 0
    first_seq: int | None = None
    last_seq: int | None = None
    breaks: int = 0


def list_hours(stream: Streams, chosen: Chosen, limit: int, *, as_json: bool) -> None:
    """Print the newest hours and lanes."""
    found = _look(_settings(), _streams(stream), _selection(chosen))
    rows = [
        HourRow(
            stream=one.lane.stream,
            venue=one.lane.venue,
            hour=_iso(one.hour.start_us)[:13],
            shard=one.lane.shard,
            epoch=one.lane.epoch,
            objects=len(one.manifest.entries),
            rows=sum(entry.rows for entry in one.manifest.entries),
            bytes=sum(entry.size_bytes for entry in one.manifest.entries),
            holes=len(one.manifest.holes),
        )
        for one in found
    ]
    _print_rows("Hours of the lake", rows[-limit:], as_json=as_json)
    _say_more(len(rows), limit, "the oldest hours are left out")


def stat(stream: Streams, chosen: Chosen, limit: int, *, as_json: bool) -> None:
    """Print totals by stream, and by product and feed."""
    selection = _selection(chosen)
    streams, feeds = _totals(_look(_settings(), _streams(stream), selection), selection)
    _print_rows("The lake", streams, as_json=as_json)
    _print_rows("Products and feeds", feeds[:limit], as_json=as_json)
    _say_more(len(feeds), limit, "choose with --product")


def query(sql: str, chosen: Chosen, limit: int, *, as_json: bool, as_csv: bool) -> None:
    """Answer a question in SQL."""
    settings, selection = _settings(), _selection(chosen)
    with duckdb.connect() as database:
        _confine(database)
        _check(database, sql)
        found = _look(settings, tuple(FORMATS), selection)
        for stream in FORMATS:
            hours = [one for one in found if one.lane.stream == stream]
            database.register(stream, dataset(stream, settings, hours, selection))
        try:
            answer = database.sql(sql).to_arrow_reader(_BATCH_ROWS)
            _print_answer(answer, limit, as_json=as_json, as_csv=as_csv)
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            _fail(f"the query failed: {error}")


def _confine(database: duckdb.DuckDBPyConnection) -> None:
    """Have queries see the views and nothing else of this machine, in bounded memory."""
    for setting in (
        f"memory_limit = '{_MEMORY}'",
        "TimeZone = 'UTC'",
        "python_enable_replacements = false",
        "autoinstall_known_extensions = false",
        "autoload_known_extensions = false",
        "enable_external_access = false",
        "lock_configuration = true",
    ):
        database.execute(f"SET {setting}")


def _check(database: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Refuse what is not one question, before the store is asked."""
    try:
        statements = database.extract_statements(sql)
    except duckdb.Error as error:
        raise typer.BadParameter(str(error), param_hint="SQL") from error
    if [one.type for one in statements] != [duckdb.StatementType.SELECT]:
        raise typer.BadParameter("give one SELECT; the lake is only read", param_hint="SQL")


def _print_answer(answer: Any, limit: int, *, as_json: bool, as_csv: bool) -> None:  # noqa: ANN401
    """Print the first rows of an answer as they come; say so if there are more."""
    rows = itertools.islice(_rows(answer), limit + 1)
    names = answer.schema.names
    shown = itertools.islice(rows, limit)
    if as_json:
        encode = msgspec.json.Encoder(decimal_format="number").encode
        for row in shown:
            typer.echo(encode(dict(zip(names, row, strict=True))))
    elif as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(map(_cells, shown))
    else:
        table = Table(*names)
        for row in shown:
            table.add_row(*_cells(row))
        _console().print(table)
    if next(rows, None) is not None:
        _say(f"only the first {limit} rows: give --limit, or ask for less")


def _rows(answer: Any) -> Iterator[tuple[Any, ...]]:  # noqa: ANN401
    for batch in answer:
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _cells(row: Sequence[Any]) -> list[str]:
    """Return values as text: nothing for null, exact decimals, times in ISO 8601."""
    return [_cell(value) for value in row]


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, dict | list):
        return msgspec.json.encode(value).decode()
    return str(value)


def _look(settings: Settings, streams: Sequence[Stream], selection: Selection) -> list[Listed]:
    """Return what the lake lists; ends the command where it cannot be read or has nothing."""

    async def look() -> list[Listed]:
        async with ObjectStore.connect(settings) as store:
            return [one for stream in streams for one in await listed(store, stream, selection)]

    try:
        found = asyncio.run(look())
    except StorageError as error:
        _fail(
            f"cannot read the lake: {error}. The settings are S3_ENDPOINT, S3_BUCKET, "
            "S3_ACCESS_KEY, S3_SECRET_KEY and S3_REGION; the lake of `ledgerflux up` is at "
            "S3_ENDPOINT=http://127.0.0.1:9000"
        )
    if not any(one.manifest.entries or one.manifest.holes for one in found):
        _fail(f"the lake in bucket {settings.s3_bucket} has nothing of that")
    return found


def _totals(found: Sequence[Listed], selection: Selection) -> tuple[list[StreamRow], list[FeedRow]]:
    """Add up; rows and bytes of a stream are those of its chosen objects, whole."""
    streams: dict[tuple[str, str], StreamRow] = {}
    feeds: dict[tuple[str, str, str, str], FeedRow] = {}
    for one in found:
        key = one.lane.stream, one.lane.venue
        total = streams.setdefault(key, StreamRow(*key))
        total.holes += len(one.manifest.holes)
        for entry in filter(selection.wants, one.manifest.entries):
            _add(total, entry)
            for product, spans in entry.spans.items():
                if selection.products and product not in selection.products:
                    continue
                for feed, span in spans.items():
                    row = feeds.setdefault((*key, product, feed), FeedRow(*key, product, feed))
                    row.rows += span.rows
                    row.breaks += span.breaks
                    row.first_seq = span.first_seq if row.first_seq is None else row.first_seq
                    row.last_seq = row.last_seq if span.last_seq is None else span.last_seq
    return list(streams.values()), [feeds[key] for key in sorted(feeds)]


def _add(total: StreamRow, entry: Entry) -> None:
    total.objects += 1
    total.rows += entry.rows
    total.bytes += entry.size_bytes
    total.text_bytes += entry.text_bytes
    total.bytes_per_row = round(total.bytes / max(1, total.rows), 2)
    since, until = _iso(entry.since_us), _iso(entry.until_us)
    total.since = min(total.since or since, since)
    total.until = max(total.until, until)


def _print_rows(title: str, rows: Sequence[Any], *, as_json: bool) -> None:
    """Print dataclasses of one kind."""
    if as_json:
        for row in rows:
            typer.echo(json.dumps(asdict(row)))
        return
    if not rows:
        return
    table = Table(title=title, title_justify="left")
    for name in asdict(rows[0]):
        is_number = isinstance(asdict(rows[0])[name], int | float)
        table.add_column(name.replace("_", " "), justify="right" if is_number else "left")
    for row in rows:
        table.add_row(*map(_shown, asdict(row).values()))
    _console().print(table)


def _shown(value: object) -> str:
    """Return a number in groups, except one that names something."""
    return f"{value:,}" if isinstance(value, int | float) else _cell(value)


def _selection(chosen: Chosen) -> Selection:
    since, until = _hour(chosen.since, "--since"), _hour(chosen.until, "--until")
    return Selection(since, until, chosen.venue, chosen.products)


def _hour(text: str | None, option: str) -> Hour | None:
    """Read a moment: ISO 8601, UTC unless it says otherwise, or how long ago."""
    if text is None:
        return None
    now = datetime.now(UTC)
    try:
        if text[-1:] in _AGO and text[:-1].isdecimal():
            moment = now - _AGO[text[-1]](int(text[:-1]))
        else:
            moment = datetime.fromisoformat(text)
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return Hour.of(int(moment.timestamp()) * 1_000_000)
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(
            f"{text!r} is no moment: write 2026-01-31T14:00, 2026-01-31, or 90m, 24h, 7d",
            param_hint=option,
        ) from error


_AGO: dict[str, Callable[[int], timedelta]] = {
    "m": lambda count: timedelta(minutes=count),
    "h": lambda count: timedelta(hours=count),
    "d": lambda count: timedelta(days=count),
}


def _streams(chosen: Streams) -> tuple[Stream, ...]:
    return tuple(stream for stream in FORMATS if chosen in {stream, "all"})


def _iso(time_us: int) -> str:
    moment = datetime.fromtimestamp(time_us // 1_000_000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _settings() -> Settings:
    try:
        return load_settings()
    except SettingsError as error:
        raise typer.BadParameter(str(error)) from error


def _console() -> Console:
    """Return the terminal, or a plain wide page where stdout is none."""
    return Console() if sys.stdout.isatty() else Console(width=_PAGE_COLUMNS)


def _say_more(count: int, limit: int, hint: str) -> None:
    if count > limit:
        _say(f"{limit} of {count}: give --limit for more; {hint}")


def _say(sentence: str) -> None:
    """Tell a person, beside the output."""
    typer.echo(sentence, err=True)


def _fail(sentence: str) -> NoReturn:
    _say(f"ledgerflux lake: {sentence}")
    raise typer.Exit(EXIT_FAILED)
