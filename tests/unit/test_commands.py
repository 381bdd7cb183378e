"""The command line as a whole."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from cli.main import COMMANDS, app


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there_and_explains_itself(name: str) -> None:
    """Each is imported by its name alone."""
    result = CliRunner().invoke(app, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert f"{name} [OPTIONS]" in result.output


def test_help_lists_all_commands_in_their_order() -> None:
    """With a sentence of each."""
    lines = CliRunner().invoke(app, ["--help"]).output.splitlines()
    listed = [words[1] for line in lines if len(words := line.split()) > 2 and words[1] in COMMANDS]
    assert listed == list(COMMANDS)


def test_command_that_is_misspelled_gets_the_right_ones() -> None:
    """The exit status is that of a wrong question."""
    result = CliRunner().invoke(app, ["statsu"])
    assert result.exit_code == 2
    assert "Did you mean 'status'?" in result.output


def test_command_imports_nothing_that_others_need() -> None:
    """Who looks at the lake does not wait for the web server's import, nor for Temporal's."""
    code = (
        "import sys, contextlib; from cli.main import app\n"
        "with contextlib.suppress(SystemExit): app(['lake', 'ls', '--help'])\n"
        "print(*sys.modules)"
    )
    command = [sys.executable, "-c", code]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603
    imported = set(told.split())
    assert "cli.lake" in imported
    assert not imported & {"fastapi", "temporalio", "nats", "duckdb", "pyarrow"}
