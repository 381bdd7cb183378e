"""`ledgerflux gateway`: serve subscribers from a log that runs elsewhere."""

import sys
from typing import Annotated

import typer

from workers.gateway import main


def gateway(
    processes: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=256,
            help="Processes that share the port; SIGHUP replaces them one after the other. "
            "Default from GATEWAY_PROCESSES.",
        ),
    ] = None,
) -> None:
    """Run the gateway with the settings of the environment, until Ctrl-C."""
    overrides = {} if processes is None else {"gateway_processes": processes}
    sys.exit(main([], **overrides))
