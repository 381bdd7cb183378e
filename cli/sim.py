"""`ledgerflux sim`: run the simulated exchange and inject faults; `ledgerflux record`: tape a feed.

Only reads options and prints; the exchange is `venues.simulator`, the taping its `taping`.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

import httpx
import typer
import uvloop
from rich.console import Console
from rich.table import Table

from venues.simulator.cassette import CassetteError
from venues.simulator.catalogue import ProductError
from venues.simulator.config import Limits, SimConfig
from venues.simulator.server import Simulator, serve
from venues.simulator.taping import TapeError, Taping

DEFAULT_URL = "http://127.0.0.1:8900"
_HTTP_TIMEOUT_S = 10.0
_TRUTH_NAME = "sim-truth.ndjson"

app = typer.Typer(
    invoke_without_command=True,
    add_completion=False,
    help="Run a simulated Coinbase Exchange: WebSocket and REST on one port.",
)

Url = Annotated[str, typer.Option(help="Where the simulated exchange listens.")]
Words = Annotated[str, typer.Option(help="Comma-separated.")]


@app.callback()
def run(  # noqa: PLR0913, PLR0917 - one parameter per option
    context: typer.Context,
    port: Annotated[
        int, typer.Option(envvar="SIM_PORT", help="0 picks a free one.", min=0, max=65535)
    ] = 8900,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    products: Words = "BTC-USD,ETH-USD",
    rate: Annotated[
        float, typer.Option(help="Messages of `full` per second over all products.", min=0)
    ] = 50.0,
    trade_share: Annotated[
        float, typer.Option(help="Share of orders that take liquidity.", min=0, max=1)
    ] = 0.2,
    seed: Annotated[int, typer.Option(help="Same seed, same orders.")] = 1,
    levels: Annotated[int, typer.Option(help="Price levels a side at the start.", min=1)] = 500,
    deep: Annotated[str, typer.Option(help="Levels of single products: BTC-USD=50000,…")] = "",
    cassette: Annotated[Path | None, typer.Option(help="Play this recording instead.")] = None,
    speed: Annotated[float, typer.Option(help="Of the recording; 0: unpaced.", min=0)] = 1.0,
    ground_truth: Annotated[
        Path | None, typer.Option(help="Write everything that is said into this NDJSON file.")
    ] = None,
    truth_channels: Annotated[
        str,
        typer.Option(help="Write only these channels into it, comma-separated; all by default."),
    ] = "",
    data_dir: Annotated[
        Path | None, typer.Option(help=f"Write the ground truth to {_TRUTH_NAME} in here.")
    ] = None,
    no_limits: Annotated[bool, typer.Option(help="Switch the venue's rate limits off.")] = False,
    paused: Annotated[bool, typer.Option(help="Wait for POST /sim/resume.")] = False,
) -> None:
    """Run the exchange until it is interrupted."""
    if context.invoked_subcommand is not None:
        return
    if ground_truth is None and data_dir is not None:
        data_dir.mkdir(parents=True, exist_ok=True)
        ground_truth = data_dir / _TRUTH_NAME
    config = SimConfig(
        host=host,
        port=port,
        products=tuple(_words(products)),
        rate=rate,
        trade_share=trade_share,
        seed=seed,
        levels=levels,
        deep=_levels(deep),
        paused=paused,
        limits=Limits.none() if no_limits else Limits(),
        ground_truth=ground_truth,
        truth_channels=frozenset(_words(truth_channels)) or None,
        cassette=cassette,
        speed=speed,
    )
    try:
        uvloop.run(serve(config, _announce))
    except (OSError, ProductError, CassetteError) as error:
        _fail(str(error))


@app.command()
def fault(  # noqa: PLR0913, PLR0917 - one parameter per option
    kind: Annotated[str, typer.Argument(help="drop, duplicate, reorder, disconnect, stall, …")],
    product: Annotated[str | None, typer.Option()] = None,
    channel: Annotated[str | None, typer.Option()] = None,
    type_: Annotated[
        str | None, typer.Option("--type", help="Message type, such as l2update.")
    ] = None,
    conn: Annotated[int | None, typer.Option(help="One connection, by its number.")] = None,
    count: Annotated[int | None, typer.Option(help="How many are hit.")] = None,
    skip: Annotated[int | None, typer.Option(help="How many pass before.")] = None,
    duration_ms: Annotated[int | None, typer.Option(help="The fault ends after this.")] = None,
    variant: Annotated[str | None, typer.Option(help="Of garbage.")] = None,
    replace: Annotated[bool, typer.Option(help="Bad frames replace the good one.")] = False,
    hold: Annotated[bool, typer.Option(help="A stall delivers late, and loses nothing.")] = False,
    code: Annotated[int | None, typer.Option(help="Close code of a disconnect.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="Of REST faults: book, trades, …")] = None,
    delay_ms: Annotated[int | None, typer.Option(help="Of rest_slow.")] = None,
    status: Annotated[int | None, typer.Option(help="Of rest_500.")] = None,
    retry_after_s: Annotated[int | None, typer.Option(help="Of rest_429.")] = None,
    stale_ms: Annotated[int | None, typer.Option(help="Of rest_stale_book.")] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Inject a fault into a running simulated exchange."""
    given = {
        "kind": kind,
        "product": product,
        "channel": channel,
        "type": type_,
        "conn": conn,
        "count": count,
        "skip": skip,
        "duration_ms": duration_ms,
        "variant": variant,
        "replace": replace or None,
        "hold": hold or None,
        "code": code,
        "endpoint": endpoint,
        "delay_ms": delay_ms,
        "status": status,
        "retry_after_s": retry_after_s,
        "stale_ms": stale_ms,
    }
    spec = {name: value for name, value in given.items() if value is not None}
    Console().print_json(json.dumps(_ask("POST", f"{url}/sim/faults", spec)))


@app.command()
def faults(
    clear: Annotated[bool, typer.Option(help="End all of them.")] = False,
    url: Url = DEFAULT_URL,
) -> None:
    """List the injected faults and what they hit, or clear them."""
    if clear:
        Console().print_json(json.dumps(_ask("DELETE", f"{url}/sim/faults")))
        return
    table = Table("id", "fault", "active", "hits", "left")
    for row in _ask("GET", f"{url}/sim/faults")["faults"]:
        spec = " ".join(f"{name}={value}" for name, value in row["fault"].items())
        left = "" if row["left"] is None else str(row["left"])
        table.add_row(str(row["id"]), spec, str(row["active"]), str(row["hits"]), left)
    Console().print(table)


def record(
    file: Annotated[Path, typer.Argument(help="Cassette to write; must not exist.")],
    url: Annotated[
        str, typer.Option(help="Feed to record.")
    ] = "wss://ws-feed.exchange.coinbase.com",
    products: Words = "BTC-USD,ETH-USD",
    channels: Words = "ticker,heartbeat,matches,level2_batch",
    duration: Annotated[
        float | None, typer.Option(help="Seconds; without it until interrupted.", min=0)
    ] = None,
) -> None:
    """Record a feed into a cassette that `ledgerflux sim --cassette` plays."""
    taping = Taping(url, _words(products), _words(channels), duration)
    console = Console(stderr=True)
    try:
        with console.status("connecting") as status:
            uvloop.run(taping.run(file, lambda tape: status.update(_progress(tape))))
    except KeyboardInterrupt:
        pass  # the way to end a recording without a duration
    except (OSError, TapeError) as error:
        _fail(str(error))
    console.print(f"{_progress(taping)} in {file}", soft_wrap=True)


def _progress(taping: Taping) -> str:
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in taping.frames.most_common())
    return f"{taping.frames.total():,} frames ({kinds})"


def _announce(simulator: Simulator) -> None:
    config = simulator.venue.config
    what = f"plays {config.cassette}" if config.cassette else f"seed {config.seed}"
    Console().print(
        f"simulated exchange: {simulator.ws_url} and {simulator.rest_url}, "
        f"{', '.join(product.id for product in simulator.venue.products)}, {what}",
        soft_wrap=True,
    )


def _ask(method: str, url: str, body: Mapping[str, object] | None = None) -> dict[str, Any]:
    try:
        with httpx.Client(timeout=_HTTP_TIMEOUT_S, trust_env=False) as http:
            response = http.request(method, url, json=body)
    except httpx.HTTPError as error:
        _fail(f"no simulated exchange answers at {url} ({error}): start one with `ledgerflux sim`")
    if response.is_error:
        _fail(f"the simulated exchange refuses this: {_reason(response)}")
    answer: dict[str, Any] = response.json()
    return answer


def _reason(response: httpx.Response) -> str:
    """Make one sentence of an error's body."""
    try:
        body = response.json()
        problems = body.get("detail") or body["message"]
        if isinstance(problems, str):
            return problems
        return "; ".join(
            f"{'.'.join(str(part) for part in problem['loc'][1:])}: {problem['msg']}".lstrip(": ")
            for problem in problems
        )
    except (ValueError, KeyError, AttributeError, TypeError):
        return f"{response.status_code} {response.text[:200]}"


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _levels(text: str) -> dict[str, int]:
    levels: dict[str, int] = {}
    for word in _words(text):
        name, _, count = word.partition("=")
        if not count.isdecimal() or not int(count):
            _fail(f"--deep takes PRODUCT=LEVELS, such as BTC-USD=50000, not {word!r}")
        levels[name] = int(count)
    return levels


def _fail(why: str) -> NoReturn:
    sys.stderr.write(f"{why}\n")
    raise typer.Exit(1)
