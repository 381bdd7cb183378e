"""Who is due what: subscriptions, groups of equal ones, and the conflation of slow clients.

A client is in a shared group while all that it asked for is live. While snapshots are pending
(it lags, and got none of the increments) or feeds are being resumed it is in a group of its own
with what is live already; one snapshot at a time goes out as its buffer drains, so that memory
stays bounded. Feeds at a bounded rate are in no group: `pacing` sends them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from gateway.group import (
    Backfill,
    Client,
    Group,
    Key,
    Opening,
    Selection,
    live_of,
    matched,
    paced_of,
)
from gateway.metrics import Metrics
from gateway.pacing import Loop, Pacer
from gateway.product import Batch, Product
from gateway.protocol import TOO_SLOW
from gateway.sink import Sink

Live = dict[Product, int]
"""Feeds by product that go to a client as they come."""

Resume = Callable[[Client, Key, int], bytes | Opening | None]
"""Gives the past of a feed, or a snapshot's opening if it cannot; or none, and it comes later."""

_SUBSCRIBE = Opening("subscribe")
_CONFLATED = Opening("conflated")


class Audience:
    """All clients. Each method is one step: nothing can come between a snapshot and the rest."""

    def __init__(
        self,
        products: Callable[[], Iterable[Product]],
        loop: Loop,
        metrics: Metrics,
    ) -> None:
        """Begin empty."""
        self._products = products
        self._loop = loop
        self._metrics = metrics
        self._pacer = Pacer(loop, metrics)
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
        if product.paces:
            self._pacer.touch(product, batch)

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
            mask = live_of(group.selection, product.name)
            if mask:
                group.listen(product, mask)
                if not group.due:
                    self._mark(group)
                group.due += [product.feeds[bit].opening() for bit in _bits(product, mask)]
            for bit in _bits(product, paced_of(group.selection, product.name)):
                for client in tuple(group.members.values()):
                    client.sink.write(product.feeds[bit].opening())
                    self._pace(client, (product, bit))
        for client in tuple(self._lagging):
            for bit in _bits(product, matched(client.selection, product.name)):
                client.pending[product, bit] = _SUBSCRIBE
            if not client.sink.paused:
                self._begin(client, self._detach(client))

    def join(self, sink: Sink) -> Client:
        """Take in a client, which has subscribed to nothing yet."""
        client = Client(sink)
        sink.on_drained = lambda: self._drained(client)
        sink.on_closed = lambda: self.leave(client)
        self._metrics.clients.inc()
        return client

    def leave(self, client: Client) -> None:
        """Forget a client, and let nothing more be written to it; may be called again."""
        if client.left:
            return
        self.release(client)
        client.sink.close()

    def release(self, client: Client) -> None:
        """Forget a client whose connection goes on elsewhere."""
        client.left = True
        client.pending.clear()
        client.backfills.clear()
        if client.backfilling is not None:
            client.backfilling.cancel()
        self._pacer.remove(client)
        self._remove(client)
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
        points: Mapping[Key, int],
        resume: Resume,
    ) -> None:
        """Give a client a new selection and begin some feeds, those that it has anew.

        Those in `points` go on after a number, if `resume` can tell what follows it.
        """
        live = self._detach(client)
        if client.left:
            return
        client.selection = selection
        for product in products:
            for bit in _bits(product, mask):
                key = (product, bit)
                self._end(client, key, live)
                if key in points:
                    self._resume(client, key, live, points[key], resume)
                elif want_snapshot:
                    client.pending[key] = _SUBSCRIBE
                elif key not in client.pending:
                    client.sink.write(product.feeds[bit].trouble())
                    self._admit(client, key, live)
        self._begin(client, live)

    def unsubscribe(self, client: Client, selection: Selection) -> None:
        """Give a client a smaller selection; it gets nothing else from now on."""
        live = self._detach(client)
        if client.left:
            return
        client.selection = selection
        for product in tuple(live):
            live[product] &= matched(selection, product.name)
        for key in (*client.pending, *client.backfills, *self._pacer.keys(client)):
            if not key[1] & matched(selection, key[0].name):
                client.pending.pop(key, None)
                self._end(client, key, live)
        self._begin(client, live)

    def go_live(self, client: Client, key: Key, frames: bytes) -> None:
        """Send the last of a feed's past, and from now on what comes."""
        live = self._detach(client)
        if client.left:
            return
        del client.backfills[key]
        client.sink.write(frames)
        client.sink.allow_waiting()
        self._admit(client, key, live)
        self._begin(client, live)

    def give_up(self, client: Client, key: Key, opening: Opening) -> None:
        """Begin a feed that cannot be resumed with a snapshot."""
        live = self._detach(client)
        if client.left:
            return
        del client.backfills[key]
        client.pending[key] = opening
        self._begin(client, live)

    def _resume(self, client: Client, key: Key, live: Live, from_seq: int, resume: Resume) -> None:
        """Begin a feed with what follows a number."""
        client.pending.pop(key, None)
        answer = resume(client, key, from_seq)
        if answer is None:
            client.backfills[key] = Backfill(from_seq)
        elif isinstance(answer, Opening):
            client.pending[key] = answer
        else:
            client.sink.write(answer)
            client.sink.allow_waiting()
            self._admit(client, key, live)

    def _admit(self, client: Client, key: Key, live: Live) -> None:
        """Let a feed that has begun come to a client as it wanted it."""
        product, bit = key
        if bit & paced_of(client.selection, product.name):
            self._pace(client, key)
        else:
            live[product] = live.get(product, 0) | bit

    def _pace(self, client: Client, key: Key) -> None:
        product, bit = key
        depth = client.depth_of(product.name)
        self._pacer.add(client, key, client.rate_of(product.name, bit), depth)

    def _end(self, client: Client, key: Key, live: Live) -> None:
        """Let nothing more of a feed come, whatever way it does."""
        product, bit = key
        live[product] = live.get(product, 0) & ~bit
        client.backfills.pop(key, None)
        self._pacer.remove(client, (key,))

    def _mark(self, group: Group) -> None:
        """Have a group flushed at the end of the turn."""
        if not self._dirty:
            self._loop.call_soon(self.flush)
        self._dirty.append(group)

    def _flush(self, group: Group) -> int:
        """Flush one group; return how many messages went out."""
        delivered, slow = group.flush()
        for client in slow:
            self._conflate(client)
        return delivered

    def _conflate(self, client: Client) -> None:
        """Stop the increments of a slow client; its snapshots follow when it has drained."""
        if client.closes_when_slow:
            self._metrics.too_slow.inc()
            client.sink.hang_up(TOO_SLOW, "you did not read fast enough; come again and resume")
            return
        for product, mask in self._remove(client).items():
            for bit in _bits(product, mask):
                client.pending[product, bit] = _CONFLATED
        self._metrics.conflated.inc()
        self._settle(client, {})

    def _drained(self, client: Client) -> None:
        """Go on with the snapshots of a client whose buffer has room again."""
        self._pacer.resume(client)
        if client.pending:
            self._begin(client, self._detach(client))

    def _begin(self, client: Client, live: Live) -> None:
        """Send the pending snapshots, as far as the client can take them now."""
        sink, pending = client.sink, client.pending
        while pending and not sink.paused:
            key, opening = next(iter(pending.items()))
            del pending[key]
            product, bit = key
            frames = product.feeds[bit].opening(
                reason=opening.reason,
                depth=client.depth_of(product.name),
                recovered=not opening.refusal,
            )
            sink.write(opening.refusal + frames)
            sink.allow_waiting()
            self._admit(client, key, live)
        self._settle(client, live)

    def _settle(self, client: Client, live: Live) -> None:
        """Put a client into the group that is due what it has live."""
        if client.left:
            return
        if client.pending or client.backfills:
            group = Group(client.selection)
            for product, mask in live.items():
                group.listen(product, mask)
            self._note_lag(client, lags=True)
        else:
            self._note_lag(client, lags=False)
            if not client.selection:
                return
            # Its members get what is due so far, which the newcomer has in its snapshot; that may
            # conflate the last of them and dissolve the group, so look it up again.
            self._metrics.deliveries.inc(self._flush(self._shared(client.selection)))
            group = self._shared(client.selection)
            client.selection = group.selection
        client.group = group
        group.members[client.sink] = client

    def _note_lag(self, client: Client, *, lags: bool) -> None:
        """Note whether a client is still owed something before it can share a group."""
        if lags == (client in self._lagging):
            return
        if lags:
            self._lagging[client] = None
            self._metrics.lagging.inc()
        else:
            del self._lagging[client]
            self._metrics.lagging.dec()

    def _shared(self, selection: Selection) -> Group:
        """Return the group of everyone with this selection."""
        key = frozenset(selection.items())
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(selection)
            for product in self._products():
                group.listen(product, live_of(selection, product.name))
        return group

    def _detach(self, client: Client) -> Live:
        """Take a client out of its group after all that is due; return what it has live."""
        self.catch_up(client)
        return self._remove(client)

    def _remove(self, client: Client) -> Live:
        """Take a client out of its group; return what it had live."""
        group, client.group = client.group, None
        self._note_lag(client, lags=False)
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
