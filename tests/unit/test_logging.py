"""What a worker writes to stderr: JSON for machines, a rendering for a person."""

import asyncio
import json
import os
import pty
import sys
from typing import Any

from tests.servers import PATIENCE_S

PROGRAM = """
import logging, structlog
from opentelemetry.sdk.trace import TracerProvider
from workers.process import configure_logging

configure_logging("INFO")
structlog.contextvars.bind_contextvars(worker="tester")
log = structlog.get_logger("any")
log.debug("too little")
log.info("hello", product="BTC-USD", duration_ms=7)
logging.getLogger("library").info("not ours to tell")
logging.getLogger("library").warning("careful with %s", "this")
with TracerProvider().get_tracer("test").start_as_current_span("step"):
    log.warning("inside")
try:
    raise ValueError("on purpose")
except ValueError:
    log.exception("failed")
"""


async def said(stderr: int) -> bytes:
    """Run the program with this as its stderr; return what came on its stdout."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, stderr=stderr, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(PATIENCE_S):
        out, err = await process.communicate()
    assert process.returncode == 0
    assert out == b""
    return err or b""


async def test_lines_are_json_with_what_applies() -> None:
    """Level, time, worker; product and duration where given; the trace of what is inside one."""
    text = (await said(asyncio.subprocess.PIPE)).decode()
    lines: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
    assert [line["event"] for line in lines] == ["hello", "careful with this", "inside", "failed"]
    assert {line["worker"] for line in lines} == {"tester"}
    assert all(line["timestamp"].endswith("Z") for line in lines)
    assert [line["level"] for line in lines] == ["info", "warning", "warning", "error"]
    hello, library, inside, failed = lines
    assert (hello["product"], hello["duration_ms"]) == ("BTC-USD", 7)
    assert library["logger"] == "library"
    assert (len(inside["trace_id"]), len(inside["span_id"])) == (32, 16)
    assert not any("trace_id" in line for line in (hello, library, failed))
    assert "ValueError: on purpose" in failed["exception"]


async def test_a_person_gets_them_rendered() -> None:
    """On a terminal: no JSON, colours, and the traceback as it is read."""
    ours, theirs = pty.openpty()
    try:
        reading = asyncio.create_task(asyncio.to_thread(everything, ours))
        await said(theirs)
    finally:
        os.close(theirs)
    text = (await reading).decode()
    os.close(ours)
    assert "hello" in text
    assert "BTC-USD" in text
    assert "careful with this" in text
    assert "on purpose" in text
    assert "\x1b[" in text
    assert '{"' not in text
    assert "Warning" not in text


def everything(terminal: int) -> bytes:
    """Read until nobody has the other end open."""
    told = b""
    while True:
        try:
            more = os.read(terminal, 65536)
        except OSError:  # that is how a terminal ends on Linux
            return told
        if not more:
            return told
        told += more


COMMAND = """
import sys
from types import SimpleNamespace
import structlog
import typer
from cli.main import COMMANDS, main

def chatter() -> None:
    structlog.get_logger("any").info("too little")
    structlog.get_logger("any").warning("the log does not answer yet")
    typer.echo("{}")

sys.modules["chatty"] = SimpleNamespace(chatter=chatter)
COMMANDS["chatter"] = "chatty:chatter"
main()
"""


async def test_output_of_a_command_is_what_was_asked_for_and_nothing_else() -> None:
    """What is logged on the way goes to stderr: who reads JSON must not meet it."""
    command = [sys.executable, "-c", COMMAND, "chatter"]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    async with asyncio.timeout(PATIENCE_S):
        out, err = await process.communicate()
    assert (process.returncode, out) == (0, b"{}\n")
    assert [json.loads(line)["event"] for line in err.splitlines()] == [
        "the log does not answer yet"
    ]
