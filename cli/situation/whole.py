"""The whole situation: every source is asked at once, each within its bound.

A source that cannot be reached becomes one sentence, and the others are still told.
"""

import asyncio
from collections.abc import Awaitable, Iterable
from contextlib import AsyncExitStack
from typing import TypeVar

import msgspec
from temporalio.client import Client
from temporalio.service import RPCError

from cli.checks.temporal import reason_of
from cli.situation.feeds import Feeds, Standing, feeds, now_us
from cli.situation.gateway import GatewayError, GatewayRow, gateways
from cli.situation.streams import StreamRow, streams
from cli.situation.temporal import ArchiveRow, RunRow, WorkerRow, archive, lanes, runs, workers
from models.settings import Settings
from storage.errors import StorageError
from storage.latest import LatestRow
from storage.latest_store import latest_store
from streaming.broker.inspection import Inspector
from streaming.broker.log import LogError
from workflows.connect import connect

WITHIN_S = 10.0
"""How long one source may take."""

_FAILURES = (LogError, StorageError, RPCError, RuntimeError, OSError, GatewayError)

T = TypeVar("T")


class Situation(msgspec.Struct):
    """How everything stands. What could not be learnt is none, and `unreached` says why.

    `at_us`: when it was asked.
    """

    at_us: int
    feeds: Feeds | None = None
    streams: list[StreamRow] | None = None
    workers: list[WorkerRow] | None = None
    runs: list[RunRow] | None = None
    archive: list[ArchiveRow] | None = None
    gateways: list[GatewayRow] | None = None
    unreached: list[str] = []

    @property
    def is_live(self) -> bool:
        """Whether all feeds are known, and live."""
        return self.feeds is not None and self.feeds.all_live


class _Look:
    """One look at everything."""

    def __init__(self, settings: Settings, api_key: str | None, within_s: float) -> None:
        self._settings, self._api_key, self._within_s = settings, api_key, within_s
        self.found = Situation(now_us())

    async def all(self) -> None:
        """Ask every source."""
        self.found.gateways, _ = await asyncio.gather(
            self._of("the gateway", gateways(self._settings, self._api_key, self._within_s)),
            self._servers(),
        )
        self._ask_gateways()

    async def _servers(self) -> None:
        log = Inspector.connect(self._settings, answer_s=self._within_s)
        async with AsyncExitStack() as stack:
            inspector, client, rows = await asyncio.gather(
                self._of("the log", stack.enter_async_context(log)),
                self._of("Temporal", connect(self._settings)),
                self._of("latest state", self._rows()),
            )
            await asyncio.gather(
                self._log(inspector, rows or []), self._temporal(client, inspector)
            )

    async def _log(self, inspector: Inspector | None, rows: list[LatestRow]) -> None:
        if inspector is None:
            return
        settings = self._settings
        self.found.feeds, self.found.streams = await asyncio.gather(
            self._of("feeds", feeds(inspector, settings, rows, self.found.at_us)),
            self._of("streams", streams(inspector, settings, now_us())),
        )
        self.found.at_us = now_us()
        if self.found.feeds is not None:
            told = (row.trouble(self.found.at_us) for row in self.found.feeds.waiting)
            self.found.unreached += [f"feeds: {trouble}" for trouble in told]

    def _ask_gateways(self) -> None:
        """Take the gateway's word for products whose rows are behind; without it nobody knows."""
        if self.found.feeds is None or not self.found.feeds.behind:
            return
        behind = set(self.found.feeds.behind)
        states = {
            name: state for row in self.found.gateways or () for name, state in row.states.items()
        }
        for row in self.found.feeds.rows:
            if (row.venue, row.product) in behind and row.state == "live":
                told = states.get(f"{row.venue}/{row.product}/{row.feed}", "unknown")
                row.state = msgspec.convert(told, Standing)
        self.found.unreached.append(
            f"latest state: {len(behind)} products are behind the log, so the gateway was asked "
            "how they stand; is a snapshot worker running?"
        )

    async def _temporal(self, client: Client | None, inspector: Inspector | None) -> None:
        if client is None:
            return
        self.found.runs, self.found.workers, known = await asyncio.gather(
            self._of("running workflows", runs(client, self._settings)),
            self._of("Temporal's workers", workers(client, self._within_s)),
            self._of("the archive", lanes(client, self._settings)),
        )
        lags = (archive(lane, inspector, self._settings, now_us()) for lane in known or ())
        self.found.archive = await self._of("the archive's lag", _all(lags))

    async def _rows(self) -> list[LatestRow]:
        async with latest_store(self._settings) as store:
            return [row async for row in store.all()]

    async def _of(self, source: str, work: Awaitable[T]) -> T | None:
        """Return what a source tells; note in a sentence why it does not."""
        try:
            async with asyncio.timeout(self._within_s):
                return await work
        except TimeoutError:
            reason = f"no answer within {self._within_s:g} s"
        except _FAILURES as error:
            reason = reason_of(error)
        self.found.unreached.append(f"{source}: {reason}")
        return None


async def _all(work: Iterable[Awaitable[T]]) -> list[T]:
    return list(await asyncio.gather(*work))


async def look(
    settings: Settings, api_key: str | None = None, within_s: float = WITHIN_S
) -> Situation:
    """Ask everything that these settings lead to; never fails, and takes a few seconds at most."""
    looking = _Look(settings, api_key, within_s)
    await looking.all()
    return looking.found
