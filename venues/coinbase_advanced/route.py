"""What ingest reads of an Advanced Trade frame: channel, products and `sequence_num`.

Products stand in the events of an envelope, one level deeper in most channels. One pass over the
frame, which skips everything else unread. The counterpart is `streaming.ingest`.
"""

from typing import Annotated

import msgspec

from models.feed import Routed
from models.subjects import META_PRODUCT

_OF_NOBODY = (META_PRODUCT,)
_OF_ALL: tuple[str, ...] = ()


class _Item(msgspec.Struct):
    product_id: str = META_PRODUCT


class _Event(msgspec.Struct):
    """An event of any channel that names products."""

    product_id: str = ""
    tickers: list[_Item] = []
    trades: list[_Item] = []
    candles: list[_Item] = []


class _Envelope(msgspec.Struct):
    """Errors have a `type` and neither channel nor number."""

    channel: str = ""
    type: str = ""
    sequence_num: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None = None
    events: list[_Event] = []


_decode = msgspec.json.Decoder(_Envelope).decode


def route(frame: bytes) -> Routed:
    """Return the channel, every product that the frame speaks of, and its `sequence_num`.

    A heartbeat speaks of the whole connection: each product's log tells that its line was alive.

    Raises:
        msgspec.DecodeError: it is no JSON, or not an envelope.
    """
    head = _decode(frame)
    kind = head.channel or head.type
    if kind == "heartbeats":
        return kind, _OF_ALL, head.sequence_num
    names: dict[str, None] = {}
    for event in head.events:
        if event.product_id:
            names[event.product_id] = None
        for items in (event.tickers, event.trades, event.candles):
            for item in items:
                names[item.product_id] = None
    return kind, tuple(names) or _OF_NOBODY, head.sequence_num
