"""The fan-out: canonical messages in, the same frames out to everyone who asked for them.

Synchronous throughout: state, registration and snapshots change in single steps of one event
loop, so no message falls between a snapshot and the stream, or comes twice. Knows neither the
log's reader (`reader`) nor WebSockets (`session`, `fanout`).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec
import structlog

from gateway.audience import Audience
from gateway.catalogue import Catalogue
from gateway.group import (
    PACED_SHIFT,
    Client,
    Key,
    Opening,
    Selection,
    count,
)
from gateway.ladder import Ladder, refused
from gateway.ledger import Ledger
from gateway.metrics import Metrics
from gateway.pacing import Loop
from gateway.product import FEED_BITS, FEED_OF_BIT
from gateway.protocol import ALL_PRODUCTS, ClientError, Subscribe, Unsubscribe
from gateway.ring import Ring
from gateway.sink import Sink
from models.canonical import Feed, Status
from models.decoding import UNREADABLE
from models.settings import Settings
from streaming.broker.log import LogMessage

_decode_status = msgspec.json.Decoder(Status).decode
_BOOK = FEED_BITS["book"]
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """What clients may do and how much is kept for them; the settings of these names."""

    msgs_per_s: int = 100
    burst: int = 200
    subscriptions: int = 10_000
    client_bytes: int = 16 * 1024**2
    ring_bytes: int = 64 * 1024**2
    backfill_minutes: int = 60

    @classmethod
    def of(cls, settings: Settings) -> "Limits":
        """Return the limits that the settings give."""
        return cls(
            settings.ws_max_msgs_per_sec,
            settings.ws_burst,
            settings.ws_max_subscriptions,
            settings.ws_max_client_bytes,
            settings.gateway_ring_bytes,
            settings.backfill_max_minutes,
        )


class Hub:
    """Every product's state and every client's subscription.

    Attributes: products, all there are; metrics; ledger, the gaps; limits; ring; ladder, which
    resumes; loop; epoch, the name of the log that all this comes from.
    """

    def __init__(
        self,
        products: Iterable[str],
        loop: Loop,
        limits: Limits | None = None,
        *,
        venue: str = "coinbase",
        metrics: Metrics | None = None,
    ) -> None:
        """Prepare to serve; `products`: those configured of a venue; more appear as they come."""
        self.metrics = metrics or Metrics()
        self.ledger = Ledger()
        self.limits = limits = limits or Limits()
        self.loop = loop
        self.epoch = ""
        self._audience = Audience(lambda: self.products, loop, self.metrics)
        self.products = Catalogue(venue, products, self._audience.introduce)
        self.ring = Ring(limits.ring_bytes)
        self.ladder = Ladder(
            self.ring,
            self._audience,
            max_minutes=limits.backfill_minutes,
            step_bytes=limits.client_bytes // 4,
        )

    def apply(self, message: LogMessage) -> None:
        """Take the next message of MD_TICKS; it goes out at the end of the turn."""
        product = self.products.of_subject(message.subject)
        try:
            batch, statuses = product.take(message)
        except UNREADABLE as error:
            self.metrics.invalid.labels(product.venue, "not_canonical").inc()
            _log.warning(
                "left out a message that is not canonical",
                subject=message.subject,
                position=message.seq,
                error=str(error),
            )
            return
        self.metrics.messages.inc(len(batch.frames))
        self._note(statuses)
        if batch.broken:
            self.metrics.broken.inc(batch.broken)
            _log.warning(
                "a message does not link to the one before it",
                subject=message.subject,
                position=message.seq,
            )
        self.ring.append(product, batch)
        self.ladder.grow()
        self._audience.hand_out(product, batch)

    def recall(self, message: LogMessage) -> None:
        """Take a message that a checkpoint holds already: it is only kept to be resumed from."""
        product = self.products.of_subject(message.subject)
        try:
            self.ring.append(product, product.recall(message))
        except UNREADABLE:
            self.metrics.invalid.labels(product.venue, "not_canonical").inc()

    def restore(self, venue: str, product: str, lines: Iterable[bytes]) -> None:
        """Take a checkpoint's lines, before anybody has subscribed.

        Raises:
            msgspec.DecodeError: a line is no canonical message.
        """
        found = self.products.find(venue, product)
        for line in lines:
            _, statuses = found.take(LogMessage("", 0, line))
            self._note(statuses)

    def _note(self, statuses: Iterable[bytes]) -> None:
        for line in statuses:
            self.ledger.take(_decode_status(line))

    def flush(self) -> None:
        """Write at once what is due to everyone."""
        self._audience.flush()

    def join(self, sink: Sink) -> Client:
        """Take in a client, which has subscribed to nothing yet."""
        return self._audience.join(sink)

    def leave(self, client: Client) -> None:
        """Forget a client; may be called again."""
        self._audience.leave(client)

    def release(self, client: Client) -> None:
        """Forget a client whose connection goes on with another hub."""
        self._audience.release(client)

    def catch_up(self, client: Client) -> None:
        """Write at once what is due to a client, so that a reply can follow it."""
        self._audience.catch_up(client)

    def snapshot(self, product: str, feed: Feed, depth: int | None = None) -> bytes:
        """Return the newest state of a feed as a canonical snapshot line, for REST.

        `product`: its name, or `venue/product`; `depth`: levels a side of a book, none for all.

        Raises:
            ClientError: `unknown_product` or `ambiguous_product`.
        """
        return self.products.one(product).feeds[FEED_BITS[feed]].snapshot(depth=depth)

    def subscribe(
        self, client: Client, request: Subscribe, acknowledge: Callable[[], None] = lambda: None
    ) -> None:
        """Begin feeds for a client: a snapshot or what follows a number, then every message.

        A feed that it already has begins anew. `acknowledge` is called once the request is known
        to be good, after all that was due before it.

        Raises:
            ClientError: it cannot be acted on; nothing has changed.
        """
        self.products.check(request.products)
        points = self._points(request)
        selection = _selected(client.selection, request)
        if count(selection) > self.limits.subscriptions:
            raise ClientError(
                "too_many_subscriptions",
                f"a connection may have {self.limits.subscriptions} subscriptions, each a product "
                'and feed: use ["*"], or another connection.',
            )
        self._audience.catch_up(client)
        if client.left:
            return  # that was too much for it, and it wanted to be closed then
        acknowledge()
        _note_terms(client, selection, request)

        def resume(client: Client, key: Key, from_seq: int) -> bytes | Opening | None:
            if request.epoch not in (None, self.epoch):
                return refused(key, from_seq, "epoch")
            return self.ladder.resume(client, key, from_seq)

        self._audience.subscribe(
            client,
            selection,
            self.products.matching(request.products),
            _mask(request.feeds),
            want_snapshot=request.want_snapshot,
            points=points,
            resume=resume,
        )
        self.ladder.start(client)

    def _points(self, request: Subscribe) -> dict[Key, int]:
        """Return how far a client has come, by feed.

        Raises:
            ClientError: `unknown_product` or `ambiguous_product`.
        """
        return {
            (self.products.one(name), FEED_BITS[feed]): seq
            for name, seqs in request.resume_points().items()
            for feed, seq in seqs.items()
        }

    def unsubscribe(
        self, client: Client, request: Unsubscribe, acknowledge: Callable[[], None] = lambda: None
    ) -> None:
        """End feeds for a client; what it does not have does not matter.

        `acknowledge` is called after the last message of them.

        Raises:
            ClientError: `covered_by_all`: it has them by `*`, and must end that.
        """
        mask = _mask(request.feeds)
        if ALL_PRODUCTS not in request.products and client.selection.get(ALL_PRODUCTS, 0) & mask:
            raise ClientError(
                "covered_by_all",
                'you have subscribed to ["*"]: unsubscribe that, then subscribe to what you want.',
            )
        gone = mask | mask << PACED_SHIFT
        selection = dict(client.selection)
        for name in request.products:
            rest = selection.pop(name, 0) & ~gone
            if rest:
                selection[name] = rest
            if not rest & _BOOK:
                client.depths.pop(name, None)
            for feed in request.feeds:
                client.rates.pop((name, FEED_BITS[feed]), None)
        self._audience.unsubscribe(client, selection)
        acknowledge()


def _selected(selection: Selection, request: Subscribe) -> Selection:
    """Return a selection with what a request adds to it."""
    mask = _mask(request.feeds)
    selected = dict(selection)
    for name in _names(selection, request):
        old = selected.get(name, 0)
        begun = mask if name in request.products else mask & old
        paced = 0 if request.max_rate is None else begun << PACED_SHIFT
        selected[name] = old & ~(mask << PACED_SHIFT) | begun | paced
    return selected


def _names(selection: Selection, request: Subscribe) -> Iterable[str]:
    """Return the names for which a request says how; `*` says it for all that there were."""
    if ALL_PRODUCTS in request.products:
        return dict.fromkeys((*selection, *request.products))
    return request.products


def _note_terms(client: Client, selection: Selection, request: Subscribe) -> None:
    """Note how a client wants what a request is about."""
    mask = _mask(request.feeds)
    client.closes_when_slow = request.on_slow == "disconnect"
    names = _names(selection, request)
    if mask & _BOOK:
        client.ask_depth(names, request.levels)
    if request.max_rate is not None:
        client.ask_rate(names, [bit for bit in FEED_OF_BIT if bit & mask], request.max_rate)


def _mask(feeds: Iterable[Feed]) -> int:
    """Return the mask of these feeds."""
    mask = 0
    for feed in feeds:
        mask |= FEED_BITS[feed]
    return mask
