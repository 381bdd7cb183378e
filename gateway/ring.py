"""The ring: the newest messages of the log in memory, for those who come back soon.

Keeps the frames that were built for everybody, so that it costs one append per message of the
log. `ladder` is its user.
"""

from collections import deque

from gateway.product import Batch, Product


class Ring:
    """Newest messages of all products, together at most so many bytes, the oldest make room.

    Attributes: after, upto: it holds every message with a position above `after`, up to `upto`;
    newest_us, when that last one was stored, 0 before any.
    """

    def __init__(self, max_bytes: int) -> None:
        self.after = 0
        self.upto = 0
        self.newest_us = 0
        self._max_bytes = max_bytes
        self._used_bytes = 0
        self._order: deque[Product] = deque()

    def start(self, after: int) -> None:
        """Begin empty: the next message is the first one above this position."""
        self.after = self.upto = after

    def append(self, product: Product, batch: Batch) -> None:
        """Take the log's next message."""
        product.recent.append(batch)
        self._order.append(product)
        self.upto = batch.position
        self.newest_us = batch.time_us
        self._used_bytes += batch.size_bytes
        while self._used_bytes > self._max_bytes:
            oldest = self._order.popleft().recent.popleft()
            self._used_bytes -= oldest.size_bytes
            self.after = oldest.position

    def since(self, product: Product, position: int) -> list[Batch]:
        """Return a product's messages above a position, in order; it must not be below `after`."""
        found = []
        for batch in reversed(product.recent):
            if batch.position <= position:
                break
            found.append(batch)
        found.reverse()
        return found

    def back_to(self, product: Product, bit: int, seq: int) -> list[Batch] | None:
        """Return the messages from the newest on that has a feed's message `seq`; none if none has.

        That the oldest one links to `seq` is not enough: statuses between them may be gone.
        """
        oldest = self.oldest(product, bit)
        if oldest is None or (seq < oldest and product.feeds[bit].restart is None):
            return None
        found: list[Batch] = []
        for batch in reversed(product.recent):
            found.append(batch)
            if batch.mask & bit and any(
                head.seq == seq and head.type != "status" for head in batch.only(bit)[0]
            ):
                return found[::-1]
        return None

    def oldest(self, product: Product, bit: int) -> int | None:
        """Return the number of a feed's oldest message; none if there is none."""
        for batch in product.recent:
            for head in batch.only(bit)[0] if batch.mask & bit else ():
                if head.type != "status":
                    return head.seq
        return None
