"""Channel names of Advanced Trade, and reading its subscribe messages.

Pure. Inside the simulator they carry a prefix, because the same name means another message on
Exchange; faults name them with it. Source: the venue's documentation, "WebSocket channels".
"""

from collections.abc import Collection

from venues.simulator.channels import ALL, Key

PREFIX = "advanced/"
"""Sets this endpoint's channels apart from Exchange's."""

HEARTBEATS = PREFIX + "heartbeats"
STATUS = PREFIX + "status"
TICKER = PREFIX + "ticker"
TICKER_BATCH = PREFIX + "ticker_batch"
LEVEL2 = PREFIX + "level2"
MARKET_TRADES = PREFIX + "market_trades"

CHANNELS = (HEARTBEATS, STATUS, TICKER, TICKER_BATCH, LEVEL2, MARKET_TRADES)
"""Every channel that is served."""

_WITHOUT_PRODUCTS = frozenset({HEARTBEATS, STATUS})


def own_name(channel: str) -> str:
    """Return the client's name of a channel."""
    return channel.removeprefix(PREFIX)


def read_keys(message: dict[str, object], listed: Collection[str]) -> list[Key] | None:
    """Return what a message asks for, or none if there is no such channel.

    No products means all of them; unknown ones are left out without a word, as the venue does it.
    """
    channel = PREFIX + str(message.get("channel", ""))
    if channel not in CHANNELS:
        return None
    if channel in _WITHOUT_PRODUCTS:
        return [(channel, ALL)]
    names = message.get("product_ids")
    wanted = [str(name) for name in names] if isinstance(names, list) and names else list(listed)
    return [(channel, name) for name in dict.fromkeys(wanted) if name in listed]
