"""The gap ledger: every gap that this gateway has seen announced, open and past.

Fed with the canonical log's status lines. Bounded: the oldest closed gap makes room. The full
history, with every step of each recovery, is in the workflows; `ledgerflux resyncs` lists it.
"""

from collections import OrderedDict

from pydantic import BaseModel

from models.canonical import Status

MAX_CLOSED = 1000
"""Closed gaps that are remembered."""


class GapView(BaseModel):
    """One gap. Times in microseconds; `after` and `before` bound what was missing, exclusively.

    `state`: of the feed, as it was last announced with this gap.
    """

    resync_id: str
    venue: str
    product: str
    feed: str
    after: int
    before: int | None
    opened_us: int
    closed_us: int | None = None
    state: str = "gap"

    @property
    def is_open(self) -> bool:
        """Whether it has not been closed yet."""
        return self.closed_us is None


class Ledger:
    """Gaps by their resync id, in the order in which they opened."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, GapView] = OrderedDict()
        self._closed: OrderedDict[str, GapView] = OrderedDict()

    def take(self, status: Status) -> None:
        """Note what a status line says about a gap; the same line again changes nothing."""
        name, gap = status.resync_id, status.gap
        if name is None:
            return
        if status.state == "live":
            view = self._open.pop(name, None)
            if view is not None:
                view.closed_us, view.state = status.since, status.state
                self._closed[name] = view
                if len(self._closed) > MAX_CLOSED:
                    self._closed.popitem(last=False)
        elif name in self._open:
            self._open[name].state = status.state
        elif gap is not None:
            self._open[name] = GapView(
                resync_id=name,
                venue=status.venue,
                product=status.product,
                feed=status.feed,
                after=gap.after,
                before=gap.before,
                opened_us=status.since,
                state=status.state,
            )

    def gaps(self) -> list[GapView]:
        """Return open gaps first, then closed ones, the newest first in each."""
        return [*reversed(self._open.values()), *reversed(self._closed.values())]
