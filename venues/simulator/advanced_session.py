"""One client's connection to Advanced Trade's endpoint: `session` with this feed's protocol.

One channel per subscribe message; snapshots come before the acknowledgement; every message but an
error has the connection's next number.
"""

from typing import Any

from venues.simulator import advanced_messages as messages
from venues.simulator.advanced_channels import own_name, read_keys
from venues.simulator.advanced_desk import AdvancedDesk
from venues.simulator.channels import ALL, Wish
from venues.simulator.faults import Said
from venues.simulator.session import Session

_REFUSED = "authentication failure"
"""What the venue says of a channel that it does not know, or that needs a token."""


class AdvancedSession(Session):
    """The state of one connection."""

    def __init__(self, desk: AdvancedDesk, *args: Any) -> None:  # noqa: ANN401 - Session's own
        super().__init__(*args)
        self._desk = desk
        self._next = 0

    def take_number(self) -> int | None:
        """Return the number of the next message, and count on."""
        number, self._next = self._next, self._next + 1
        return number

    def _subscribe(self, message: dict[str, object]) -> None:
        keys = read_keys(message, self._listed())
        if keys is None:
            self.push(messages.error(_REFUSED))
            return
        wish = Wish(keys=keys)
        admitted = self._admit(wish)
        for reason in wish.reasons:
            self.push(messages.error(reason))
        now = self._clock()
        for channel, product in admitted:
            self._keys[channel, product] = None
            self._hub.add(self, (channel, product))
            frame = self._desk.greeting(channel, product, now)
            if frame is not None:
                self._hub.greet(self, Said(channel, product, frame))
        self._acknowledge()

    def _unsubscribe(self, message: dict[str, object]) -> None:
        keys = read_keys(message, [product for _, product in self._keys])
        if keys is None:
            self.push(messages.error(_REFUSED))
            return
        for key in keys:
            if key in self._keys:
                del self._keys[key]
                self._hub.remove(self, key)
        self._acknowledge()

    def _acknowledge(self) -> None:
        channels: dict[str, list[str]] = {}
        for channel, product in self._keys:
            name = own_name(channel)
            channels.setdefault(name, []).append(name if product == ALL else product)
        frame = messages.acknowledgement(channels, self._clock())
        self._hub.greet(self, Said(ALL, ALL, frame))
