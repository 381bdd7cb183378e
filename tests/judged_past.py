"""A past for canaries, made in one process without a log: raw messages, ticks and states.

The simulator's engine speaks, prints get lost and are recovered by markers, the real normalizer
says the ticks, and messages are cut as natural batching would cut them. Deterministic; bench and
tests share it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

import msgspec

from models.checkpoint import Checkpoint, encode_checkpoint
from models.records import ResyncMarker, frame_line, marker_line
from models.resync import ResyncRequest
from storage.lake import Lake
from storage.layout import Hour, Lane, cut
from storage.rows import Message
from storage.state import keep_state, stands_alone
from streaming.core.normalizer import ProductNormalizer
from streaming.core.outputs import Outputs
from tests.market import rest_answer
from venues.coinbase.mapper import VENUE, decode
from venues.simulator.catalogue import product as listed
from venues.simulator.exchange import Exchange
from venues.simulator.market import Market

BEGIN = Hour(496_010)
"""The hour in which it begins."""

EPOCH = BEGIN.start_us - 7_000_000
RAW = Lane("raw", VENUE, 0, EPOCH)
TICKS = Lane("ticks", VENUE, 0, EPOCH + 3)
PRODUCTS = ("BTC-USD", "ETH-USD", "SOL-USD")
CHANNELS = ("level2", "matches", "ticker", "heartbeat")

_HOUR_US = 3_600_000_000
_SECOND_US = 1_000_000
_CONN = "a-1"


@dataclass(slots=True)
class _Product:
    """What is known of a product while the past is told."""

    core: ProductNormalizer
    lines: list[bytes] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    n: int = 0
    applied: int = 0
    ticks_seq: int = 0
    checkpoint: Checkpoint | None = None


class Story:
    """The past. Attributes: raw, ticks, messages in order; states, by hour; frames, how many.

    `recovered`, `reread`: how many gaps were, and for how many the log had to be read again.
    """

    def __init__(
        self,
        *,
        frames: int,
        hours: float = 1.0,
        products: Sequence[str] = PRODUCTS,
        bunch: int = 60,
        losses: float = 0.05,
        seed: int = 7,
    ) -> None:
        """Tell it. `bunch`: frames between two cuts; `losses`: how likely one is in a bunch."""
        self.raw: list[Message] = []
        self.ticks: list[Message] = []
        self.states: list[tuple[Hour, bytes, dict[str, str]]] = []
        self.frames = self.recovered = self.reread = 0
        self.now_us = BEGIN.start_us
        self._step_us = round(hours * _HOUR_US / frames)
        self._random = Random(seed)
        self._products = {name: _Product(ProductNormalizer(VENUE, name)) for name in products}
        self._lose: tuple[str, int] | None = None
        self._requests: list[ResyncRequest] = []
        self._hour, self._beat_us = BEGIN, self.now_us
        markets = [Market(listed(name), seed=seed, levels=40) for name in products]
        self._exchange = Exchange(markets, self)
        self._exchange.live_through(self.now_us - _HOUR_US, self.now_us, 100)
        for name in products:
            for channel in CHANNELS:
                for frame in self._exchange.greeting(channel, name, self.now_us):
                    self.emit(channel, name, frame)
        while self.frames < frames:
            self._tell(min(self.frames + bunch, frames), losses)

    def wants(self, channel: str, product: str) -> bool:
        """Tell whether a channel is listened to."""
        del product
        return channel in CHANNELS

    def emit(self, channel: str, product: str, frame: str) -> None:
        """Take a frame as received now, unless it is one to be lost."""
        self.frames += 1
        self.now_us += self._step_us
        if channel == "matches" and self._lose is not None and self._lose[0] == product:
            left = self._lose[1] - 1
            self._lose = (product, left) if left else None
            return
        one = self._products[product]
        one.n += 1
        one.lines.append(frame_line(self.now_us, _CONN, one.n, frame.encode()))

    async def archive(self, lake: Lake, *, messages: int = 400) -> None:
        """Put it into a lake, so many messages to an object, and the states of each hour."""
        for lane, log in ((RAW, self.raw), (TICKS, self.ticks)):
            first = 1
            for start in range(0, len(log), messages):
                some = log[start : start + messages]
                for piece in cut(first, some[-1].position, some):
                    await lake.put(lane, piece)
                first = some[-1].position + 1
        for hour, payload, headers in self.states:
            await keep_state(lake.store, RAW, hour, payload, headers)

    def _tell(self, enough: int, losses: float) -> None:
        """Trade for a while, then cut messages."""
        if self._random.random() < losses:
            self._lose = (self._random.choice(list(self._products)), self._random.randint(1, 3))
        while self.frames < enough:
            for name in self._products:
                self._exchange.step(name, self.now_us)
            if self.now_us >= self._beat_us:
                self._beat_us = self.now_us + _SECOND_US
                for name in self._products:
                    self._exchange.beat(name, self.now_us)
        requests, self._requests = self._requests, []
        for name, one in self._products.items():
            if one.lines:
                self._apply(name, b"\n".join(one.lines))
                one.lines = []
        for request in requests:
            self.now_us += 1000
            marker = ResyncMarker(
                request.resync_id, request.feed, rest_answer(self._exchange, request, self.now_us)
            )
            self._apply(request.product, marker_line(self.now_us, marker))
            self.recovered += 1
        self._keep_states()

    def _apply(self, name: str, payload: bytes) -> None:
        """Put a message into the raw log, and now and then what came of some into the ticks."""
        one, position = self._products[name], len(self.raw) + 1
        self.raw.append(Message(position, name, payload))
        out = Outputs()
        for event in decode(payload, name):
            one.core.apply(event, position, out)
            if out.reread is not None:
                self.reread += 1
                for message in self.raw[out.reread - 1 : position - 1]:
                    if message.product == name:
                        one.core.refill(decode(message.payload, name), out)
                one.core.refilled(out)
        one.applied = position
        one.said += out.lines
        self._requests += out.requests
        if one.said and self._random.random() < 0.7:  # else the next ones are with it
            one.ticks_seq = len(self.ticks) + 1
            text = "\n".join(one.said).encode()
            self.ticks.append(Message(one.ticks_seq, name, text))
            one.said = []
        if not one.said and not one.core.holding and self._random.random() < 0.3:
            one.checkpoint = self._checkpoint(name, one)

    def _keep_states(self) -> None:
        """Keep the newest states when the first messages of an hour are archived."""
        hour = Hour.of(self.now_us)
        if hour == self._hour:
            return
        self._hour = hour
        for one in self._products.values():
            if one.checkpoint is not None and stands_alone(one.checkpoint):
                self.states.append((hour, *encode_checkpoint(one.checkpoint)))

    @staticmethod
    def _checkpoint(name: str, one: _Product) -> Checkpoint:
        lines, cursors = one.core.checkpoint()
        raws = [msgspec.Raw(line.encode()) for line in lines]
        # Copied at once: the cursors hold what the core goes on to change.
        return Checkpoint(VENUE, name, one.applied, one.ticks_seq, raws, msgspec.Raw(cursors))


class Broken(ProductNormalizer):
    """A normalizer that changes what it says. Attributes: change, of the lines of a record."""

    __slots__ = ("change",)

    def __init__(
        self, *told: object, change: Callable[[list[str]], list[str]], **more: object
    ) -> None:
        super().__init__(*told, **more)  # type: ignore[arg-type]
        self.change = change

    def apply(self, event: object, position: int, out: Outputs) -> None:
        """Take a record as the real one does, and change what comes of it."""
        before = len(out.lines)
        super().apply(event, position, out)  # type: ignore[arg-type]
        out.lines[before:] = self.change(out.lines[before:])
