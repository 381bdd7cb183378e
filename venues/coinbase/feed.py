"""The Coinbase WebSocket feed: keeps one line of market data open, for ever.

Owns connecting, the subscribe, the watchdog and reconnecting; hands frames on verbatim and never
reads prices. The socket itself is in socket.py, when and where to reconnect in backoff.py, what is
said to the venue in dialect.py; frames are read in mapper.py.
"""

import asyncio
import random
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import count
from typing import Final
from urllib.parse import urlsplit

import structlog
from picows import WSInvalidStatusError

from models.decoding import UNREADABLE
from models.feed import FrameSink
from venues.coinbase.auth import Credentials
from venues.coinbase.backoff import Attempt, BackoffSettings, Outcome, ReconnectPlan
from venues.coinbase.dialect import Accepted, Complaint, Dialect, ExchangeDialect
from venues.coinbase.socket import FeedSocket, MessageFault

MAX_ERROR_BYTES: Final = 4096
"""A venue's error is a sentence; longer frames are not searched for one once data flows."""

_WATCHDOG_TICKS = 4

_log = structlog.get_logger(__name__)


class FeedConfigError(Exception):
    """The feed cannot work with what it was given; the text names the setting."""


@dataclass(frozen=True, slots=True)
class FeedConfig:
    """What one line of the feed connects to, and how patient it is.

    Raises:
        FeedConfigError: an address is no ws:// or wss:// URL, or a list is empty.
    """

    primary: str
    products: tuple[str, ...]
    channels: tuple[str, ...]
    fallback: str | None = None
    """Tried as soon as the primary fails."""
    credentials: Credentials | None = None
    """Signs the subscribe; the authenticated channels need it."""
    dialect: Dialect = field(default_factory=ExchangeDialect)
    """What is said to the venue, and how its answers are read."""
    setting: str = "COINBASE_WS_PRIMARY"
    """The setting that `primary` comes from, for whoever has to correct it."""
    line: str = "a"
    """Name of the line, the first part of each connection's id."""
    max_frame_bytes: int = 64 * 1024 * 1024
    """Largest message accepted, after decompression."""
    silence_s: float = 5.0
    """A connection that brings nothing for so long is dead."""
    connect_timeout_s: float = 5.0
    """How long connecting may take: name lookup, TCP, TLS and upgrade."""
    ack_timeout_s: float = 5.0
    """How long the venue may take to answer the subscribe."""
    close_timeout_s: float = 0.25
    """How long a closing handshake is waited for."""
    stable_s: float = 5.0
    """A connection that has brought data for so long is good, and clears the backoff."""
    backoff: BackoffSettings = field(default_factory=BackoffSettings)

    def __post_init__(self) -> None:
        """Refuse at the start what would otherwise fail again and again."""
        for name, url in ((self.setting, self.primary), ("COINBASE_WS_FALLBACK", self.fallback)):
            parts = urlsplit(url) if url is not None else None
            if parts and (parts.scheme not in ("ws", "wss") or not parts.hostname):
                raise FeedConfigError(f"{name}={url!r} is no ws:// or wss:// address")
        if not self.products or not self.channels:
            raise FeedConfigError("COINBASE_PRODUCTS and COINBASE_CHANNELS must not be empty")
        if not self.line.replace("-", "").isalnum() or not self.line.isascii():
            raise FeedConfigError(f"INGEST_LINE={self.line!r} may hold letters, digits and '-'")

    @property
    def urls(self) -> tuple[str, ...]:
        """The addresses in the order of preference."""
        return (self.primary,) if self.fallback is None else (self.primary, self.fallback)


class CoinbaseFeed:
    """Keeps one subscribed connection open and gives its frames to a sink.

    Frames of one connection arrive in order, each once. What was received before a drop is
    delivered before `closed`. Every acknowledgement and error of the venue is a frame, too.
    """

    def __init__(self, config: FeedConfig, sink: FrameSink) -> None:
        self._config = config
        self._sink = sink
        self._plan = ReconnectPlan(config.urls, config.backoff, random.random)
        self._started = _base36(time.time_ns() // 1000)
        self._numbers = count(1)

    async def run(self) -> None:
        """Stay connected until cancelled; no failure of the venue or the network ends it.

        Cancelling closes the socket within `close_timeout_s` and raises `CancelledError`. An
        exception of the sink is not the feed's to hide: it closes the socket and is raised.
        """
        loop = asyncio.get_running_loop()
        while True:
            attempt = self._plan.next(loop.time())
            await asyncio.sleep(attempt.at_s - loop.time())
            conn = f"{self._config.line}-{self._started}-{next(self._numbers)}"
            await self._live(attempt, _Connection(conn, self._config, self._sink))

    async def _live(self, attempt: Attempt, line: "_Connection") -> None:
        """Connect, stay to the end, close, and note in the plan how it went."""
        retry_after_s = 0.0
        reason = "stopped"
        try:
            reason = await line.run(attempt.url)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            if line.opened:
                reason = _sentence(error)
                raise  # the sink's
            # Whatever an address answers, the feed lives on.
            reason = f"cannot connect: {_sentence(error)}"
            retry_after_s = _retry_after_s(error)
        finally:
            await line.close(reason)
        self._plan.ended(asyncio.get_running_loop().time(), line.outcome, retry_after_s)
        _log.warning("feed down", url=attempt.url, conn=line.conn, reason=reason)


class _Connection:
    """One connection from its handshake to its end: what is received, and the watchdog."""

    def __init__(self, conn: str, config: FeedConfig, sink: FrameSink) -> None:
        self.conn = conn
        self.opened = False
        self._config = config
        self._sink = sink
        self._frame = sink.frame
        self._socket = FeedSocket(config.max_frame_bytes, self._open, self._text, self._fault)
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._awake = False
        self._since_s = self._alive_s = self._loop.time()
        self._frames = self._frames_seen = self._idle_ticks = 0
        self._waits_for_room = False
        self._acked = False
        self._refusal: str | None = None
        self._rejected = False
        self._timer: asyncio.TimerHandle | None = None
        self._death = ""

    @property
    def outcome(self) -> Outcome:
        """How good this connection was, for the reconnect plan."""
        if self._rejected:
            return Outcome.REJECTED
        good = self._acked and self._alive_s - self._since_s >= self._config.stable_s
        return Outcome.GOOD if good else Outcome.FAILED

    async def run(self, url: str) -> str:
        """Connect and stay until the connection ends; return why it did.

        Raises:
            OSError, picows.WSError: it could not connect; `opened` is false.
            Exception: what the sink raised.
        """
        await self._socket.connect(url, self._config.connect_timeout_s)
        ended = asyncio.ensure_future(self._socket.ended.wait())
        ended.add_done_callback(lambda _: self._arrived.set())
        try:
            await self._breathe()
        finally:
            ended.cancel()
        if self._socket.failure is not None:
            raise self._socket.failure
        if self._frames != self._frames_seen:
            self._alive_s = self._loop.time()
        return self._death or self._socket.end_reason

    async def close(self, reason: str) -> None:
        """Close the socket within the close timeout and tell the sink, if it knew of us."""
        if self._timer is not None:
            self._timer.cancel()
        if self.opened:
            self._sink.closed(time.time_ns() // 1000, self.conn, reason)
        await self._socket.close(self._config.close_timeout_s)

    async def _breathe(self) -> None:
        """After each bunch of frames, read no more until the sink has room; until the end."""
        while not (self._death or self._socket.failure or self._socket.ended.is_set()):
            await self._arrived.wait()
            self._arrived.clear()
            if not self._awake:
                continue
            self._awake = False
            self._waits_for_room = True
            self._socket.pause()
            await self._sink.room()
            self._socket.resume()
            self._waits_for_room = False

    # What the socket calls

    def _open(self) -> None:
        """Subscribe before anything else, so that the venue's 5 s never run out."""
        self._since_s = self._alive_s = self._loop.time()
        config = self._config
        for text in config.dialect.subscribe(config.products, config.channels, config.credentials):
            self._socket.send(text)
        self._sink.opened(self.conn)
        self.opened = True
        self._timer = self._loop.call_later(self._tick_s, self._tick)
        _log.info("feed open", conn=self.conn)

    def _text(self, data: bytes) -> None:
        """Hand a frame on: runs once per frame, hence its plainness."""
        self._frames += 1
        if not data.isascii() and not _is_utf8(data):
            self._fault(MessageFault.NOT_UTF8, f"a text frame of {len(data)} bytes is not UTF-8")
            return
        self._frame(time.time_ns() // 1000, self.conn, data)
        if not self._awake:
            self._awake = True
            self._arrived.set()
        if not self._acked or (len(data) <= MAX_ERROR_BYTES and b'"error"' in data):
            self._notice(data)

    def _fault(self, fault: MessageFault, detail: str) -> None:
        """Count what could not become a frame."""
        self._frames += 1
        if fault is MessageFault.TOO_BIG:
            detail = f"{detail}; raise COINBASE_MAX_FRAME_BYTES to accept it"
        if fault.is_final:
            self._end(detail)
        self._sink.rejected(time.time_ns() // 1000, self.conn, fault.value, detail)

    def _notice(self, data: bytes) -> None:
        """Look for the venue's answer to the subscribe, and for its errors."""
        try:
            answer = self._config.dialect.answer(data)
        except UNREADABLE:
            return  # malformed frames are counted by those who read them
        if isinstance(answer, Complaint):
            _log.error("venue reports an error", conn=self.conn, error=answer.sentence)
            self._refusal = answer.sentence
        elif isinstance(answer, Accepted):
            self._acked = True
        elif answer is not None:
            self._rejected = True
            self._end(f"subscription refused: {self._refusal or 'no channel was accepted'}")

    @property
    def _tick_s(self) -> float:
        return min(self._config.silence_s, self._config.ack_timeout_s) / _WATCHDOG_TICKS

    def _tick(self) -> None:
        """Compare counts, a few times per `silence_s`; nothing is done per frame.

        Idle ticks are counted rather than the clock read, so that a process that was stopped for a
        while first reads what has arrived meanwhile.
        """
        if self._frames != self._frames_seen or self._waits_for_room:
            self._frames_seen = self._frames
            self._idle_ticks = 0
            self._alive_s = self._loop.time()
        else:
            self._idle_ticks += 1
        config = self._config
        if self._idle_ticks * self._tick_s >= config.silence_s - self._tick_s / 2:
            self._end(f"silent for {config.silence_s:g} s")
        elif not self._acked and self._unanswered_too_long():
            self._rejected = self._refusal is not None
            self._end(self._refusal or f"subscribe unanswered for {config.ack_timeout_s:g} s")
        else:
            self._timer = self._loop.call_later(self._tick_s, self._tick)

    def _unanswered_too_long(self) -> bool:
        waited_s = self._loop.time() - self._since_s
        return waited_s >= self._config.ack_timeout_s and not self._waits_for_room

    def _end(self, reason: str) -> None:
        """End this connection now; `run` returns the reason."""
        self._death = self._death or reason
        self._arrived.set()


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _retry_after_s(error: Exception) -> float:
    """Return how long the venue asks to be left alone, where it says so or refuses for pace."""
    response = error.response if isinstance(error, WSInvalidStatusError) else None
    if response is None:
        return 0.0
    text = response.headers.get("Retry-After", "")
    if text.isdecimal():
        return float(text)
    return 1.0 if response.status == HTTPStatus.TOO_MANY_REQUESTS else 0.0


def _sentence(error: Exception) -> str:
    """Say what went wrong, also for errors whose text is empty."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _base36(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits or "0"
