"""Faults that a person or a test injects, and what each does to a message or a REST answer.

Pure: takes the time, touches no socket. Faults act on delivery only; the market and the ground
truth know nothing of them (except `delist`, which also halts the product).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from venues.simulator.fault_spec import STREAM_KINDS, Endpoint, FaultSpec
from venues.simulator.garbage import VARIANTS, garble, spoil

_KEPT = 200
_HELD_MOST = 50_000
"""Messages that one stall holds back; what comes after these is lost."""
_US_PER_MS = 1000


class TooManyFaultsError(Exception):
    """So many faults are active that no more can be injected; clear some first.

    Attributes: limit.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} faults are active already: clear some with DELETE /sim/faults")
        self.limit = limit


class Said(NamedTuple):
    """A message on its way to subscribers."""

    channel: str
    product: str
    text: str
    bad: bool = False
    """Made by a fault; no other fault touches it."""
    numbers: Mapping[int, int] | None = None
    """Its number on each connection that counts its messages."""


@dataclass(slots=True)
class Fault:
    """One injected fault and what it has done so far."""

    id: int
    spec: FaultSpec
    until_us: int | None
    left: int | None
    to_skip: int
    conns: frozenset[int] = frozenset()
    hits: int = 0
    held: dict[tuple[str, str, int | None], list[Said]] = field(default_factory=dict)

    def active(self, now_us: int) -> bool:
        """Tell whether it can still hit."""
        return self.left != 0 and (self.until_us is None or now_us < self.until_us)

    def take(self) -> bool:
        """Count one thing that matches; tell whether it is hit."""
        if self.to_skip:
            self.to_skip -= 1
            return False
        self.hits += 1
        if self.left is not None:
            self.left -= 1
        return True

    def holds(self) -> bool:
        """Tell whether a message that is hit is kept for later delivery."""
        if self.spec.kind == "stall" and self.spec.hold:
            return sum(map(len, self.held.values())) < _HELD_MOST
        return self.spec.kind == "reorder"

    def matches(self, said: Said, conn: int | None, *, greeting: bool) -> bool:
        """Tell whether a message is of those that this fault acts on."""
        spec = self.spec
        if spec.product not in {None, said.product} or spec.channel not in {None, said.channel}:
            return False
        # A stall is of the connections that were open when it began: a new one is healthy.
        if spec.kind == "stall" or spec.conn is not None:
            if conn not in self.conns:
                return False
        elif conn is not None and not greeting:
            return False
        if spec.type is None:
            return not greeting or spec.kind == "stall"
        return said.text.startswith((f'{{"type":"{spec.type}"', f'{{"channel":"{spec.type}"'))

    def describe(self, now_us: int) -> dict[str, object]:
        """Return what GET /sim/faults shows."""
        return {
            "id": self.id,
            "fault": self.spec.model_dump(exclude_defaults=True),
            "active": self.active(now_us),
            "hits": self.hits,
            "left": self.left,
        }


class Faults:
    """All injected faults: those that can still hit, and the last that have ended."""

    def __init__(self) -> None:
        self._next = 0
        self._live: list[Fault] = []
        self._ended: list[Fault] = []

    @property
    def quiet(self) -> bool:
        """True while nothing is injected, so that delivery can take the short way."""
        return not self._live

    def inject(self, spec: FaultSpec, now_us: int, conns: Iterable[int] = ()) -> Fault:
        """Begin a fault; `conns` are the open connections, which `conn` narrows to one.

        Raises:
            TooManyFaultsError: too many are active already.
        """
        if len(self._live) >= _KEPT:
            raise TooManyFaultsError(_KEPT)
        self._next += 1
        open_now = frozenset(conns)
        fault = Fault(
            id=self._next,
            spec=spec,
            until_us=None if spec.duration_ms is None else now_us + spec.duration_ms * _US_PER_MS,
            left=0 if spec.kind == "disconnect" else spec.budget,
            to_skip=spec.skip,
            conns=open_now if spec.conn is None else open_now & {spec.conn},
        )
        (self._ended if spec.kind == "disconnect" else self._live).append(fault)
        self._forget()
        return fault

    def clear(self, fault_id: int | None = None) -> list[Fault]:
        """End one fault, or all; returns them, with the messages that they still held."""
        ended = [fault for fault in self._live if fault_id in {None, fault.id}]
        self._live = [fault for fault in self._live if fault not in ended]
        for fault in ended:
            fault.left = 0
        self._ended += ended
        self._forget()
        return ended

    def expire(self, now_us: int) -> list[Fault]:
        """Retire what has ended; returns those that held messages until now."""
        over = [fault for fault in self._live if not fault.active(now_us) and not _waits(fault)]
        self._live = [fault for fault in self._live if fault not in over]
        self._ended += over
        self._forget()
        return [fault for fault in over if fault.held]

    def describe(self, now_us: int) -> list[dict[str, object]]:
        """Return every fault that is remembered, oldest first."""
        everything = sorted([*self._ended, *self._live], key=lambda fault: fault.id)
        return [fault.describe(now_us) for fault in everything]

    def delisted(self, product: str, now_us: int) -> bool:
        """Tell whether the product has vanished."""
        return any(
            fault.spec.kind == "delist" and fault.spec.product == product and fault.active(now_us)
            for fault in self._live
        )

    def alter(
        self, said: Said, conn: int | None, now_us: int, *, greeting: bool = False
    ) -> list[Said]:
        """Return what is delivered in place of a message, in order.

        Called once per message with no `conn`, for faults of all connections, and then once
        per connection, for those of single ones.
        """
        batch = [said]
        for fault in self._live:
            if fault.spec.kind in STREAM_KINDS:
                batch = [
                    out
                    for one in batch
                    for out in self._apply(fault, one, conn, now_us, greeting=greeting)
                ]
        return batch

    def answer(
        self, endpoint: Endpoint, product: str | None, now_us: int, kinds: frozenset[str]
    ) -> Iterator[FaultSpec]:
        """Yield the REST faults of these kinds that hit a request, counting each."""
        for fault in list(self._live):
            spec = fault.spec
            if spec.kind not in kinds or not fault.active(now_us):
                continue
            if spec.product not in {None, product} or spec.endpoint not in {None, endpoint}:
                continue
            if fault.take():
                yield spec

    def _apply(
        self, fault: Fault, said: Said, conn: int | None, now_us: int, *, greeting: bool
    ) -> list[Said]:
        if said.bad or not fault.matches(said, conn, greeting=greeting):
            return [said]
        key = (said.channel, said.product, conn)
        if fault.spec.kind == "reorder" and key in fault.held:
            return [said, *fault.held.pop(key)]
        if not fault.active(now_us) or not fault.take():
            return [said]
        if fault.holds():
            fault.held.setdefault(key, []).append(said)
        return _hit(fault, said)

    def _forget(self) -> None:
        del self._ended[:-_KEPT]


def _hit(fault: Fault, said: Said) -> list[Said]:
    """Return what comes at once in place of a message that was hit."""
    match fault.spec.kind:
        case "duplicate":
            return [said, said]
        case "malformed":
            return _insert(fault.spec, said, spoil(said.text))
        case "garbage":
            variant = fault.spec.variant or VARIANTS[fault.hits % len(VARIANTS)]
            return _insert(fault.spec, said, garble(said.text, variant))
    return []


def _insert(spec: FaultSpec, said: Said, bad: str) -> list[Said]:
    damaged = said._replace(text=bad, bad=True)
    return [damaged] if spec.replace else [damaged, said]


def _waits(fault: Fault) -> bool:
    """Tell whether a used-up reorder still holds a message that the next one lets go."""
    return fault.spec.kind == "reorder" and bool(fault.held) and fault.until_us is None
