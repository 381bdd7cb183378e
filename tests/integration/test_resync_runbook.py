"""Every command of the runbook, run as written; and what `ledgerflux resyncs` shows."""

import json
import re
from pathlib import Path

from temporalio.client import Client

from models.settings import load_settings
from tests.commands import run
from tests.servers import free_port
from tests.stack import Stack, running
from workflows.connect import connect

RUNBOOK = Path(__file__).parents[2] / "docs" / "runbooks" / "gap-resync.md"
ID = "resync/coinbase/BTC-USD/book/manual-1"
CHANNELS = ("ticker", "heartbeat", "level2_batch", "matches")


def commands() -> list[str]:
    """Return the runbook's commands."""
    boxes = re.findall(r"```sh\n(.*?)```", RUNBOOK.read_text(encoding="utf-8"), re.DOTALL)
    return [line for box in boxes for line in box.splitlines()]


async def start_one_that_waits(stack: Stack, client: Client) -> None:
    """Have the workflow of `ID` run: its venue does not answer."""
    slow = {"kind": "rest_slow", "endpoint": "book", "delay_ms": 110_000, "count": 1}
    await stack.simulator("POST", "/sim/faults", slow)
    gap = {"venue": "coinbase", "product": "BTC-USD", "feed": "book"}
    await client.start_workflow("GapResyncWorkflow", gap, id=ID, task_queue="resync")


async def test_every_command_of_the_runbook_works_as_written(tmp_path: Path) -> None:
    """In the order of the page: look, trigger, abort, verify; each ends with status 0."""
    patient = {"COINBASE_REST_TIMEOUT_S": "120"}
    async with running(tmp_path, ["BTC-USD"], CHANNELS, recovery=True, env=patient) as stack:
        address = f"127.0.0.1:{stack.temporal_port}"
        client = await connect(load_settings(temporal_address=address))
        await start_one_that_waits(stack, client)
        env = {"TEMPORAL_ADDRESS": address, "GATEWAY_PORT": str(stack.gateway_port), "ID": ID}
        told = {}
        for command in commands():
            status, out, err = await run(command, **env)
            assert status == 0, f"{command}\n{out}\n{err}"
            told[command] = out
        status, _, refused = await run("ledgerflux resync DOGE-USD --feed ticker", **env)
        _, out, _ = await run("ledgerflux resyncs --json", **env)
        _, table, _ = await run("ledgerflux resyncs", **env)
    assert len(commands()) >= 12
    listed = told["ledgerflux resyncs --json --limit 100"].splitlines()
    assert [json.loads(line)["outcome"] for line in listed] == ["running"]
    assert "fetching" in told['temporal workflow query --workflow-id "$ID" --name progress']
    assert "closed: a new chain" in told["ledgerflux resync BTC-USD --feed book"]
    assert status == 1
    assert "HTTP 404" in refused
    rows = {row["workflow_id"]: row for row in map(json.loads, out.splitlines())}
    row = rows[ID]
    assert (row["outcome"], row["product"], row["feed"]) == ("aborted", "BTC-USD", "book")
    assert "the venue is under maintenance" in row["sentence"]
    assert row["seconds"] > 0
    assert "/namespaces/default/workflows/resync%2Fcoinbase%2FBTC-USD%2Fbook" in row["link"]
    assert {"closed", "aborted", "failed"} <= {row["outcome"] for row in rows.values()}
    assert "what happened" in table
    assert "the venue is under maintenance" in table


async def test_command_without_temporal_says_what_to_do() -> None:
    """One sentence and status 1, no traceback."""
    address = f"127.0.0.1:{free_port()}"
    for command in ("ledgerflux resyncs", "ledgerflux resync BTC-USD"):
        status, _, err = await run(command, TEMPORAL_ADDRESS=address)
        assert status == 1
        assert f"Temporal at {address}" in err
        assert "TEMPORAL_ADDRESS" in err
        assert "Traceback" not in err
