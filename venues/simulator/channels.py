"""Channel names of the exchange: aliases, who may subscribe, and reading a subscribe message.

Pure; COINBASE exchange documentation, "WebSocket overview" and "WebSocket channels".
"""

from collections.abc import Collection
from dataclasses import dataclass, field

CHANNELS = (
    "heartbeat",
    "status",
    "ticker",
    "ticker_batch",
    "matches",
    "level2",
    "level2_batch",
    "level3",
    "full",
    "user",
    "balance",
    "auctionfeed",
)
"""Every channel, by the name that a client may use."""

ECHO = {"level2_batch": "level2_50", "ticker_batch": "ticker_1000"}
"""How an acknowledgement spells a channel; clients may use these names as well."""

_CANONICAL = {alias: name for name, alias in ECHO.items()} | {name: name for name in CHANNELS}

AUTHENTICATED = frozenset({"level2", "level3", "full", "user", "balance"})
"""Channels that need a signature."""

WITHOUT_PRODUCTS = frozenset({"status", "balance"})
"""Channels that a client may subscribe to without naming products."""

ALL = ""
"""Stands for the product of a channel that has none."""

AUTH_REASON = (
    "level2, level3, and full channels now require authentication. "
    "https://docs.cdp.coinbase.com/exchange/docs/websocket-auth"
)

Key = tuple[str, str]
"""Channel and product."""


def canonical(channel: str) -> str | None:
    """Return the channel's one name, or none if there is no such channel."""
    return _CANONICAL.get(channel)


@dataclass(slots=True)
class Wish:
    """What a subscribe or unsubscribe message asks for, in order, and what is wrong with it."""

    keys: list[Key] = field(default_factory=list)
    whole_channels: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)


def read_wish(message: dict[str, object], listed: Collection[str], *, authenticated: bool) -> Wish:
    """Read the channels and products of a message; bad parts become reasons, the rest stands."""
    wish = Wish()
    root = _words(message.get("product_ids"))
    channels = message.get("channels")
    if not isinstance(channels, list) or not channels:
        wish.reasons.append("No channels provided")
        return wish
    bad_products: dict[str, None] = {}
    for entry in channels:
        name, own = _entry(entry)
        channel = canonical(name)
        if channel is None:
            wish.reasons.append(f"{name} is not a valid channel")
        elif channel in AUTHENTICATED and not authenticated:
            if AUTH_REASON not in wish.reasons:
                wish.reasons.append(AUTH_REASON)
        else:
            _add(wish, channel, [*root, *own], listed, bad_products)
    wish.reasons += [f"{name} is not a valid product" for name in bad_products]
    return wish


def _add(
    wish: Wish, channel: str, names: list[str], listed: Collection[str], bad: dict[str, None]
) -> None:
    if channel in WITHOUT_PRODUCTS:
        wish.keys.append((channel, ALL))
        return
    if not names:
        wish.whole_channels.append(channel)
    for name in dict.fromkeys(names):
        if name in listed:
            wish.keys.append((channel, name))
        else:
            bad[name] = None


def _entry(entry: object) -> tuple[str, list[str]]:
    if isinstance(entry, dict):
        return str(entry.get("name", "")), _words(entry.get("product_ids"))
    return str(entry), []


def _words(value: object) -> list[str]:
    return [str(word) for word in value] if isinstance(value, list) else []
