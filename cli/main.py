"""The `ledgerflux` command: every sub-command is mounted here."""

import typer

from cli import cassette, lake, replay, sim
from cli.archive import archive, audit
from cli.canary import canary
from cli.doctor import doctor
from cli.gateway import gateway
from cli.resync import resync, resyncs
from cli.status import status
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
app.command()(doctor)
app.command()(status)
app.command()(resync)
app.command()(resyncs)
app.command()(archive)
app.command()(audit)
app.command()(canary)
app.command()(sim.record)
app.add_typer(sim.app, name="sim")
app.add_typer(lake.app, name="lake")
app.add_typer(replay.app, name="replay")
app.add_typer(cassette.app, name="cassette")


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
