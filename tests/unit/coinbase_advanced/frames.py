"""Advanced Trade frames as the venue sends them, for tests only."""

from typing import Any

TIME = "2026-09-30T02:03:44.123456789Z"
NOW = 1_790_733_824_000_000

Frame = dict[str, Any]


def envelope(channel: str, *events: Frame, number: int = 0) -> Frame:
    """Wrap events."""
    return {"channel": channel, "timestamp": TIME, "sequence_num": number, "events": list(events)}


def ticker(product: str = "BTC-USD", **changes: Any) -> Frame:
    """Return one product's ticker."""
    return {
        "type": "ticker", "product_id": product, "price": "100.50", "volume_24_h": "2",
        "best_bid": "100.4", "best_bid_quantity": "1", "best_ask": "100.60",
        "best_ask_quantity": "2.0", **changes,
    }  # fmt: skip


def trade(number: int, product: str = "BTC-USD", **changes: Any) -> Frame:
    """Return one print."""
    return {
        "trade_id": str(number), "product_id": product, "price": "100.50", "size": "0.10",
        "side": "BUY", "time": "2026-09-30T02:03:44.1234Z", **changes,
    }  # fmt: skip


def level(side: str, price: str, size: str, **changes: Any) -> Frame:
    """Return one level's new size."""
    return {
        "side": side, "event_time": "2026-09-30T02:03:44.120Z", "price_level": price,
        "new_quantity": size, **changes,
    }  # fmt: skip


def tickers(*items: Frame, number: int = 0) -> Frame:
    """Return a ticker frame."""
    return envelope("ticker", {"type": "update", "tickers": list(items)}, number=number)


def trades(*items: Frame, kind: str = "update", number: int = 0) -> Frame:
    """Return a market_trades frame."""
    return envelope("market_trades", {"type": kind, "trades": list(items)}, number=number)


def book(kind: str, *levels: Frame, product: str = "BTC-USD") -> Frame:
    """Return one event of an l2_data frame."""
    return {"type": kind, "product_id": product, "updates": list(levels)}


def level2(*events: Frame, number: int = 0) -> Frame:
    """Return an l2_data frame."""
    return envelope("l2_data", *events, number=number)
