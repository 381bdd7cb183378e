"""Commands of the project run as a person would: a line in a shell, or `watch` alone."""

import asyncio
import os
import sys
import sysconfig

from tests.servers import PATIENCE_S

MAIN = (
    "import typer; from cli.watch import watch; "
    "app = typer.Typer(add_completion=False); app.command()(watch); app()"
)


async def run(command: str, **env: str) -> tuple[int, str, str]:
    """Run one line in a shell; return exit status, output and errors."""
    path = f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"
    process = await asyncio.create_subprocess_shell(
        command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **env, "PATH": path},
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def run_watch(*arguments: str) -> tuple[int, bytes, str]:
    """Run the command to its end; return its exit status, stdout and stderr."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", MAIN, *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(PATIENCE_S):
        out, said = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out, said.decode()
