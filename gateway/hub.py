"""The fan-out: canonical messages in, the same frames out to everyone who asked for them.

Synchronous throughout: state, registration and snapshots change in single steps of one event
loop, so no message falls between a snapshot and the stream, or comes twice. Knows neither the
log's reader (`reader`) nor WebSockets (`session`, `fanout`).
"""

from collections.abc import Callable, Iterable, Sequence

import msgspec
import structlog

from gateway.audience import Audience
from gateway.catalogue import Catalogue
from gateway.group import Client
from gateway.ledger import Ledger
from gateway.metrics import Metrics
from gateway.product import FEED_BITS, Batch
from gateway.protocol import ALL_PRODUCTS, ClientError
from gateway.sink import Sink
from models.canonical import Feed, Status
from streaming.broker.log import LogMessage

_decode_status = msgspec.json.Decoder(Status).decode
_BOOK = FEED_BITS["book"]
_log = structlog.get_logger(__name__)


class Hub:
    """Every product's state and every client's subscription.

    Attributes: products, all there are; metrics; ledger, the gaps.
    """

    def __init__(
        self, products: Iterable[str], schedule: Callable[[Callable[[], None]], object]
    ) -> None:
        """Prepare to serve.

        `products`: the configured ones; more appear as they come. `schedule` calls a function
        at the end of the event loop's turn, such as `loop.call_soon`.
        """
        self.metrics = Metrics()
        self.ledger = Ledger()
        self._audience = Audience(lambda: self.products, schedule, self.metrics)
        self.products = Catalogue(products, self._audience.introduce)

    def apply(self, message: LogMessage) -> None:
        """Take the next message of MD_TICKS; it goes out at the end of the turn."""
        product = self.products.of_subject(message.subject)
        try:
            batch = product.take(message.payload)
        except msgspec.DecodeError as error:
            self.metrics.invalid.labels(product.venue, "not_canonical").inc()
            _log.warning(
                "left out a message that is not canonical",
                subject=message.subject,
                position=message.seq,
                error=str(error),
            )
            return
        self.metrics.messages.inc(len(batch.frames))
        self._note(batch)
        if batch.broken:
            self.metrics.broken.inc(batch.broken)
            _log.warning(
                "a message does not link to the one before it",
                subject=message.subject,
                position=message.seq,
            )
        self._audience.hand_out(product, batch)

    def restore(self, venue: str, product: str, lines: Iterable[bytes]) -> None:
        """Take a checkpoint's lines, before anybody has subscribed.

        Raises:
            msgspec.DecodeError: a line is no canonical message.
        """
        found = self.products.find(venue, product)
        for line in lines:
            self._note(found.take(line))

    def _note(self, batch: Batch) -> None:
        for line in batch.statuses:
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

    def catch_up(self, client: Client) -> None:
        """Write at once what is due to a client, so that a reply can follow it."""
        self._audience.catch_up(client)

    def subscribe(
        self,
        client: Client,
        names: Sequence[str],
        feeds: Sequence[Feed],
        *,
        want_snapshot: bool = True,
        depth: int | None = None,
    ) -> None:
        """Begin these feeds for a client: a snapshot of each, then every message after it.

        A feed that it already has begins anew.

        Raises:
            ClientError: `unknown_product`; nothing has changed.
        """
        self.products.check(names)
        mask = _mask(feeds)
        selection = dict(client.selection)
        for name in names:
            selection[name] = selection.get(name, 0) | mask
        if mask & _BOOK:
            client.ask_depth(selection if ALL_PRODUCTS in names else names, depth)
        self._audience.subscribe(
            client, selection, self.products.matching(names), mask, want_snapshot=want_snapshot
        )

    def unsubscribe(self, client: Client, names: Sequence[str], feeds: Sequence[Feed]) -> None:
        """End these feeds for a client; what it does not have does not matter.

        Raises:
            ClientError: `covered_by_all`: it has them by `*`, and must end that.
        """
        mask = _mask(feeds)
        if ALL_PRODUCTS not in names and client.selection.get(ALL_PRODUCTS, 0) & mask:
            raise ClientError(
                "covered_by_all",
                'you have subscribed to ["*"]: unsubscribe that, then subscribe to what you want.',
            )
        selection = dict(client.selection)
        for name in names:
            rest = selection.pop(name, 0) & ~mask
            if rest:
                selection[name] = rest
            if not rest & _BOOK:
                client.depths.pop(name, None)
        self._audience.unsubscribe(client, selection)


def _mask(feeds: Iterable[Feed]) -> int:
    """Return the mask of these feeds."""
    mask = 0
    for feed in feeds:
        mask |= FEED_BITS[feed]
    return mask
