"""What the commands that speak to Temporal share: settings, one sentence for trouble, a console."""

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any

import typer
from rich.console import Console
from temporalio.service import RPCError

from models.settings import Settings, SettingsError, load_settings

EXIT_FAILED = 1
_PAGE_COLUMNS = 200


def run(work: Coroutine[Any, Any, int], settings: Settings) -> int:
    """Run and return the status; say in one sentence what is wrong with the server, if it is."""
    try:
        return asyncio.run(work)
    except (RuntimeError, RPCError) as error:
        say(
            f"Temporal at {settings.temporal_address}: {error}; start it (`ledgerflux up`), or set "
            "TEMPORAL_ADDRESS and TEMPORAL_NAMESPACE"
        )
        return EXIT_FAILED


def known_settings() -> Settings:
    """Return the settings of the environment, or end the command with what is wrong with them."""
    try:
        return load_settings()
    except SettingsError as error:
        raise typer.BadParameter(str(error)) from error


def console() -> Console:
    """Return the terminal, or a plain wide page where stdout is none."""
    return Console() if sys.stdout.isatty() else Console(width=_PAGE_COLUMNS)


def say(sentence: str) -> None:
    """Tell a person, beside the output."""
    typer.echo(sentence, err=True)
