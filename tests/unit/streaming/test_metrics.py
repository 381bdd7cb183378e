"""What a worker answers on METRICS_PORT: its metrics, and whether its event loop still turns."""

import asyncio
import threading
import urllib.error
import urllib.request

import pytest

from streaming import metrics
from streaming.metrics import Counts, serve_metrics
from tests.servers import PATIENCE_S, eventually, free_port


def answer(port: int, path: str) -> tuple[int, str]:
    """Return status and text of what is served."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE_S) as got:
            return got.status, got.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


async def test_each_path_has_its_own_answer() -> None:
    """Metrics and health, whatever is asked of them; elsewhere nothing."""
    port, counts = free_port(), Counts("md_things_total", "Things", ())
    serve_metrics(port, [counts])
    status, text = await asyncio.to_thread(answer, port, "/metrics?when=now")
    assert (status, "md_things_total 0.0" in text) == (200, True)
    assert await asyncio.to_thread(answer, port, "/healthz") == (200, "the event loop turns\n")
    for path in ("/", "/readyz", "/metrics/more"):
        status, text = await asyncio.to_thread(answer, port, path)
        assert (status, "md_things_total" in text) == (404, False)


async def test_client_that_asks_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has a thread of its own, which must not wait for ever."""
    monkeypatch.setattr(metrics._Handler, "timeout", 0.2)
    port = free_port()
    serve_metrics(port, [])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(PATIENCE_S):
        assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


async def test_loop_that_hangs_is_told_until_it_turns_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another thread's loop is really blocked: 503 with a sentence, then 200 again."""
    monkeypatch.setattr(metrics, "HUNG_S", 4.0)
    port = free_port()
    served, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    async def work() -> None:
        serve_metrics(port, [Counts("md_things_total", "Things", ())])
        served.set()
        await asyncio.sleep(2 * metrics.BEAT_S)
        go_on.wait(30)  # blocks the loop, as a computation that never ends
        await asyncio.to_thread(ended.wait, 30)

    thread = threading.Thread(target=asyncio.run, args=(work(),))
    thread.start()
    try:
        assert await asyncio.to_thread(served.wait, 10)
        assert (await asyncio.to_thread(answer, port, "/healthz"))[0] == 200

        async def is_told(wanted: int) -> bool:
            status, text = await asyncio.to_thread(answer, port, "/healthz")
            return status == wanted and ("end this process" in text) == (wanted == 503)

        await eventually(lambda: is_told(503))
        assert (await asyncio.to_thread(answer, port, "/metrics"))[0] == 503
        go_on.set()
        await eventually(lambda: is_told(200))
    finally:
        go_on.set()
        ended.set()
        await asyncio.to_thread(thread.join, 10)
