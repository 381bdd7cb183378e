"""The `ledgerflux` command: every sub-command is named here.

What is logged on the way goes to stderr, so that stdout has what was asked for and nothing else.
"""

from collections import UserDict
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command, get_group

from workers.process import configure_logging

COMMANDS = {
    "up": "cli.up:up",
    "watch": "cli.watch:watch",
    "gateway": "cli.gateway:gateway",
    "doctor": "cli.doctor:doctor",
    "status": "cli.status:status",
    "resync": "cli.resync:resync",
    "resyncs": "cli.resync:resyncs",
    "archive": "cli.archive:archive",
    "audit": "cli.archive:audit",
    "canary": "cli.canary:canary",
    "record": "cli.sim:record",
    "sim": "cli.sim:app",
    "lake": "cli.lake:app",
    "replay": "cli.replay:app",
    "cassette": "cli.cassette:app",
}
"""Where each is: a function, or a group of further commands."""


class _Found(UserDict[str, Any]):
    """Imports what a command needs when it is asked for: all together they take over a second."""

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401  # typer's own class has no public name
        module, _, attribute = self.data[name].partition(":")
        found = getattr(import_module(module), attribute)
        if isinstance(found, typer.Typer):
            group = get_group(found)
            group.name = name
            return group
        alone = typer.Typer(add_completion=False)
        alone.command(name)(found)
        return get_command(alone)


class _Group(TyperGroup):
    def __init__(self, **attributes: Any) -> None:  # noqa: ANN401  # as typer gives them
        super().__init__(**attributes)
        self.commands = _Found(COMMANDS)


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Gap-free market-data fan-out: exchange feeds to WebSocket subscribers.",
)
app.callback()(lambda: None)


def main() -> None:
    """Run the command line; a command that is a worker logs as its settings say."""
    configure_logging("WARNING")
    app()


if __name__ == "__main__":
    main()
