"""The wire text of Advanced Trade's channels, rendered once per message for all who listen.

Pure. The same engine's numbers as Exchange's messages, in this feed's words: an envelope with
events, `offer` for the ask side, trade ids as text, the maker's side in capitals.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from models.numbers import us_to_iso
from venues.simulator.catalogue import exact, short
from venues.simulator.events import LevelChange
from venues.simulator.exchange import Listed
from venues.simulator.history import Print
from venues.simulator.numbering import UNNUMBERED

_SIDES = {"buy": "bid", "sell": "offer"}
_NO_TIME = "1970-01-01T00:00:00Z"
"""What the levels of a snapshot carry."""


def ticker(listed: Listed, kind: str, now_us: int, channel: str = "ticker") -> str:
    """Render the product's last price and best prices; the batched channel leaves out the latter.

    Raises:
        ValueError: the product has not traded yet.
    """
    last = listed.history.last
    if last is None:
        raise ValueError(f"{listed.product.id} has not traded yet")
    product, day = listed.product, listed.history.day()
    pp, sp = product.price_places, product.size_places
    body = (
        f'"type":"ticker","product_id":"{product.id}","price":"{short(last.match.price, pp)}",'
        f'"volume_24_h":"{exact(day.volume, sp)}","low_24_h":"{short(day.low, pp)}",'
        f'"high_24_h":"{short(day.high, pp)}","low_52_w":"{short(day.low, pp)}",'
        f'"high_52_w":"{short(day.high, pp)}","price_percent_chg_24_h":"0"'
    )
    if channel == "ticker":
        body += f"{_best(listed, 'bid')}{_best(listed, 'ask')}"
    return envelope(channel, now_us, f'{{"type":"{kind}","tickers":[{{{body}}}]}}')


def _best(listed: Listed, name: str) -> str:
    side = listed.engine.bids if name == "bid" else listed.engine.asks
    price = side.best()
    if price is None:
        return f',"best_{name}":"0","best_{name}_quantity":"0"'
    size = exact(side.levels[price].total, listed.product.size_places)
    text = short(price, listed.product.price_places)
    return f',"best_{name}":"{text}","best_{name}_quantity":"{size}"'


def market_trades(listed: Listed, kind: str, prints: Sequence[Print], now_us: int) -> str:
    """Render prints, given in order: the newest comes first."""
    product = listed.product
    rows = ",".join(
        f'{{"trade_id":"{one.match.trade_id}","product_id":"{product.id}",'
        f'"price":"{short(one.match.price, product.price_places)}",'
        f'"size":"{short(one.match.size, product.size_places)}",'
        f'"side":"{one.match.side.upper()}","time":"{us_to_iso(one.time_us)}"}}'
        for one in reversed(prints)
    )
    return envelope("market_trades", now_us, f'{{"type":"{kind}","trades":[{rows}]}}')


def level2_update(listed: Listed, changes: Iterable[LevelChange], now_us: int) -> str:
    """Render the levels' new absolute sizes."""
    time = us_to_iso(now_us)
    rows = ",".join(_level(listed, side, price, new, time) for side, price, _, new in changes)
    return _level2(listed, "update", rows, now_us)


def level2_snapshot(listed: Listed, now_us: int) -> str:
    """Render the whole book by price, best first."""
    engine = listed.engine
    rows = ",".join(
        _level(listed, name, price, side.levels[price].total, _NO_TIME)
        for name, side in (("buy", engine.bids), ("sell", engine.asks))
        for price in side.prices()
    )
    return _level2(listed, "snapshot", rows, now_us)


def _level2(listed: Listed, kind: str, rows: str, now_us: int) -> str:
    event = f'{{"type":"{kind}","product_id":"{listed.product.id}","updates":[{rows}]}}'
    return envelope("l2_data", now_us, event)


def _level(listed: Listed, side: str, price: int, size: int, time: str) -> str:
    product = listed.product
    quantity = exact(size, product.size_places) if size else "0"
    return (
        f'{{"side":"{_SIDES[side]}","event_time":"{time}",'
        f'"price_level":"{exact(price, product.price_places)}","new_quantity":"{quantity}"}}'
    )


def heartbeat(counter: int, now_us: int) -> str:
    """Render a heartbeat; the counter is the server's, not the connection's."""
    current = us_to_iso(now_us).replace("T", " ").removesuffix("Z") + " +0000 UTC"
    event = f'{{"current_time":"{current}","heartbeat_counter":{counter}}}'
    return envelope("heartbeats", now_us, event)


def status(listings: Sequence[Mapping[str, object]], kind: str, now_us: int) -> str:
    """Render all products."""
    products = [{**one, "product_type": "SPOT"} for one in listings]
    return envelope("status", now_us, _text({"type": kind, "products": products}))


def acknowledgement(channels: Mapping[str, Sequence[str]], now_us: int) -> str:
    """Render `subscriptions`: everything that the connection is subscribed to by now."""
    return envelope("subscriptions", now_us, _text({"subscriptions": channels}))


def error(message: str) -> str:
    """Render an error, which is no envelope and has no number."""
    return _text({"type": "error", "message": message})


def envelope(channel: str, now_us: int, events: str) -> str:
    """Wrap rendered events; times here have nine digits."""
    time = us_to_iso(now_us).replace("Z", "000Z")
    return f'{{"channel":"{channel}","timestamp":"{time}",{UNNUMBERED},"events":[{events}]}}'


def _text(value: object) -> str:
    return msgspec.json.encode(value).decode()
