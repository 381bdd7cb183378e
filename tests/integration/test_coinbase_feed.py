"""The Coinbase feed against real WebSocket servers on loopback that behave well and badly."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from http import HTTPStatus
from itertools import pairwise

import pytest
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from tests.servers import PATIENCE_S, eventually, free_port
from venues.coinbase.auth import Credentials, sign_subscribe
from venues.coinbase.backoff import BackoffSettings
from venues.coinbase.feed import CoinbaseFeed, FeedConfig, FeedConfigError

ACK = '{"type":"subscriptions","channels":[{"name":"ticker","product_ids":["BTC-USD"]}]}'
TICK = '{"type":"ticker","product_id":"BTC-USD","price":"1.0","sequence":1}'
EMPTY_ACK = '{"type":"subscriptions","channels":[]}'
REFUSAL = '{"type":"error","message":"Failed to subscribe","reason":"full requires authentication"}'

Script = Callable[["Venue", ServerConnection], Awaitable[None]]


class Sink:
    """Keeps everything that a feed reports, as a sink that always has room unless told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, str]] = []
        self.frames: list[bytes] = []
        self.has_room = asyncio.Event()
        self.has_room.set()

    def opened(self, conn: str) -> None:
        """Note it."""
        self.events.append(("opened", conn, ""))

    def frame(self, ts_ingest_us: int, conn: str, frame: bytes) -> None:
        """Note it."""
        assert ts_ingest_us > 0
        assert conn == self.events[-1][1]
        self.frames.append(frame)

    def rejected(self, ts_ingest_us: int, conn: str, reason: str, detail: str) -> None:
        """Note it."""
        assert ts_ingest_us > 0
        assert conn
        self.events.append(("rejected", conn, f"{reason}: {detail}"))

    def closed(self, ts_ingest_us: int, conn: str, reason: str) -> None:
        """Note it."""
        assert ts_ingest_us > 0
        self.events.append(("closed", conn, reason))

    async def room(self) -> None:
        """Wait for the test's permission."""
        await self.has_room.wait()

    def of(self, kind: str) -> list[str]:
        """Return the texts of all events of a kind."""
        return [text for event, _, text in self.events if event == kind]


class Venue:
    """A WebSocket server that notes each subscribe and then follows a script."""

    def __init__(self, script: Script) -> None:
        self.subscribes: list[dict[str, object]] = []
        self.times_s: list[float] = []
        self.extensions: list[str] = []
        self.handshakes = 0
        self.refusals: list[Response] = []
        self.server: Server
        self._script = script

    @property
    def url(self) -> str:
        """Address for the feed."""
        return f"ws://127.0.0.1:{next(iter(self.server.sockets)).getsockname()[1]}"

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return len(self.server.connections)

    async def handle(self, socket: ServerConnection) -> None:
        """Serve one connection."""
        self.extensions.append(repr(socket.protocol.extensions))
        with suppress(Exception):
            self.subscribes.append(json.loads(await socket.recv()))
            await self._script(self, socket)

    def process(self, _: ServerConnection, __: Request) -> Response | None:
        """Refuse the handshake while refusals are left."""
        self.handshakes += 1
        self.times_s.append(time.monotonic())
        return self.refusals.pop(0) if self.refusals else None


@asynccontextmanager
async def venue(script: Script, compression: str | None = "deflate") -> AsyncIterator[Venue]:
    """Run a venue on a free port."""
    instance = Venue(script)
    async with serve(
        instance.handle,
        "127.0.0.1",
        0,
        process_request=instance.process,
        close_timeout=0.2,
        compression=compression,
    ) as instance.server:
        yield instance


@asynccontextmanager
async def running(config: FeedConfig, sink: Sink) -> AsyncIterator[asyncio.Task[None]]:
    """Run a feed, and stop it at the end."""
    task = asyncio.create_task(CoinbaseFeed(config, sink).run())
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def config_for(url: str, **changes: object) -> FeedConfig:
    """Return a configuration with short times."""
    config = FeedConfig(primary=url, products=("BTC-USD", "ETH-USD"), channels=("ticker",))
    fast = BackoffSettings(first_s=0.05, cap_s=0.2, rejected_first_s=0.2)
    return replace(config, backoff=fast, **changes)  # type: ignore[arg-type]


async def _serve_on(_: Venue, socket: ServerConnection) -> None:
    await socket.send(ACK)
    while True:
        await socket.send(TICK)
        await asyncio.sleep(0.02)


async def test_feed_connected_subscribes_and_delivers_verbatim() -> None:
    """The subscribe names products and channels, and the frames arrive as sent, ack included."""
    sink = Sink()
    async with venue(_serve_on) as exchange, running(config_for(exchange.url), sink):
        await eventually(lambda: len(sink.frames) > 2)
        assert exchange.subscribes == [
            {
                "type": "subscribe",
                "product_ids": ["BTC-USD", "ETH-USD"],
                "channels": ["ticker", "heartbeat"],
            }
        ]
        assert sink.frames[:2] == [ACK.encode(), TICK.encode()]
        assert "PerMessageDeflate" in exchange.extensions[0]


async def test_feed_with_credentials_signs_its_subscribe() -> None:
    """The signature is the one that the venue would compute from the message's own timestamp."""
    keys = Credentials("key", "c2VjcmV0", "phrase")
    sink = Sink()
    async with (
        venue(_serve_on) as exchange,
        running(config_for(exchange.url, credentials=keys), sink),
    ):
        await eventually(lambda: exchange.subscribes)
        sent = exchange.subscribes[0]
        assert {**sent, **sign_subscribe(keys, str(sent["timestamp"]))} == sent


async def test_feed_dropped_resubscribes_under_a_new_id() -> None:
    """After each drop there is one new subscribe, and no frame before the drop is lost."""

    async def drop_twice(exchange: Venue, socket: ServerConnection) -> None:
        await socket.send(ACK)
        for _ in range(300):
            await socket.send(TICK)
        if len(exchange.subscribes) == 1:
            await socket.close(1012, "restart")
        elif len(exchange.subscribes) == 2:
            socket.transport.abort()
        else:
            await socket.wait_closed()

    sink = Sink()
    async with venue(drop_twice) as exchange, running(config_for(exchange.url), sink):
        await eventually(lambda: len(exchange.subscribes) == 3 and sink.frames.count(ACK.encode()))
        await eventually(lambda: len(sink.of("opened")) == 3)
        first = sink.events[0][1]
        assert [event for event, *_ in sink.events] == ["opened", "closed"] * 2 + ["opened"]
        assert len({conn for _, conn, _ in sink.events}) == 3
        assert re.fullmatch(r"a-[0-9a-z]+-1", first)
        assert "1012" in sink.of("closed")[0]
        await eventually(lambda: len(sink.frames) >= 602)


async def test_feed_refused_primary_uses_the_fallback() -> None:
    """With nothing listening on the primary, the fallback is subscribed."""
    sink = Sink()
    async with venue(_serve_on) as exchange:
        config = config_for(f"ws://127.0.0.1:{free_port()}", fallback=exchange.url)
        async with running(config, sink):
            await eventually(lambda: sink.frames)
            assert len(exchange.subscribes) == 1


async def test_feed_good_fallback_dropped_returns_to_the_primary() -> None:
    """When the fallback's connection ends, the primary is first again."""
    sink = Sink()

    async def last_a_while(_: Venue, socket: ServerConnection) -> None:
        await socket.send(ACK)
        for _tick in range(10):
            await socket.send(TICK)
            await asyncio.sleep(0.02)

    async with venue(_serve_on) as primary, venue(last_a_while) as fallback:
        primary.refusals = [Response(503, "Unavailable", Headers({"Content-Length": "0"}), b"")]
        config = config_for(primary.url, fallback=fallback.url, stable_s=0.1)
        async with running(config, sink):
            await eventually(lambda: primary.subscribes)
            assert len(fallback.subscribes) == 1


async def test_feed_silent_primary_reconnects_and_uses_the_fallback() -> None:
    """A primary that is open but brings nothing is left for the fallback."""

    async def silent(_: Venue, socket: ServerConnection) -> None:
        await socket.send(ACK)
        await socket.wait_closed()

    sink = Sink()
    async with venue(silent) as primary, venue(_serve_on) as fallback:
        config = config_for(primary.url, fallback=fallback.url, silence_s=0.3)
        async with running(config, sink):
            await eventually(lambda: fallback.subscribes and len(sink.frames) > 2)
            assert sink.of("closed") == ["silent for 0.3 s"]


async def test_feed_peer_gone_without_a_word_is_closed_by_the_watchdog() -> None:
    """A peer that reads nothing and never answers the closing handshake does not hold us up."""
    stuck = asyncio.Event()

    async def hang(_: Venue, socket: ServerConnection) -> None:
        if not stuck.is_set():
            stuck.set()
            socket.transport.pause_reading()
        await socket.send(ACK)
        await socket.wait_closed()

    sink = Sink()
    async with venue(hang) as exchange:
        async with running(config_for(exchange.url, silence_s=0.3, close_timeout_s=0.1), sink):
            await eventually(lambda: len(exchange.subscribes) >= 2)
        for socket in exchange.server.connections:
            socket.transport.abort()


async def test_feed_subscribe_unanswered_reconnects() -> None:
    """Data without an acknowledgement in time is not a subscription."""

    async def no_ack(_: Venue, socket: ServerConnection) -> None:
        while True:
            await socket.send(TICK)
            await asyncio.sleep(0.02)

    sink = Sink()
    async with (
        venue(no_ack) as exchange,
        running(config_for(exchange.url, ack_timeout_s=0.3), sink),
    ):
        await eventually(lambda: len(exchange.subscribes) >= 2)
        assert sink.of("closed")[0] == "subscribe unanswered for 0.3 s"


async def test_feed_subscription_refused_keeps_its_distance() -> None:
    """Everything refused: the sentence is passed on, and the venue is not hammered."""

    async def refuse(_: Venue, socket: ServerConnection) -> None:
        await socket.send(REFUSAL)
        await socket.send(EMPTY_ACK)
        await socket.wait_closed()

    sink = Sink()
    async with venue(refuse) as exchange, running(config_for(exchange.url), sink):
        await eventually(lambda: len(exchange.subscribes) == 2)
        assert "full requires authentication" in sink.of("closed")[0]
        assert sink.frames[:2] == [REFUSAL.encode(), EMPTY_ACK.encode()]
    # The pause is drawn from an interval that begins at half of what is set.
    assert exchange.times_s[1] - exchange.times_s[0] >= 0.1


async def test_feed_partly_refused_stays_connected() -> None:
    """An error about one product leaves the others flowing on the same connection."""

    async def refuse_one(_: Venue, socket: ServerConnection) -> None:
        await socket.send('{"type":"error","message":"X-Y is not a valid product"}')
        await _serve_on(_, socket)

    sink = Sink()
    async with venue(refuse_one) as exchange, running(config_for(exchange.url), sink):
        await eventually(lambda: len(sink.frames) > 10)
        assert len(exchange.subscribes) == 1
        assert sink.of("closed") == []


@pytest.mark.parametrize("compression", ["deflate", None])
async def test_feed_frame_of_two_mebibytes_is_accepted(compression: str | None) -> None:
    """A deep book is larger than the usual cap of 1 MiB, compressed or not."""
    book = json.dumps({"type": "snapshot", "bids": [["83420.21", "0.08080000"]] * 100_000})
    assert len(book) > 2 * 1024 * 1024

    async def deep(_: Venue, socket: ServerConnection) -> None:
        await socket.send(ACK)
        await socket.send(book)
        await socket.send([book[:1000], book[1000:]])
        await _serve_on(_, socket)

    sink = Sink()
    async with venue(deep, compression) as exchange, running(config_for(exchange.url), sink):
        await eventually(lambda: len(sink.frames) > 3)
        assert sink.frames[1:3] == [book.encode()] * 2


@pytest.mark.parametrize("compression", ["deflate", None])
@pytest.mark.parametrize("pieces", [1, 3])
async def test_feed_frame_beyond_the_cap_is_rejected_and_reconnects(
    compression: str | None, pieces: int
) -> None:
    """The rejection names the cap and its setting; what came before is delivered."""

    async def oversize(exchange: Venue, socket: ServerConnection) -> None:
        await socket.send(ACK)
        await socket.send(TICK)
        if len(exchange.subscribes) == 1:
            await socket.send("x" * 90_000 if pieces == 1 else ["x" * 30_000] * pieces)
        await _serve_on(exchange, socket)

    sink = Sink()
    async with (
        venue(oversize, compression) as exchange,
        running(config_for(exchange.url, max_frame_bytes=65_536), sink),
    ):
        await eventually(lambda: len(exchange.subscribes) == 2 and len(sink.frames) > 3)
        assert sink.frames[:2] == [ACK.encode(), TICK.encode()]
        assert len(sink.of("rejected")) == 1, sink.events
        (rejection,) = sink.of("rejected")
        assert rejection.startswith("frame_too_big")
        assert "65536" in rejection
        assert "COINBASE_MAX_FRAME_BYTES" in rejection


async def test_feed_bad_frames_are_counted_and_good_ones_kept() -> None:
    """Binary, empty and malformed frames and bad UTF-8 do not end the connection."""

    async def garbage(exchange: Venue, socket: ServerConnection) -> None:
        await socket.send(ACK)
        await socket.send(b"\x00\x01")
        await socket.send('{"type":')
        await socket.send("")
        await socket.send('{"type":"error","message":5}')
        await socket.send(b"\xff\xfe", text=True)
        await _serve_on(exchange, socket)

    sink = Sink()
    async with venue(garbage) as exchange, running(config_for(exchange.url), sink):
        await eventually(lambda: len(sink.frames) > 8)
        reasons = [text.split(":")[0] for text in sink.of("rejected")]
        assert reasons == ["binary_frame", "bad_utf8"]
        assert sink.frames[1:4] == [b'{"type":', b"", b'{"type":"error","message":5}']
        assert sink.frames[4:6] == [ACK.encode(), TICK.encode()]
        assert sink.of("closed") == []


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(b"\x83\x00", id="unknown opcode"),
        pytest.param(b"\x80\x00", id="continuation of nothing"),
        pytest.param(b"\xc1\x02\xff\xff", id="no deflate"),
    ],
)
async def test_feed_broken_protocol_is_rejected_and_reconnects(octets: bytes) -> None:
    """Bytes that are no frame are counted once, and the line starts anew."""

    async def breaking(exchange: Venue, socket: ServerConnection) -> None:
        await socket.send(ACK)
        if len(exchange.subscribes) == 1:
            socket.transport.write(octets)
        await _serve_on(exchange, socket)

    sink = Sink()
    async with venue(breaking) as exchange, running(config_for(exchange.url), sink):
        await eventually(lambda: len(exchange.subscribes) == 2 and len(sink.frames) > 3)
        assert [text.split(":")[0] for text in sink.of("rejected")] == ["broken_frame"]
        assert len(sink.of("closed")) == 1


async def test_feed_told_too_many_requests_waits_as_asked() -> None:
    """A handshake answered 429 is tried again no sooner than Retry-After says."""
    sink = Sink()
    async with venue(_serve_on) as exchange:
        headers = Headers({"Retry-After": "1", "Content-Length": "0"})
        exchange.refusals = [Response(HTTPStatus.TOO_MANY_REQUESTS, "Too Many", headers, b"")]
        async with running(config_for(exchange.url), sink):
            await eventually(lambda: sink.frames)
    first_s, second_s = exchange.times_s
    assert second_s - first_s >= 1.0


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 520 X\r\n\r\n", b"\x00\xffnonsense\r\n\r\n"])
async def test_feed_odd_handshake_is_survived(answer: bytes) -> None:
    """Whatever an address answers instead of the upgrade, the feed tries on."""
    seen = 0

    async def odd(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        seen += 1
        with suppress(asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(odd, "127.0.0.1", 0) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with running(config_for(url), Sink()) as task:
            await eventually(lambda: seen >= 2)
            assert not task.done()


async def test_feed_accept_then_drop_is_not_hammered() -> None:
    """Connections that never become good are spaced by the growing delay."""

    async def drop(_: Venue, socket: ServerConnection) -> None:
        await socket.send(ACK)

    sink = Sink()
    async with venue(drop) as exchange, running(config_for(exchange.url), sink):
        await eventually(lambda: len(exchange.subscribes) >= 12)
    pauses_s = [after - before for before, after in pairwise(exchange.times_s)]
    # Each is drawn from 0 to 0.2 s: about a second in all.
    assert sum(pauses_s[:11]) >= 0.2


async def test_feed_without_room_stops_reading_and_is_not_called_silent() -> None:
    """Back-pressure reaches the venue, and the watchdog does not take it for silence."""

    async def flood(_: Venue, socket: ServerConnection) -> None:
        await socket.send(ACK)
        padded = TICK + " " * 20_000
        while True:
            await socket.send(padded)
            await asyncio.sleep(0)

    sink = Sink()
    sink.has_room.clear()
    async with venue(flood) as exchange, running(config_for(exchange.url, silence_s=0.2), sink):
        await eventually(lambda: sink.frames)
        await asyncio.sleep(0.6)
        held = len(sink.frames)
        assert held <= 64
        sink.has_room.set()
        await eventually(lambda: len(sink.frames) > held + 100)
        assert sink.of("closed") == []


async def test_feed_cancelled_leaves_nothing() -> None:
    """Cancelling closes the socket politely, tells the sink, and leaves no task behind."""
    sink = Sink()
    async with venue(_serve_on) as exchange:
        before = asyncio.all_tasks()
        task = asyncio.create_task(CoinbaseFeed(config_for(exchange.url), sink).run())
        await eventually(lambda: len(sink.frames) > 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert sink.of("closed") == ["stopped"]
        await eventually(lambda: not exchange.connections)
        await eventually(lambda: asyncio.all_tasks() <= before)


async def test_feed_cancelled_in_the_handshake_leaves_nothing() -> None:
    """A handshake that hangs is given up with the feed, its socket closed."""
    asked, gone = asyncio.Event(), asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()
        gone.set()
        writer.close()

    async with await asyncio.start_server(hang, "127.0.0.1", 0) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with running(config_for(url), Sink()):
            await asyncio.wait_for(asked.wait(), PATIENCE_S)
        await asyncio.wait_for(gone.wait(), PATIENCE_S)


async def test_feed_hanging_handshake_goes_to_the_fallback() -> None:
    """A primary that accepts TCP and says nothing costs the connect timeout, then the fallback."""

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    sink = Sink()
    async with (
        await asyncio.start_server(hang, "127.0.0.1", 0) as server,
        venue(_serve_on) as exchange,
    ):
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        config = config_for(url, fallback=exchange.url, connect_timeout_s=0.3)
        async with running(config, sink):
            await eventually(lambda: sink.frames)


async def test_feed_sink_failing_ends_the_feed() -> None:
    """An error of the sink is raised, and the socket does not outlive it."""

    class BrokenSink(Sink):
        def frame(self, ts_ingest_us: int, conn: str, frame: bytes) -> None:
            raise LookupError(conn, frame, ts_ingest_us)

    sink = BrokenSink()
    async with venue(_serve_on) as exchange:
        with pytest.raises(LookupError):
            await CoinbaseFeed(config_for(exchange.url), sink).run()
        await eventually(lambda: not exchange.connections)


@pytest.mark.parametrize(
    "changes",
    [
        {"primary": "https://x"},
        {"fallback": "ws://"},
        {"products": ()},
        {"channels": ()},
        {"line": "a.b"},
    ],
)
def test_feed_config_unusable_is_refused(changes: dict[str, object]) -> None:
    """What could never work is refused at the start, with the setting's name."""
    with pytest.raises(FeedConfigError, match=r"COINBASE_|INGEST_LINE"):
        replace(config_for("ws://127.0.0.1:1"), **changes)  # type: ignore[arg-type]
