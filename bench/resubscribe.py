"""Time from a dropped venue connection to the new subscribe, on the real ingestor."""

import json
import statistics
import time

from bench.harness import pipeline

STABLE_S = 6
"""A connection that lives for less counts as a failing venue, and is backed off from."""

DROPS = 12


def resubscribe() -> dict[str, float]:
    """Cut a healthy connection again and again; the source times the way back."""
    with pipeline(["drop", str(STABLE_S), str(DROPS)], ("ingestor",), 1) as run:
        output = run.processes["source"].log_file
        deadline = time.monotonic() + DROPS * (STABLE_S + 4) + 20
        while not (text := output.read_text().strip()):
            assert time.monotonic() < deadline, "the ingestor did not come back in time"
            time.sleep(0.2)
    times = json.loads(text)
    assert len(times) == DROPS
    return {"resubscribe_p50_s": statistics.median(times), "resubscribe_max_s": max(times)}
