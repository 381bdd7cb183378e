"""Who is due what: subscriptions, groups of equal ones, and the conflation of slow clients.

A client is in a shared group while all that it asked for is live. While snapshots are pending
(it lags, and got none of the increments) it is in a group of its own with what is live already;
one snapshot at a time goes out as its buffer drains, so that memory stays bounded.
"""

from collections.abc import Callable, Iterable, Sequence

from gateway.group import Client, Group, Selection, matched
from gateway.metrics import Metrics
from gateway.product import Batch, Product
from gateway.sink import Sink

Live = dict[Product, int]
"""Feeds by product that go to a client as they come."""


class Audience:
    """All clients. Each method is one step: nothing can come between a snapshot and the rest."""

    def __init__(
        self,
        products: Callable[[], Iterable[Product]],
        schedule: Callable[[Callable[[], None]], object],
        metrics: Metrics,
    ) -> None:
        """Begin empty. `schedule` calls a function at the end of the turn."""
        self._products = products
        self._schedule = schedule
        self._metrics = metrics
        self._groups: dict[frozenset[tuple[str, int]], Group] = {}
        self._lagging: dict[Client, None] = {}
        self._dirty: list[Group] = []

    def hand_out(self, product: Product, batch: Batch) -> None:
        """Make frames due to everyone who has subscribed to any of their feeds."""
        cuts: dict[int, tuple[bytes, int]] = {}
        for mask, groups in product.audience.items():
            hit = mask & batch.mask
            if not hit:
                continue
            cut = cuts.get(hit)
            if cut is None:
                cut = cuts[hit] = batch.of(hit)
            for group in groups:
                if not group.due:
                    self._mark(group)
                group.due.append(cut[0])
                group.messages += cut[1]

    def flush(self) -> None:
        """Write what is due to everyone, and conflate those who lag too far."""
        dirty, self._dirty = self._dirty, []
        delivered = 0
        for group in dirty:
            delivered += self._flush(group)
        self._metrics.deliveries.inc(delivered)

    def introduce(self, product: Product) -> None:
        """Begin a product that has just appeared, for everyone who wants it."""
        for group in self._groups.values():
            mask = matched(group.selection, product.name)
            if not mask:
                continue
            group.listen(product, mask)
            if not group.due:
                self._mark(group)
            group.due += [product.feeds[bit].opening() for bit in _bits(product, mask)]
        for client in self._lagging:
            for bit in _bits(product, matched(client.selection, product.name)):
                client.pending[product, bit] = "subscribe"

    def join(self, sink: Sink) -> Client:
        """Take in a client, which has subscribed to nothing yet."""
        client = Client(sink)
        sink.on_drained = lambda: self._drained(client)
        sink.on_closed = lambda: self.leave(client)
        self._metrics.clients.inc()
        return client

    def leave(self, client: Client) -> None:
        """Forget a client; may be called again."""
        if client.left:
            return
        client.left = True
        client.pending.clear()
        self._remove(client)
        client.sink.close()
        self._metrics.clients.dec()

    def catch_up(self, client: Client) -> None:
        """Write at once what is due to a client and its group."""
        if client.group is not None:
            self._metrics.deliveries.inc(self._flush(client.group))

    def subscribe(
        self,
        client: Client,
        selection: Selection,
        products: Sequence[Product],
        mask: int,
        *,
        want_snapshot: bool,
    ) -> None:
        """Give a client a new selection and begin some feeds, those that it has anew."""
        live = self._detach(client)
        client.selection = selection
        for product in products:
            for bit in _bits(product, mask):
                if want_snapshot:
                    client.pending[product, bit] = "subscribe"
                    live[product] = live.get(product, 0) & ~bit
                elif (product, bit) not in client.pending:
                    live[product] = live.get(product, 0) | bit
                    client.sink.write(product.feeds[bit].trouble())
        self._begin(client, live)

    def unsubscribe(self, client: Client, selection: Selection) -> None:
        """Give a client a smaller selection; it gets nothing else from now on."""
        live = self._detach(client)
        client.selection = selection
        for product in tuple(live):
            live[product] &= matched(selection, product.name)
        for product, bit in tuple(client.pending):
            if not bit & matched(selection, product.name):
                del client.pending[product, bit]
        self._begin(client, live)

    def _mark(self, group: Group) -> None:
        """Have a group flushed at the end of the turn."""
        if not self._dirty:
            self._schedule(self.flush)
        self._dirty.append(group)

    def _flush(self, group: Group) -> int:
        """Flush one group; return how many messages went out."""
        delivered, slow = group.flush()
        for client in slow:
            self._conflate(client)
        return delivered

    def _conflate(self, client: Client) -> None:
        """Stop the increments of a slow client; its snapshots follow when it has drained."""
        for product, mask in self._remove(client).items():
            for bit in _bits(product, mask):
                client.pending[product, bit] = "conflated"
        self._metrics.conflated.inc()
        self._settle(client, {})

    def _drained(self, client: Client) -> None:
        """Go on with the snapshots of a client whose buffer has room again."""
        if client.pending:
            self._begin(client, self._detach(client))

    def _begin(self, client: Client, live: Live) -> None:
        """Send the pending snapshots, as far as the client can take them now."""
        sink, pending = client.sink, client.pending
        while pending and not sink.paused:
            (product, bit), reason = next(iter(pending.items()))
            del pending[product, bit]
            depth = client.depth_of(product.name)
            sink.write(product.feeds[bit].opening(reason=reason, depth=depth))
            sink.allow_waiting()
            live[product] = live.get(product, 0) | bit
        self._settle(client, live)

    def _settle(self, client: Client, live: Live) -> None:
        """Put a client into the group that is due what it has live."""
        if client.pending:
            group = Group(client.selection)
            for product, mask in live.items():
                group.listen(product, mask)
            self._lagging[client] = None
        else:
            self._lagging.pop(client, None)
            if not client.selection:
                return
            # Its members get what is due so far, which the newcomer has in its snapshot; that may
            # conflate the last of them and dissolve the group, so look it up again.
            self._metrics.deliveries.inc(self._flush(self._shared(client.selection)))
            group = self._shared(client.selection)
            client.selection = group.selection
        client.group = group
        group.members[client.sink] = client

    def _shared(self, selection: Selection) -> Group:
        """Return the group of everyone with this selection."""
        key = frozenset(selection.items())
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(selection)
            for product in self._products():
                group.listen(product, matched(selection, product.name))
        return group

    def _detach(self, client: Client) -> Live:
        """Take a client out of its group after all that is due; return what it has live."""
        self.catch_up(client)
        return self._remove(client)

    def _remove(self, client: Client) -> Live:
        """Take a client out of its group; return what it had live."""
        group, client.group = client.group, None
        self._lagging.pop(client, None)
        if group is None:
            return {}
        live = dict(group.masks)
        del group.members[client.sink]
        if not group.members:
            group.dissolve()
            group.due.clear()
            key = frozenset(group.selection.items())
            if self._groups.get(key) is group:
                del self._groups[key]
        return live


def _bits(product: Product, mask: int) -> list[int]:
    """Return the bits of a mask, in the order of the feeds."""
    return [bit for bit in product.feeds if bit & mask]
