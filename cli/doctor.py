"""`ledgerflux doctor`: looks at every dependency and setting, and says what is wrong, a line each.

Each check has a bound of its own and all run at once, so that a dead service delays nobody. What
is looked at, and how, is in `cli.checks`.
"""

import asyncio
import json
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import SecretStr

from cli.checks import gateway, here, log, pipeline, temporal, traces, venue
from cli.checks.configuration import SETTINGS, contradictions
from cli.checks.finding import Check, Finding, broken
from models.settings import Settings, usable_settings
from workers.process import configure_logging
from workflows.connect import leave

EXIT_BROKEN = 1
"""Something does not work."""

EXIT_BAD_SETTINGS = 2
"""A setting cannot be used; what else is broken is listed beside it."""

WITHIN_S = 10.0
"""How long one check may take: on a busy host its libraries alone take seconds to load."""

_ANSWER_SHARE = 0.7
"""One answer may take this part of it, so that a check can still say which one did not come."""

_SIGNS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "broken": ("✗", "red")}
_SHORTEST_SECRET = 4


def doctor(
    data_dir: Annotated[
        Path, typer.Option(help="Where `ledgerflux up` keeps its data: its disk is looked at.")
    ] = Path(".ledgerflux"),
    within: Annotated[
        float, typer.Option(min=0.1, help="Seconds that any one check may take.")
    ] = WITHIN_S,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines instead.")] = False,
) -> None:
    """Check every dependency and setting, and say what is wrong in one line each.

    Exit status 0 means that all works, warnings aside; 1, that something is broken; 2, that a
    setting cannot be used.
    """
    configure_logging("ERROR")
    asyncio.run(_doctor(data_dir, within, as_json=as_json))


async def _doctor(data_dir: Path, within_s: float, *, as_json: bool) -> None:
    settings, unusable = usable_settings()
    found = [broken(SETTINGS, sentence) for sentence in unusable]
    if settings is not None:
        told = contradictions(settings)
        found += [one for one in told if one.state != "ok" or not unusable]
        found += await examine(checks(data_dir), settings, within_s)
        found = [one._replace(text=Hidden(settings).out_of(one.text)) for one in found]
    _show(found, as_json=as_json)
    # At once: a thread that still looks up a name would keep the loop for minutes.
    leave(_status(found))


def checks(data_dir: Path) -> list[Check]:
    """Return what is looked at, in the order in which it is told."""
    from cli.checks import stores  # noqa: PLC0415  # AWS's library is heavy for the other commands

    return [
        Check("python", here.python, ""),
        Check("packages", here.packages, ""),
        Check("open files", here.open_files, ""),
        Check("disk", partial(here.disk, data_dir), "see what its mount waits for"),
        Check("clock", here.clock, "see NATS and the venue below"),
        Check("nats", log.servers, "check NATS_URLS"),
        Check("streams", log.streams, "check NATS_URLS"),
        Check(pipeline.PIPELINE, pipeline.pipeline, "check NATS_URLS"),
        Check("latest state", stores.latest_state, "check NATS_URLS or DDB_ENDPOINT"),
        Check("temporal", temporal.temporal, "check TEMPORAL_ADDRESS"),
        Check("s3", stores.object_store, "check S3_ENDPOINT and the network"),
        Check("venue REST", venue.rest, "check the network and COINBASE_REST_URL"),
        Check("venue feed", venue.feeds, "check the network and COINBASE_WS_PRIMARY"),
        Check("traces", traces.collector, "check OTEL_EXPORTER_OTLP_ENDPOINT"),
        Check("gateway", gateway.gateway, "check GATEWAY_HOST and GATEWAY_PORT"),
        Check("metrics port", gateway.metrics_port, "check METRICS_PORT"),
    ]


async def examine(
    wanted: Iterable[Check], settings: Settings, within_s: float = WITHIN_S
) -> list[Finding]:
    """Run all checks at once; return their findings in the order of the checks."""
    told = await asyncio.gather(*(_look(check, settings, within_s) for check in wanted))
    return [finding for findings in told for finding in findings]


async def _look(check: Check, settings: Settings, within_s: float) -> list[Finding]:
    try:
        async with asyncio.timeout(within_s):
            return await check.look(settings, _ANSWER_SHARE * within_s)
    except TimeoutError:
        return [broken(check.name, f"no answer within {within_s:g} s; {check.cure}")]
    except Exception as error:  # noqa: BLE001  # what one check stumbles over must not hide others
        return [broken(check.name, f"could not be looked at: {error!r}")]


class Hidden:
    """Takes secrets out of what is printed, whoever has put them there: servers quote keys."""

    def __init__(self, settings: Settings) -> None:
        told = settings.model_dump()
        found = {str(told.pop("s3_access_key") or ""), *_secrets(told.values())}
        public = {value for value in told.values() if isinstance(value, str)}
        # What a public setting says as well is known to everybody.
        self._values = sorted(
            (text for text in found - public if len(text) >= _SHORTEST_SECRET),
            key=len,
            reverse=True,
        )

    def out_of(self, text: str) -> str:
        """Return the text as one line without secrets."""
        for value in self._values:
            text = text.replace(value, "***")
        return " ".join(text.split())


def _secrets(values: Iterable[Any]) -> Iterable[str]:
    """Return the secrets among values of settings; addresses have none, or are refused."""
    for value in values:
        if isinstance(value, SecretStr):
            yield value.get_secret_value()
        elif isinstance(value, tuple):
            yield from _secrets(value)


def _show(found: Sequence[Finding], *, as_json: bool) -> None:
    width = max(len(one.check) for one in found)
    for one in found:
        if as_json:
            typer.echo(json.dumps(one._asdict(), ensure_ascii=False))
            continue
        sign, colour = _SIGNS[one.state]
        typer.echo(f"{typer.style(sign, colour)} {one.check:{width}}  {one.text}")


def _status(found: Sequence[Finding]) -> int:
    bad = {one.check for one in found if one.state == "broken"}
    if SETTINGS in bad:
        return EXIT_BAD_SETTINGS
    return EXIT_BROKEN if bad else 0
