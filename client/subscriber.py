"""An async iterator over the gateway's messages that resumes by itself and verifies every link.

Keeps no state of the market: build it from the messages.
"""

from collections.abc import AsyncGenerator, Callable, Sequence

from websockets.exceptions import ConnectionClosed

from client.chain import ChainVerifier
from client.connector import Connector
from client.line import Line
from client.session import OnBroken, Session
from client.subscription import ALL_PRODUCTS, Depth, OnSlow, Position, Subscription
from client.update import Update
from models.canonical import FEEDS, Feed

__all__ = ["Position", "Subscriber", "Update"]


class Subscriber:
    """Messages of some products and feeds, snapshot first, every link verified.

    Iterate with `async for update in subscriber`. It waits for a gateway that is not there yet.
    After any break it connects again and goes on after the last message that it handed out:
    nothing is missing, nothing comes twice, no snapshot comes again. Where that cannot be had,
    the chain goes on with a snapshot whose `recovered` is false and whose `reason` says why. The
    iteration ends only by an error or by its consumer; iterating again goes on where it ended.

    One iteration at a time. Memory is bounded: what the consumer does not take waits in the
    gateway.

    Attributes: verifier, with its counts; messages, how many canonical ones were handed out.
    """

    def __init__(  # noqa: PLR0913  # options by name, each of its own
        self,
        url: str,
        products: Sequence[str] = (ALL_PRODUCTS,),
        feeds: Sequence[Feed] = FEEDS,
        *,
        depth: Depth = "full",
        max_rate: float | None = None,
        on_slow: OnSlow = "conflate",
        on_broken: OnBroken = "resync",
        resume: Position | None = None,
        namespace: str | None = None,
        api_key: str | None = None,
        give_up_after_s: float | None = None,
        notify: Callable[[str], None] | None = None,
    ) -> None:
        """Prepare; nothing happens before the iteration.

        `depth`: levels a side in book snapshots. The whole book by default, since changes come
        whole: from fewer levels the deeper part of the book cannot be known. Say 50 if only the
        top is looked at.

        `max_rate`: at most so many messages a second of each chain, each a snapshot; such chains
        begin anew after a break.

        `on_slow`: what the gateway does when the consumer falls far behind. `conflate` drops
        increments, and the next snapshot's `recovered` is false; `disconnect` drops the
        connection, and since it is resumed nothing is missing, as long as the log reaches back.

        `on_broken`: what to do when a message does not link. `resync` asks the gateway for what is
        missing, and the consumer sees nothing of it; `raise` ends the iteration.

        `resume`: go on from a stored `position`.

        `namespace`: subscribe to this replay, such as `replay-monday`, instead of what is live; its
        positions are its own.

        `give_up_after_s`: how long to try for a connection each time, none for ever. `notify` is
        told in a sentence when the connection comes and goes, and when a chain breaks or begins
        anew.

        Raises:
            ValueError: the options do not fit together, or `resume` is no position.
        """
        if resume is not None and max_rate is not None:
            raise ValueError("max_rate sends only the newest state: there is nothing to resume")
        notify = notify or _ignore
        subscription = Subscription(
            products, feeds, depth=depth, max_rate=max_rate, on_slow=on_slow, namespace=namespace
        )
        self._connector = Connector(url, api_key, give_up_after_s, notify)
        self._session = Session(subscription, resume, on_broken, notify)
        self.messages = 0

    @property
    def verifier(self) -> ChainVerifier:
        """The proof so far."""
        return self._session.verifier

    @property
    def connects(self) -> int:
        """How often a connection was made."""
        return self._connector.connects

    @property
    def position(self) -> Position:
        """How far the consumer has come, the update that was handed out last included.

        Plain JSON: store it, and hand it to the next process as `resume`. Costs a pass over all
        chains.
        """
        return self._session.position

    async def __aiter__(self) -> AsyncGenerator[Update, None]:
        """Iterate.

        Raises:
            ChainBrokenError: a message is missing, and `on_broken` is `raise`.
            GatewayRefusedError: the gateway does not accept the key or the subscription.
            GatewayUnavailableError: no gateway answered within `give_up_after_s`.
        """
        line, take = Line(self._connector, self._session), self._session.receive
        try:
            while True:
                receive = await line.open()
                try:
                    while True:
                        update = take(await receive(decode=False))
                        if update is None:
                            line.tend()
                        else:
                            self.messages += 1
                            yield update
                except ConnectionClosed as closed:
                    await line.ended(closed)
        finally:
            await line.close()


def _ignore(_: str) -> None:
    """Tell nobody."""
