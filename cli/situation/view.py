"""The situation as one screen: what is not live first, and never more than fits."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from cli.situation.feeds import FeedRow, Feeds
from cli.situation.gateway import GatewayRow
from cli.situation.streams import ConsumerRow, StreamRow
from cli.situation.temporal import ArchiveRow, RunRow, WorkerRow
from cli.situation.whole import Situation
from models.canonical import FEEDS

MOST_PRODUCTS = 20
MOST_TROUBLED = 20
"""Rows that are shown; `--json` has all."""

_COLOURS = {"live": "green", "gap": "yellow", "resyncing": "yellow", "unknown": "yellow"}
_MIB = 1024**2
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"))
_NOTHING = "·"


def screen(told: Situation, *, links: bool) -> RenderableType:
    """Return everything; with `links` a terminal can follow them, else they are spelled out."""
    parts: list[RenderableType] = [_headline(told)]
    parts += [Text(f"✗ {sentence}", style="red") for sentence in told.unreached]
    if told.feeds is not None:
        parts += _feeds(told.feeds, told.at_us, links=links)
    if told.streams is not None:
        parts.append(_streams(told.streams))
    if told.gateways is not None:
        parts.append(_gateways(told.gateways))
    if told.archive:
        parts.append(_archive(told.archive))
    if told.runs is not None:
        parts.append(_runs(told.runs, told.at_us))
    parts.append(_workers(told))
    return Group(*parts)


def _headline(told: Situation) -> Text:
    at = datetime.fromtimestamp(told.at_us / 1e6, UTC).isoformat(" ", "seconds")
    text = Text(f"LedgerFlux, {at[:19]} UTC: ")
    if told.feeds is None:
        return text.append("feeds are not known", style="red")
    states = Counter(row.state for row in told.feeds.rows)
    counts = ", ".join(f"{count} {state}" for state, count in states.most_common())
    return text.append(counts or "no feeds", style="green" if told.is_live else "yellow")


def _feeds(told: Feeds, at_us: int, *, links: bool) -> list[RenderableType]:
    rows: dict[tuple[str, str], dict[str, FeedRow]] = defaultdict(dict)
    for row in told.rows:
        rows[row.venue, row.product][row.feed] = row
    # Who has to look for trouble among hundreds of products overlooks it.
    products = sorted(rows, key=lambda key: all(r.state == "live" for r in rows[key].values()))
    table = _table("Feeds: state, ticks/s, age of the newest tick", "product", *FEEDS)
    for key in products[:MOST_PRODUCTS]:
        cells = (_feed(rows[key].get(feed) or rows[key].get(""), at_us) for feed in FEEDS)
        table.add_row("/".join(key), *cells)
    parts: list[RenderableType] = [table]
    if len(products) > MOST_PRODUCTS:
        parts.append(Text(f"  and {len(products) - MOST_PRODUCTS} products more"))
    troubled = [row for row in told.rows if row.state != "live"]
    if troubled:
        parts.append(_troubled(troubled, at_us, links=links))
    return parts


def _feed(row: FeedRow | None, at_us: int) -> str:
    if row is None:
        return _NOTHING
    state = f"[{_COLOURS.get(row.state, 'red')}]{row.state}[/]"
    if row.newest_us is None:
        return state
    return f"{state} {row.ticks_per_s:,.1f}/s {_age(row.newest_us, at_us)}"


def _troubled(rows: Sequence[FeedRow], at_us: int, *, links: bool) -> Table:
    table = _table("Not live", "feed", "state", "for", "recovery")
    for row in rows[:MOST_TROUBLED]:
        name = row.resync_id or ""
        if row.link and links:
            name = f"[link={row.link}]{name}[/link]"
        elif row.link:
            name = row.link
        since = _NOTHING if row.since_us is None else _age(row.since_us, at_us)
        feed = "/".join(filter(None, (row.venue, row.product, row.feed)))
        table.add_row(feed, row.state, since, name)
    if len(rows) > MOST_TROUBLED:
        table.add_row(f"and {len(rows) - MOST_TROUBLED} more", "", "", "")
    return table


def _streams(rows: Iterable[StreamRow]) -> Table:
    columns = ("stream", "messages", "MiB", "first", "last", "of bytes", "of age", "read by")
    table = _table("Streams", *columns)
    for row in rows:
        table.add_row(
            row.name,
            f"{row.messages:,}",
            f"{row.size_bytes / _MIB:,.1f}",
            f"{row.first:,}",
            f"{row.last:,}",
            _share(row.share_of_bytes),
            _share(row.share_of_age),
            "; ".join(map(_consumer, row.consumers)) or _NOTHING,
        )
    return table


def _consumer(row: ConsumerRow) -> str:
    name = row.name or row.reader or row.subjects
    return f"{name} ({row.behind:,} behind)" if row.behind else name


def _gateways(rows: Iterable[GatewayRow]) -> Table:
    columns = ("gateway", "clients", "deliveries/s", "conflated", "connections", "state")
    table = _table("Gateways", *columns)
    for row in rows:
        kinds = ", ".join(f"{count} {kind}" for kind, count in row.connections.items())
        state = "[green]ready[/]" if row.reason is None else f"[red]{escape(row.reason)}[/]"
        pace = f"{row.deliveries_per_s:,.0f}"
        table.add_row(row.url, f"{row.clients:,}", pace, f"{row.conflated:,}", kinds, state)
    return table


def _archive(rows: Iterable[ArchiveRow]) -> Table:
    table = _table("Archive", "lane", "state", "archived up to", "lag", "holes", "in the way")
    for row in rows:
        position = "?" if row.position is None else f"{row.position:,}"
        lag = "?" if row.lag_s is None else _span(row.lag_s)
        table.add_row(row.lane, row.state, position, lag, f"{row.holes:,}", escape(row.error))
    return table


def _runs(rows: Sequence[RunRow], at_us: int) -> Table:
    table = _table("Running workflows", "type", "running", "oldest", "state", "newest")
    for kind, count in Counter(row.type for row in rows).most_common():
        these = [row for row in rows if row.type == kind]
        outcomes = Counter(row.outcome or "running" for row in these)
        oldest = min(row.started_us for row in these)
        newest = max(these, key=lambda row: row.started_us)
        states = ", ".join(f"{number} {state}" for state, number in outcomes.items())
        table.add_row(kind, f"{count:,}", _age(oldest, at_us), states, newest.workflow_id)
    return table


def _workers(told: Situation) -> Table:
    """Return who is known to work: by what it brings, by what it reads, or by its polls."""
    table = _table("Workers", "who", "what", "last heard")
    if told.feeds is not None:
        for line in told.feeds.lines:
            heard = _age(line.newest_us, told.at_us)
            table.add_row(f"ingestor, line {line.line}", "venue to MD_RAW", heard)
    for stream in told.streams or ():
        for row in stream.consumers:
            if row.name is None:
                who = row.reader or "reader"
                table.add_row(f"{who}, of {row.subjects}", _behind(row), "now")
    for worker in told.workers or ():
        table.add_row(*_worker(worker))
    return table


def _behind(row: ConsumerRow) -> str:
    return f"{row.behind:,} messages behind" if row.behind else "up to date"


def _worker(row: WorkerRow) -> tuple[str, str, str]:
    return f"Temporal worker {row.identity}", ", ".join(row.queues), _span(row.polled_s)


def _table(title: str, *columns: str) -> Table:
    # No lines: all of it has to fit on a screen.
    table = Table(
        title=f"\n{title}", title_justify="left", title_style="bold", box=None, header_style="dim"
    )
    for number, column in enumerate(columns):
        table.add_column(column, no_wrap=number == 0, overflow="fold")
    return table


def _share(share: float | None) -> str:
    return _NOTHING if share is None else f"{share:.1%}"


def _age(time_us: int, at_us: int) -> str:
    return _span(max(0.0, (at_us - time_us) / 1e6))


def _span(seconds: float) -> str:
    """Return a time in the unit that a person would use."""
    for unit_s, name in _UNITS:
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:,.0f} {name}"
    return f"{seconds:.1f} s"
