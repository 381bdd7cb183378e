"""The venue: its REST, the products by its own list, and whether its feeds can be connected to."""

import asyncio
from difflib import get_close_matches

import websockets
from websockets.asyncio.client import connect

from cli.checks.finding import Finding, broken, ok, warning
from models.settings import Settings
from venues.coinbase.addresses import proxy_for
from venues.coinbase.auth import BadSecretError
from venues.coinbase.feed import FeedConfigError
from venues.coinbase.rest import CoinbaseRest
from venues.coinbase.rest_errors import CoinbaseRestError
from venues.coinbase.rest_types import Product
from workers.venue import feed_config

_REST, _FEED = "venue REST", "venue feed"
_TRADING = "online"


async def rest(settings: Settings, answer_s: float) -> list[Finding]:
    """Ask for the venue's products, and look for ours among them."""
    place = settings.coinbase_rest_url
    try:
        async with CoinbaseRest(settings.coinbase_rest_url, timeout_s=answer_s) as venue:
            listed = {product.id: product for product in await venue.products()}
    except (CoinbaseRestError, ValueError) as error:
        return [broken(_REST, f"{place}: {error}; check the network and COINBASE_REST_URL")]
    found = [
        told
        for name in settings.coinbase_products
        if (told := _listed(name, listed, place)) is not None
    ]
    names = ", ".join(settings.coinbase_products)
    return found or [ok(_REST, f"{place}: lists {len(listed)} products, among them {names}")]


def _listed(name: str, listed: dict[str, Product], place: str) -> Finding | None:
    """Return what is wrong with a product, if anything is."""
    product = listed.get(name)
    if product is None:
        near = get_close_matches(name, listed, n=1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        return broken(_REST, f"{place}: does not list {name}{meant}; correct COINBASE_PRODUCTS")
    if product.trading_disabled or product.status != _TRADING:
        why = product.status_message or product.status
        return warning(_REST, f"{place}: {name} is not traded now ({why}); it will stay silent")
    return None


async def feeds(settings: Settings, answer_s: float) -> list[Finding]:
    """Open each address of the feed, and close it again; nothing is subscribed to."""
    try:
        config = feed_config(settings)
    except (FeedConfigError, BadSecretError) as error:
        return [broken(_FEED, str(error))]
    return list(
        await asyncio.gather(
            *(_feed(url, answer_s, main=url == config.primary) for url in config.urls)
        )
    )


async def _feed(url: str, answer_s: float, *, main: bool) -> Finding:
    try:
        proxy = proxy_for(url)
        async with connect(url, open_timeout=answer_s, close_timeout=0.2, proxy=proxy):
            return ok(_FEED, f"{url}: can be connected to")
    except (OSError, TimeoutError, websockets.WebSocketException) as error:
        why = str(error) or type(error).__name__
        if main:
            return broken(_FEED, f"{url}: {why}; check the network and the address")
        return warning(_FEED, f"{url}: the fallback cannot be reached ({why})")
