"""The wire text of every channel, rendered once per message for all who listen.

Pure. Text differs by channel as it does on the real feed: `full` and level2 carry every digit,
matches and tickers drop trailing zeros, and a zero size is spelled in several ways.
"""

import zlib
from collections.abc import Iterable

import msgspec

from venues.simulator.catalogue import Product, exact, short
from venues.simulator.engine import BookSide, MatchingEngine
from venues.simulator.events import Change, Done, Event, LevelChange, Match, Open, Received, Side
from venues.simulator.history import History, Print

OPPOSITE: dict[Side, Side] = {"buy": "sell", "sell": "buy"}
"""Maker and taker side of one trade."""

_ZEROS = ("0.00000000", "0", "0.0", "0.00")
_ODD = 0x9E3779B97F4A7C15F39CC0605CEDC835
_MASK = (1 << 128) - 1


class Wire:
    """Renders the messages of one product; `time` is ISO text."""

    def __init__(self, product: Product) -> None:
        self.product = product
        self._id = product.id
        self._pp = product.price_places
        self._sp = product.size_places
        self._salt = zlib.crc32(product.id.encode()) * _ODD
        self._zero = 0

    def order_id(self, number: int) -> str:
        """Spell an engine's order number as a UUID, one to one."""
        text = f"{(number * _ODD + self._salt) & _MASK:032x}"
        return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-a{text[17:20]}-{text[20:]}"

    def full(self, event: Event, time: str) -> str:
        """Render one message of the `full` channel."""
        if isinstance(event, Match):
            return self.match(event, time)
        if isinstance(event, Received):
            return self._received(event, time)
        body = f'"order_id":"{self.order_id(event.order)}","side":"{event.side}"'
        if isinstance(event, Open):
            kind = "open"
            body += (
                f',"price":"{exact(event.price, self._pp)}"'
                f',"remaining_size":"{exact(event.remaining, self._sp)}"'
            )
        elif isinstance(event, Done):
            kind = "done"
            body += f',"reason":"{event.reason}"{self._left(event)}'
        else:
            kind = "change"
            body += self._change(event)
        return f'{{"type":"{kind}",{body},{self._tail(event.seq, time)}}}'

    def match(self, match: Match, time: str, kind: str = "match") -> str:
        """Render a trade with its maker's side; `kind` is match or last_match."""
        return (
            f'{{"type":"{kind}","trade_id":{match.trade_id},'
            f'"maker_order_id":"{self.order_id(match.maker)}",'
            f'"taker_order_id":"{self.order_id(match.taker)}","side":"{match.side}",'
            f'"size":"{short(match.size, self._sp)}","price":"{short(match.price, self._pp)}",'
            f"{self._tail(match.seq, time)}}}"
        )

    def ticker(self, match: Match, time: str, engine: MatchingEngine, history: History) -> str:
        """Render the ticker after a trade, with the taker's side and the book as it is now."""
        day, pp, sp = history.day(), self._pp, self._sp
        bid, bid_size = self._best(engine.bids)
        ask, ask_size = self._best(engine.asks)
        return (
            f'{{"type":"ticker","sequence":{match.seq},"product_id":"{self._id}",'
            f'"price":"{short(match.price, pp)}","open_24h":"{short(day.open, pp)}",'
            f'"volume_24h":"{exact(day.volume, sp)}","low_24h":"{short(day.low, pp)}",'
            f'"high_24h":"{short(day.high, pp)}","volume_30d":"{exact(history.month_volume, sp)}",'
            f'"best_bid":"{bid}","best_bid_size":"{bid_size}",'
            f'"best_ask":"{ask}","best_ask_size":"{ask_size}",'
            f'"side":"{OPPOSITE[match.side]}","time":"{time}","trade_id":{match.trade_id},'
            f'"last_size":"{short(match.size, sp)}"}}'
        )

    def heartbeat(self, sequence: int, last_trade_id: int, time: str) -> str:
        """Render a heartbeat; it tells the current sequence and consumes none."""
        return (
            f'{{"type":"heartbeat","last_trade_id":{last_trade_id},'
            f'"product_id":"{self._id}","sequence":{sequence},"time":"{time}"}}'
        )

    def l2update(self, changes: Iterable[LevelChange], time: str) -> str:
        """Render the levels' new absolute sizes."""
        pp, sp = self._pp, self._sp
        rows = ",".join(
            f'["{side}","{exact(price, pp)}","{exact(new, sp) if new else self._nil()}"]'
            for side, price, _, new in changes
        )
        return f'{{"type":"l2update","product_id":"{self._id}","changes":[{rows}],"time":"{time}"}}'

    def snapshot(self, engine: MatchingEngine, time: str) -> str:
        """Render the whole book by price, best first."""
        return (
            f'{{"type":"snapshot","product_id":"{self._id}","asks":[{self._rows(engine.asks)}],'
            f'"bids":[{self._rows(engine.bids)}],"time":"{time}"}}'
        )

    def rest_book(self, engine: MatchingEngine, level: int, time: str) -> str:
        """Render REST's book: 1 the best level, 2 all levels, 3 all orders."""
        bids, asks = (self._rest_side(side, level) for side in (engine.bids, engine.asks))
        return (
            f'{{"bids":[{bids}],"asks":[{asks}],"sequence":{engine.sequence},'
            f'"auction_mode":false,"auction":null,"time":"{time}"}}'
        )

    def rest_ticker(self, last: Print, time: str, engine: MatchingEngine, history: History) -> str:
        """Render REST's ticker."""
        return (
            f'{{"ask":"{self._best(engine.asks)[0]}","bid":"{self._best(engine.bids)[0]}",'
            f'"volume":"{exact(history.day().volume, self._sp)}",'
            f'"trade_id":{last.match.trade_id},"price":"{short(last.match.price, self._pp)}",'
            f'"size":"{short(last.match.size, self._sp)}","time":"{time}","rfq_volume":"0"}}'
        )

    def rest_trade(self, match: Match, time: str) -> str:
        """Render one trade of REST's page, with its maker's side."""
        return (
            f'{{"trade_id":{match.trade_id},"side":"{match.side}",'
            f'"size":"{exact(match.size, self._sp)}","price":"{exact(match.price, self._pp)}",'
            f'"time":"{time}"}}'
        )

    def rest_candles(self, history: History, granularity_s: int, start: float, end: float) -> str:
        """Render REST's candles: JSON numbers with exactly the digits they have."""
        pp, sp = self._pp, self._sp
        rows = (
            f"[{bar.start},{short(bar.low, pp)},{short(bar.high, pp)},"
            f"{short(bar.open, pp)},{short(bar.close, pp)},{short(bar.volume, sp)}]"
            for bar in history.candles(granularity_s, start, end)
        )
        return f"[{','.join(rows)}]"

    def rest_stats(self, history: History) -> str:
        """Render REST's 24-hour statistics."""
        day, pp, sp = history.day(), self._pp, self._sp
        return (
            f'{{"open":"{short(day.open, pp)}","high":"{short(day.high, pp)}",'
            f'"low":"{short(day.low, pp)}","last":"{short(day.close, pp)}",'
            f'"volume":"{exact(day.volume, sp)}",'
            f'"volume_30day":"{exact(history.month_volume, sp)}"}}'
        )

    def _received(self, event: Received, time: str) -> str:
        body = f'"order_id":"{self.order_id(event.order)}"'
        if event.size is not None:
            body += f',"size":"{exact(event.size, self._sp)}"'
        if event.price is not None:
            body += f',"price":"{exact(event.price, self._pp)}"'
        if event.funds is not None:
            body += f',"funds":"{short(event.funds, self._pp + self._sp)}"'
        kind = "market" if event.price is None else "limit"
        # Some traders name their own orders, most do not.
        if event.order % 4 == 0:
            body += f',"client_oid":"{self.order_id(-event.order)}"'
        return (
            f'{{"type":"received",{body},"side":"{event.side}","order_type":"{kind}",'
            f"{self._tail(event.seq, time)}}}"
        )

    def _left(self, event: Done) -> str:
        if event.price is None or event.remaining is None:
            return ""
        price, left = exact(event.price, self._pp), exact(event.remaining, self._sp)
        return f',"price":"{price}","remaining_size":"{left}"'

    def _change(self, event: Change) -> str:
        return (
            f',"reason":"modify_order","price":"{exact(event.price, self._pp)}"'
            f',"old_size":"{exact(event.old_size, self._sp)}"'
            f',"new_size":"{exact(event.new_size, self._sp)}"'
        )

    def _tail(self, seq: int, time: str) -> str:
        return f'"product_id":"{self._id}","sequence":{seq},"time":"{time}"'

    def _nil(self) -> str:
        self._zero = (self._zero + 1) % len(_ZEROS)
        return _ZEROS[self._zero]

    def _best(self, side: BookSide) -> tuple[str, str]:
        price = side.best()
        if price is None:
            return "0", "0"
        return short(price, self._pp), exact(side.levels[price].total, self._sp)

    def _rows(self, side: BookSide) -> str:
        levels, pp, sp = side.levels, self._pp, self._sp
        return ",".join(
            f'["{exact(price, pp)}","{exact(levels[price].total, sp)}"]' for price in side.prices()
        )

    def _rest_side(self, side: BookSide, level: int) -> str:
        levels, pp, sp = side.levels, self._pp, self._sp
        if level == 3:  # noqa: PLR2004 - the exchange's own number
            return ",".join(
                f'["{exact(price, pp)}","{exact(order.remaining, sp)}","{self.order_id(order.id)}"]'
                for price in side.prices()
                for order in levels[price].orders.values()
            )
        rows = (
            f'["{exact(price, pp)}","{exact(levels[price].total, sp)}",{len(levels[price].orders)}]'
            for price in side.prices()
        )
        return next(rows, "") if level == 1 else ",".join(rows)


def status_message(listings: list[dict[str, object]]) -> str:
    """Render the `status` channel: all products and their currencies."""
    names = dict.fromkeys(
        str(listing[side]) for listing in listings for side in ("base_currency", "quote_currency")
    )
    currencies = [
        {"id": name, "name": name, "min_size": "0.00000001", "status": "online"} for name in names
    ]
    products = [{**listing, "type": "spot"} for listing in listings]
    return _text({"type": "status", "currencies": currencies, "products": products})


def acknowledgement(channels: list[tuple[str, list[str]]]) -> str:
    """Render `subscriptions`: everything that the connection is subscribed to."""
    rows = [
        {"name": name, "product_ids": products, "account_ids": None} for name, products in channels
    ]
    return _text({"type": "subscriptions", "channels": rows})


def error(message: str, reason: str = "") -> str:
    """Render an error."""
    body = {"type": "error", "message": message}
    return _text(body | {"reason": reason} if reason else body)


def _text(value: object) -> str:
    return msgspec.json.encode(value).decode()
