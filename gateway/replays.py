"""The replays that subscribers of this gateway are attached to: a hub of its own for each.

A replay is opened for its first subscriber, shared by all, and closed some seconds after the last
one has left, or when its streams are deleted. It has its own connection to the log, its own state
and its own task, so that whatever happens to it ends only itself; the live hub knows nothing of it.
"""

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple, Self

import structlog

from gateway.access import RefusedError
from gateway.drain import RESTARTS
from gateway.group import Client
from gateway.hub import Hub, Limits
from gateway.metrics import Metrics
from gateway.protocol import ClientError
from gateway.reader import follow
from gateway.readiness import Readiness
from gateway.sink import Sink
from models.settings import Settings
from models.subjects import META_PRODUCT, Streams, product_of
from streaming.broker.jetstream import JetStreamLog
from streaming.broker.log import Log, LogRemadeError, LogUnavailableError, StreamMissingError

LINGER_S = 10.0
"""A replay without subscribers stays open for so long: whoever reconnects finds it warm."""

READY_WITHIN_S = 10.0
"""The first subscriber of a replay waits so long for its state; then it is told to come again."""

LOG_WITHIN_S = 5.0
"""A connection to the log is tried for so long."""

TURN_BYTES = 32 * 1024
"""So much of a replay is read at a time: it may come as fast as it goes, and live data must not
wait for it."""

GONE = 4410
"""Close code: the replay's streams have been deleted."""

_TRY_LATER = 1013
_INTERNAL_ERROR = 1011
_UNAVAILABLE = 503
_log = structlog.get_logger(__name__)


class End(NamedTuple):
    """Why a replay is not served any more: a close code, and a sentence of at most 123 bytes."""

    close_code: int
    reason: str

    def refusal(self) -> ClientError | RefusedError:
        """Return what to say to those who are not attached yet."""
        if self.close_code == GONE:
            msg = f"{self.reason}: start it, or leave namespace out for what is live."
            return ClientError("unknown_namespace", msg)
        return RefusedError(
            _UNAVAILABLE, "replay_unavailable", self.reason, close_code=self.close_code
        )


class NotBegunError(Exception):
    """The replay's streams are there, but nothing has come yet; where it begins is not known."""


class Replay:
    """One replay as this gateway serves it.

    Attributes: name; hub; readiness, warm once it can be subscribed to, or has ended; end, why it
    has ended, or none; users, how many connections are attached or wait to be.
    """

    def __init__(self, name: str, hub: Hub) -> None:
        self.name = name
        self.hub = hub
        self.readiness = Readiness()
        self.end: End | None = None
        self.users = 0
        self._clients: dict[Client, None] = {}

    async def ready(self) -> None:
        """Wait until it can be subscribed to.

        Raises:
            ClientError: `unknown_namespace`.
            RefusedError: it cannot be served, or not within READY_WITHIN_S.
        """
        end: End | None = End(_TRY_LATER, f"{self.name} is still being read: come again")
        with suppress(TimeoutError):
            async with asyncio.timeout(READY_WITHIN_S):
                await self.readiness.warm.wait()
                end = self.end
        if end is not None:
            raise end.refusal()

    def join(self, sink: Sink) -> Client:
        """Take in a client, which has subscribed to nothing yet."""
        client = self.hub.join(sink)
        self._clients[client] = None
        return client

    def leave(self, client: Client) -> None:
        """Forget a client; may be called again."""
        self._clients.pop(client, None)
        self.hub.leave(client)

    async def follow(self, log: Log) -> None:
        """Feed the hub from the log for ever.

        Raises:
            StreamMissingError: the streams are not there, or not any more.
            LogRemadeError: they have been deleted and made anew.
            NotBegunError: they are there and empty.
        """
        streams = Streams.of_replay(self.name)
        # What a replay begins from is in its streams before its first frame is.
        if not (await log.end(streams.ticks) or await log.end(streams.raw)):
            raise NotBegunError
        for subject in await log.subjects(streams.raw, streams.every("raw")):
            venue, product = product_of(subject)
            if product != META_PRODUCT:
                self.hub.products.find(venue, product)
        hub, readiness = self.hub, self.readiness
        await follow(log, hub, streams, readiness, lasting=False, turn_bytes=TURN_BYTES)

    def close(self, end: End) -> None:
        """Give everybody what is still due, and close their connections with the reason."""
        self.end = end
        self.readiness.warm.set()  # whoever waits goes on, and sees that it has ended
        for client in tuple(self._clients):
            self.hub.catch_up(client)
            client.sink.hang_up(*end)


class Replays:
    """Every replay that has a subscriber, or had one a moment ago; GATEWAY_MAX_REPLAYS at most."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        """Prepare; `metrics`: the live hub's, where subscribers of replays count as well."""
        self._settings = settings
        self._metrics = metrics
        self._max = settings.gateway_max_replays
        self._replays: dict[str, Replay] = {}
        self._idle: dict[Replay, asyncio.TimerHandle] = {}
        self._tasks: dict[Replay, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close all."""
        tasks = list(self._tasks.values())
        for replay in tuple(self._replays.values()):
            self._close(replay)
        await asyncio.gather(*tasks, return_exceptions=True)

    async def enter(self, name: str) -> Replay:
        """Return a replay that can be subscribed to, and hold it until `leave`.

        Raises:
            ClientError: `unknown_namespace`: there is none of this name on the log;
                `too_many_replays`.
            RefusedError: it cannot be served at this moment.
        """
        replay = self._replays.get(name) or self._open(name)
        replay.users += 1
        if replay in self._idle:
            self._idle.pop(replay).cancel()
        try:
            await replay.ready()
        except BaseException:
            self.leave(replay)
            raise
        return replay

    def leave(self, replay: Replay) -> None:
        """Note that a connection has left; after the last one the replay goes, too."""
        replay.users -= 1
        if not replay.users and replay.end is None:
            loop = asyncio.get_running_loop()
            self._idle[replay] = loop.call_later(LINGER_S, self._close, replay)

    def _open(self, name: str) -> Replay:
        """Begin to follow a replay.

        Raises:
            ClientError: `too_many_replays`.
        """
        self._make_room()
        limits = Limits.of(self._settings)
        # Together they remember as much as the live hub does.
        limits = replace(limits, ring_bytes=limits.ring_bytes // self._max)
        hub = Hub((), asyncio.get_running_loop(), limits, metrics=self._metrics.of_replay())
        replay = self._replays[name] = Replay(name, hub)
        self._tasks[replay] = asyncio.create_task(self._run(replay), name=name)
        self._metrics.replays.set(len(self._replays))
        return replay

    def _make_room(self) -> None:
        """See that one more may be opened, in the place of one without subscribers if need be.

        Raises:
            ClientError: `too_many_replays`.
        """
        if len(self._replays) < self._max:
            return
        if not self._idle:
            raise ClientError(
                "too_many_replays",
                f"this gateway serves {self._max} replays at a time, and has subscribers to "
                f"{', '.join(self._replays) or 'none'}: wait until one has none, or have "
                "GATEWAY_MAX_REPLAYS raised.",
            )
        self._close(next(iter(self._idle)))

    def _close(self, replay: Replay) -> None:
        """Follow a replay no longer."""
        self._forget(replay)
        self._tasks[replay].cancel()

    def _forget(self, replay: Replay) -> None:
        """Let the next subscriber open it anew; may be called again."""
        if replay in self._idle:
            self._idle.pop(replay).cancel()
        if self._replays.get(replay.name) is replay:
            del self._replays[replay.name]
            self._metrics.replays.set(len(self._replays))

    async def _run(self, replay: Replay) -> None:
        """Follow a replay until it ends, whyever; nobody else notices."""
        end = End(RESTARTS, "the gateway restarts: come again")
        try:
            async with await JetStreamLog.of(
                self._settings, name=f"gateway {replay.name}", wait_s=LOG_WITHIN_S
            ) as log:
                replay.readiness.connected = lambda: log.connected
                await replay.follow(log)
        except* StreamMissingError:
            end = End(GONE, f"no replay {replay.name} is on the log, or not any more")
        except* LogRemadeError:
            end = End(_TRY_LATER, f"{replay.name} has been made anew: come again")
        except* NotBegunError:
            end = End(_TRY_LATER, f"{replay.name} has not begun: come again")
        except* LogUnavailableError:
            end = End(_TRY_LATER, "the log cannot be reached: come again")
        except* Exception:  # noqa: BLE001  # logged, and told to its subscribers
            _log.exception("a replay is given up; nothing else is affected", replay=replay.name)
            end = End(_INTERNAL_ERROR, f"an error in the gateway ended {replay.name}: come again")
        finally:
            self._forget(replay)
            replay.close(end)
            del self._tasks[replay]
