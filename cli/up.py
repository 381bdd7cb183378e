"""`ledgerflux up`: the whole system on one machine, with one command."""

import asyncio
import contextlib
import itertools
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Literal

import httpx
import typer
from rich.console import Console
from rich.table import Table

from cli.stack import (
    Ports,
    StackError,
    StackOptions,
    gateway,
    ingestors,
    normalizers,
    reach_venue,
    servers,
    taken,
    workers,
)
from cli.supervisor import ServiceError, Supervisor
from cli.watch import watch_gateway
from client.errors import SubscriberError
from models.settings import SettingsError, load_settings
from streaming.broker.server import MissingBinaryError

DEFAULT_CHANNELS = ("ticker", "heartbeat", "level2_batch", "matches")
"""All three canonical feeds, and the heartbeat that watches over them."""

_console = Console(stderr=True)


def up(  # noqa: PLR0913, PLR0917 - one parameter per option
    venue: Annotated[
        Literal["sim", "coinbase"], typer.Option(help="Where data comes from.")
    ] = "sim",
    products: Annotated[
        str, typer.Option(help="Products, comma-separated.")
    ] = "BTC-USD,ETH-USD,SOL-USD",
    data_dir: Annotated[Path, typer.Option(help="Where everything is kept.")] = Path(".ledgerflux"),
    duration: Annotated[float, typer.Option(help="Stop after so many seconds; 0 = never.")] = 0,
    watch: Annotated[bool, typer.Option(help="Show a live table of all products.")] = False,
    rate: Annotated[float, typer.Option(help="Simulator: messages per second.")] = 200.0,
    seed: Annotated[int, typer.Option(help="Simulator: seed of its market.")] = 1,
    ground_truth: Annotated[
        Path | None, typer.Option(help="Simulator: file that gets all it emits.")
    ] = None,
    shards: Annotated[int, typer.Option(min=1, max=64, help="Normalizers to run.")] = 1,
    lines: Annotated[
        int, typer.Option(min=1, max=2, help="Ingestors that feed the same products.")
    ] = 1,
    gateway_processes: Annotated[
        int, typer.Option(min=1, max=64, help="Gateway processes that share the port.")
    ] = 1,
    gap_every: Annotated[
        float, typer.Option(help="Simulator: lose a few trades every so many seconds; 0 = never.")
    ] = 0,
    gateway_port: Annotated[int, typer.Option(envvar="GATEWAY_PORT")] = Ports().gateway,
    temporal_ui_port: Annotated[int, typer.Option()] = Ports().temporal_ui,
    temporal_port: Annotated[int, typer.Option()] = Ports().temporal,
    nats_port: Annotated[int, typer.Option()] = Ports().nats,
    s3_port: Annotated[int, typer.Option()] = Ports().s3,
    sim_port: Annotated[int, typer.Option(envvar="SIM_PORT")] = Ports().sim,
    metrics_port: Annotated[int, typer.Option(help="First metrics port.")] = Ports().metrics,
) -> None:
    """Run the whole system here: servers, workers and gateway, until Ctrl-C."""
    ports = Ports(
        gateway_port, temporal_ui_port, temporal_port, nats_port, s3_port, sim_port, metrics_port
    )
    try:
        settings = load_settings(coinbase_products=products)
        options = StackOptions(
            venue,
            settings.coinbase_products,
            DEFAULT_CHANNELS,
            data_dir,
            ports,
            shards,
            rate,
            seed,
            ground_truth,
            lines=lines,
            gateway_processes=gateway_processes,
        )
        taken(options)
        if venue == "coinbase":
            asyncio.run(reach_venue(settings))
        asyncio.run(_run(options, duration, gap_every, watch=watch))
    except (StackError, ServiceError, SettingsError, MissingBinaryError, SubscriberError) as error:
        _console.print(f"[red]ledgerflux up:[/red] {error}", highlight=False, soft_wrap=True)
        sys.exit(1)


async def _run(
    options: StackOptions, duration_s: float, gap_every_s: float, *, watch: bool
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    supervisor = Supervisor(options.data_dir / "logs")
    losing: asyncio.Task[None] | None = None
    try:
        await _first(_start(supervisor, options), stop)
        if stop.is_set():
            return
        _console.print(_table(supervisor))
        if duration_s:
            loop.call_later(duration_s, stop.set)
        if gap_every_s and options.venue == "sim":
            losing = asyncio.create_task(_lose_trades(options, gap_every_s))
        if watch:
            await _first(_watch(options), stop)
        else:
            _console.print("Ctrl-C stops everything, in order.")
            await stop.wait()
    finally:
        if losing is not None:
            losing.cancel()
        with _console.status("draining and stopping everything, in order"):
            await supervisor.stop()


async def _first(work: Coroutine[object, object, None], stop: asyncio.Event) -> None:
    """Run work until it is done or the order to stop comes, which cancels it."""
    task, stopping = asyncio.create_task(work), asyncio.create_task(_wait(stop))
    await asyncio.wait([task, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if task.done():
        task.result()
        return
    task.cancel()
    await asyncio.wait([task])


async def _wait(stop: asyncio.Event) -> None:
    await stop.wait()


async def _start(supervisor: Supervisor, options: StackOptions) -> None:
    """Start everything so that each part finds what it needs, the venue's data last."""
    with _console.status("starting servers"):
        await supervisor.start(servers(options))
    with _console.status("starting workers"):
        await supervisor.start(normalizers(options))
        await supervisor.start(workers(options))
        await supervisor.start([gateway(options)])
        await supervisor.start(ingestors(options))


async def _lose_trades(options: StackOptions, every_s: float) -> None:
    """Have the simulator lose a few trades of one product after the other."""
    url = f"http://127.0.0.1:{options.ports.sim}/sim/faults"
    async with httpx.AsyncClient() as http:
        for product in itertools.cycle(options.products):
            await asyncio.sleep(every_s)
            fault = {"kind": "drop", "product": product, "channel": "matches", "count": 3}
            with contextlib.suppress(httpx.HTTPError):  # it is being restarted
                await http.post(url, json=fault)


async def _watch(options: StackOptions) -> None:
    await watch_gateway(f"ws://127.0.0.1:{options.ports.gateway}/ws", options.products)


def _table(supervisor: Supervisor) -> Table:
    table = Table(title="LedgerFlux is up", title_justify="left")
    table.add_column("part", no_wrap=True)
    table.add_column("address", no_wrap=True)
    table.add_column("what")
    table.add_column("pid", justify="right")
    for child in supervisor.children:
        service = child.service
        table.add_row(service.name, service.address, service.note, str(child.pid))
    table.caption = f"logs: {supervisor.logs}/<part>.log"
    table.caption_justify = "left"
    return table
