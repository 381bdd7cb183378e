"""`ledgerflux status`: one screen of truth, of everything that the settings lead to. Reads only.

What is shown, and where it comes from, is in `cli.situation`; what to do about trouble is in
docs/runbooks.
"""

import asyncio
import signal
from typing import Annotated

import msgspec
import typer
from rich.live import Live

from cli.temporal import console, known_settings
from models.settings import Settings
from workers.process import configure_logging
from workflows.connect import leave

EXIT_NOT_LIVE = 1
"""A feed is not live, or the feeds could not be learnt."""


def status(
    watch: Annotated[bool, typer.Option("--watch", help="Look again and again.")] = False,
    every: Annotated[float, typer.Option(min=0.5, help="With --watch: seconds between.")] = 2.0,
    within: Annotated[
        float, typer.Option(min=0.1, help="Seconds that any one source may take.")
    ] = 10.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON line for each look instead.")
    ] = False,
    api_key: Annotated[
        str | None, typer.Option(envvar="LEDGERFLUX_API_KEY", help="Key, where the gateway asks.")
    ] = None,
) -> None:
    """Show feeds, streams, workers, running workflows, the archive and the gateway.

    What cannot be reached is a sentence, and the rest is shown. Exit status 1 means that a feed is
    not live, or that the feeds could not be learnt.
    """
    settings = known_settings()
    configure_logging("ERROR")
    asyncio.run(_status(settings, api_key, within, every if watch else None, as_json=as_json))


async def _status(
    settings: Settings,
    api_key: str | None,
    within_s: float,
    every_s: float | None,
    *,
    as_json: bool,
) -> None:
    # Heavy, and no other command needs them.
    from cli.situation.view import screen  # noqa: PLC0415
    from cli.situation.whole import look  # noqa: PLC0415

    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    page = console()
    live = Live(console=page, auto_refresh=False) if every_s and not as_json else None
    if every_s is not None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
    if live is not None:
        live.start()
    while True:
        told = await look(settings, api_key, within_s)
        if as_json:
            typer.echo(msgspec.json.encode(told).decode())
        elif live is not None:
            live.update(screen(told, links=page.is_terminal), refresh=True)
        else:
            page.print(screen(told, links=page.is_terminal))
        if every_s is None or await _told_to_stop(stop, every_s):
            break
    if live is not None:
        live.stop()
    # At once: a thread that still looks up a name would keep the loop for minutes.
    leave(0 if told.is_live else EXIT_NOT_LIVE)


async def _told_to_stop(stop: asyncio.Event, within_s: float) -> bool:
    try:
        async with asyncio.timeout(within_s):
            await stop.wait()
    except TimeoutError:
        return False
    return True
