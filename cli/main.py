"""The `ledgerflux` command: every sub-command is mounted here."""

import typer

from cli import lake, sim
from cli.archive import archive, audit
from cli.gateway import gateway
from cli.resync import resync, resyncs
from cli.up import up
from cli.watch import watch

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Gap-free market-data fan-out: exchange feeds to WebSocket subscribers.",
)
app.command()(up)
app.command()(watch)
app.command()(gateway)
app.command()(resync)
app.command()(resyncs)
app.command()(archive)
app.command()(audit)
app.command()(sim.record)
app.add_typer(sim.app, name="sim")
app.add_typer(lake.app, name="lake")


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
