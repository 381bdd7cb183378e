"""Load for the gateway's benchmarks: canonical ticks into the log, and thousands of subscribers.

Both run on one thread of the measuring process and cost little: ticks are published over a bare
socket, and receivers count bytes of equal-sized frames instead of reading JSON. `settle` holds
every receiver's count, and the bytes of a last message, against what was published.
"""

import json
import select
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from bench.source import ws_frame
from models.canonical import Head
from models.subjects import ticks_subject

PRODUCT = "BTC-USD"
FIRST_SEQ = 1_000_000_000
"""Numbers of equal width make frames of equal size."""

WITHIN_S = 15.0
"""What has not come after so long is lost; shorter than the time between pings."""

PING_FRAME_BYTES = 6
"""A gateway's ping; they come every 20 s and are left unanswered."""

MAX_PINGS = 4
"""A receiver that has answered none is cut off then."""

_BUFFER_BYTES = 1024**2
_LEFT = "the server closed the connection"
_TICK = (
    b'{"v":1,"type":"tick","venue":"coinbase","product":"%b","feed":"ticker","seq":%d,'
    b'"prev_seq":%d,"ts_event":1735942854123456,"ts_ingest":1735942854126789,"fields":'
    b'{"last_trade":{"px":65123.45,"qty":0.01250000,"side":"buy","id":%d},'
    b'"best_bid":{"px":65123.40,"qty":0.50000000},"best_ask":{"px":65123.50,"qty":0.60000000}}}'
)
_START = (
    b'{"v":1,"type":"snapshot","venue":"coinbase","product":"%b","feed":"ticker","seq":%d,'
    b'"ts_snapshot":1735942853000000,"reason":"subscribe","resync_id":null,"state":{}}'
)


class _Message(msgspec.Struct):
    op: str
    data: Head


_decode = msgspec.json.Decoder(_Message).decode


def incr(line: bytes) -> bytes:
    """Return the frame that brings a tick to a subscriber."""
    return ws_frame(b'{"op":"incr","data":%b}' % line)


class Publisher:
    """Publishes to the log as fast as a socket takes it; what was stored shows at the receivers."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), WITHIN_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(b'CONNECT {"verbose":false,"pedantic":false}\r\nPING\r\n')
        answer = b""
        while not answer.endswith(b"PONG\r\n"):
            answer += self._read()

    def publish(self, payload: bytes, product: str = PRODUCT) -> None:
        """Send one message of MD_TICKS."""
        subject = ticks_subject(0, "coinbase", product).encode()
        self._socket.sendall(b"PUB %b %d\r\n%b\r\n" % (subject, len(payload), payload))

    def answer_pings(self) -> None:
        """Show the server that this client lives, if it has asked."""
        if select.select([self._socket], [], [], 0)[0] and b"PING" in self._read():
            self._socket.sendall(b"PONG\r\n")

    def close(self) -> None:
        """Leave the server."""
        self._socket.close()

    def _read(self) -> bytes:
        """Return what the server said."""
        said = self._socket.recv(65536)
        assert said, "nats-server closed the connection"
        assert b"-ERR" not in said, said
        return said


class Ticks:
    """One endless chain of ticker messages of a product.

    Attributes: seq, of the newest one; frame_bytes, the size of each as a subscriber gets it.
    """

    def __init__(self, publisher: Publisher, product: str = PRODUCT) -> None:
        """Begin the chain with a snapshot."""
        self.seq = FIRST_SEQ
        self._publisher = publisher
        self._product = product
        self._name = product.encode()
        publisher.publish(_START % (self._name, self.seq), product)
        self.frame_bytes = len(incr(self._line(self.seq + 1)))

    def publish(self, count: int) -> list[bytes]:
        """Publish the next ticks as one message of the log; return their lines."""
        lines = [self._line(seq) for seq in range(self.seq + 1, self.seq + count + 1)]
        self.seq += count
        self._publisher.publish(b"\n".join(lines), self._product)
        return lines

    def _line(self, seq: int) -> bytes:
        return _TICK % (self._name, seq, seq - 1, seq)


class Connection:
    """One subscriber on a blocking socket."""

    def __init__(self, port: int, *, receive_bytes: int | None = None) -> None:
        """Connect and do the opening handshake.

        `receive_bytes`: what the kernel may hold for it; the kernel decides if none is given.

        Raises:
            ConnectionRefusedError: nothing listens, or the answer is not 101.
        """
        self.socket = socket.socket()
        self.socket.settimeout(WITHIN_S)
        if receive_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self._pending = bytearray()
        try:
            self._open(port)
        except BaseException:
            self.socket.close()
            raise

    def _open(self, port: int) -> None:
        self.socket.connect(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(
            b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        while b"\r\n\r\n" not in self._pending:
            self._fill()
        head = self.take(self._pending.index(b"\r\n\r\n") + 4)
        if not head.startswith(b"HTTP/1.1 101 "):
            raise ConnectionRefusedError(head.decode())

    def say(self, **message: object) -> None:
        """Send one message; the mask that clients must use is all zeros."""
        payload = json.dumps(message).encode()
        header = ws_frame(payload)[: -len(payload)]
        masked = bytes([header[0], header[1] | 0x80]) + header[2:] + bytes(4)
        self.socket.sendall(masked + payload)

    def subscribe(self, **fields: object) -> None:
        """Subscribe and take the acknowledgement."""
        self.say(op="subscribe", **fields)
        answer = json.loads(self.receive())
        assert answer["op"] == "subscribed", answer

    def receive(self) -> bytes:
        """Return the payload of the next text frame."""
        while True:
            kind, payload = self._frame()
            if kind == 0x81:
                return payload
            assert kind == 0x89, f"frame of kind {kind:#x}: {payload!r}"

    def take(self, size: int) -> bytes:
        """Return so many bytes as they came."""
        while len(self._pending) < size:
            self._fill()
        taken = bytes(self._pending[:size])
        del self._pending[:size]
        return taken

    @property
    def drained(self) -> bool:
        """Whether everything that was received has been taken."""
        return not self._pending

    def close(self) -> None:
        """Cut the connection."""
        self.socket.close()

    def _frame(self) -> tuple[int, bytes]:
        """Return the next frame: its first byte and its payload."""
        kind, size = self.take(2)
        if size == 126:
            size = int.from_bytes(self.take(2))
        elif size == 127:
            size = int.from_bytes(self.take(8))
        return kind, self.take(size)

    def _fill(self) -> None:
        received = self.socket.recv(_BUFFER_BYTES)
        assert received, _LEFT
        self._pending += received


class Receivers:
    """Subscribers of one product's ticker that read as fast as they can.

    Attributes: total, bytes that all of them have received.
    """

    def __init__(self, port: int, count: int, ticks: Ticks) -> None:
        """Connect and subscribe; nothing may be published meanwhile."""
        self.total = 0
        self._ticks = ticks
        self._counts: dict[int, int] = {}
        self._connections: list[Connection] = []
        self._receive: dict[int, Callable[[memoryview], int]] = {}
        self._poll = select.epoll()
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        for _ in range(count):
            connection = Connection(port)
            connection.subscribe(products=[PRODUCT], feeds=["ticker"], want_snapshot=False)
            assert connection.drained, "data came although nothing was published"
            # With a timeout Python would poll once more before each receive.
            connection.socket.setblocking(False)
            fileno = connection.socket.fileno()
            self._connections.append(connection)
            self._receive[fileno] = connection.socket.recv_into
            self._poll.register(fileno, select.EPOLLIN)
        self._sampled = min(self._receive)
        self._begin()

    def _begin(self) -> None:
        """Count from here on."""
        self.total = 0
        self._counts = dict.fromkeys(self._receive, 0)
        self._sample = bytearray()
        self._first = self._ticks.seq + 1

    def __len__(self) -> int:
        return len(self._connections)

    def close(self) -> None:
        """Cut all connections."""
        self._poll.close()
        for connection in self._connections:
            connection.close()

    def pump(self) -> None:
        """Wait until something comes and receive it.

        Raises:
            AssertionError: nothing came for a long time, or the server left.
        """
        counts, receive, buffer = self._counts, self._receive, self._buffer
        total = 0
        for fileno, _ in self._poll.poll(WITHIN_S):
            size = receive[fileno](buffer)
            assert size, _LEFT
            counts[fileno] += size
            total += size
            if fileno == self._sampled:
                self._sample += buffer[:size]
        assert total, f"nothing came for {WITHIN_S} s although ticks are missing"
        self.total += total

    def pump_timed(self, timeout_s: float, each_bytes: int, sent: Sequence[float]) -> list[float]:
        """Receive what is there; return the delay in seconds of each message that is complete.

        `sent`: when each message, of so many bytes, was published.
        """
        counts, receive, buffer = self._counts, self._receive, self._buffer
        delays: list[float] = []
        for fileno, _ in self._poll.poll(timeout_s):
            size = receive[fileno](buffer)
            assert size, _LEFT
            now = time.perf_counter()
            before = counts[fileno]
            counts[fileno] = before + size
            if fileno == self._sampled:
                self._sample += buffer[:size]
            complete = range(before // each_bytes, (before + size) // each_bytes)
            delays += [now - sent[number] for number in complete]
        return delays

    def settle(self) -> None:
        """Make sure that everyone got every tick published since the last time, and one more.

        Everyone's bytes are counted, the last tick's compared, and the sampled receiver's chain
        is verified link by link.

        Raises:
            AssertionError: somebody got less, more or something else.
        """
        due = (self._ticks.seq + 1 - self._first) * self._ticks.frame_bytes
        self._await(due)
        last = incr(self._ticks.publish(1)[0])
        tails = self._await(due + len(last))
        for fileno, count in self._counts.items():
            pings, rest = divmod(count - due - len(last), PING_FRAME_BYTES)
            assert pings <= MAX_PINGS, f"receiver {fileno} got {count} bytes, not {due}"
            assert rest == 0, f"receiver {fileno} got {count} bytes, not {due}"
            assert last in tails[fileno], f"receiver {fileno} ends with {tails[fileno]!r}"
        verify_chain(text_frames(bytes(self._sample)), self._first, self._ticks.seq)
        self._begin()

    def _await(self, each_bytes: int) -> dict[int, bytes]:
        """Receive until everyone has got so much; return what came meanwhile."""
        came = dict.fromkeys(self._counts, b"")
        ends = time.perf_counter() + WITHIN_S
        while min(self._counts.values()) < each_bytes:
            assert time.perf_counter() < ends, self._missing(each_bytes)
            for fileno, _ in self._poll.poll(WITHIN_S):
                size = self._receive[fileno](self._buffer)
                assert size, _LEFT
                self._counts[fileno] += size
                came[fileno] += self._buffer[:size]
                if fileno == self._sampled:
                    self._sample += self._buffer[:size]
        return came

    def _missing(self, each_bytes: int) -> str:
        short = sum(count < each_bytes for count in self._counts.values())
        return f"{short} of {len(self)} receivers got less than {each_bytes} bytes"


def text_frames(data: bytes) -> Iterator[bytes]:
    """Yield the payloads of text frames; pings are left out."""
    at = 0
    while at < len(data):
        kind, size = data[at], data[at + 1]
        at += 2
        if size == 126:
            size, at = int.from_bytes(data[at : at + 2]), at + 2
        elif size == 127:
            size, at = int.from_bytes(data[at : at + 8]), at + 8
        if kind == 0x81:
            yield data[at : at + size]
        else:
            assert kind == 0x89, f"frame of kind {kind:#x}"
        at += size


def verify_chain(payloads: Iterable[bytes], first: int, last: int) -> None:
    """Make sure that these are the increments from the first to the last, each linked."""
    seq = first - 1
    for payload in payloads:
        message = _decode(payload)
        assert message.op == "incr", payload
        assert message.data.prev_seq == seq, f"after {seq} came {payload!r}"
        seq = message.data.seq
    assert seq == last, f"the chain ends at {seq}, not at {last}"
