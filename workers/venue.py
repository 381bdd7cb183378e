"""Which venue a worker serves: INGEST_VENUE names it, and this is what each is made of.

The ingestor routes and subscribes by it, the normalizer decodes by it; both must be given the
same name, since it is a part of every subject.
"""

from dataclasses import dataclass

from models.events import Decode
from models.feed import Route
from models.settings import Settings
from streaming.guard import guarded
from streaming.ingest import by_product_id
from venues.coinbase import mapper as exchange
from venues.coinbase.auth import Credentials
from venues.coinbase.feed import FeedConfig
from venues.coinbase_advanced import mapper as advanced
from venues.coinbase_advanced.dialect import AdvancedDialect, own_channels
from venues.coinbase_advanced.route import route


@dataclass(frozen=True, slots=True)
class Venue:
    """What the streaming workers need of a venue."""

    name: str
    decode: Decode
    route: Route


VENUES = {
    venue.name: venue
    for venue in (
        Venue(exchange.VENUE, guarded(exchange.decode), by_product_id),
        Venue(advanced.VENUE, guarded(advanced.decode), route),
    )
}
"""The venues by the name that INGEST_VENUE gives them."""


def feed_config(settings: Settings) -> FeedConfig:
    """Return what the feed of the venue needs of the settings.

    Raises:
        FeedConfigError, BadSecretError: a setting cannot be used; the text names it.
    """
    if settings.ingest_venue == advanced.VENUE:
        return FeedConfig(
            primary=settings.coinbase_advanced_ws,
            products=settings.coinbase_products,
            channels=own_channels(settings.coinbase_channels),
            dialect=AdvancedDialect(),
            setting="COINBASE_ADVANCED_WS",
            line=settings.ingest_line,
            max_frame_bytes=settings.coinbase_max_frame_bytes,
            silence_s=settings.coinbase_silence_s,
        )
    return FeedConfig(
        primary=settings.coinbase_ws_primary,
        fallback=settings.coinbase_ws_fallback,
        products=settings.coinbase_products,
        channels=settings.coinbase_channels,
        credentials=_credentials(settings),
        line=settings.ingest_line,
        max_frame_bytes=settings.coinbase_max_frame_bytes,
        silence_s=settings.coinbase_silence_s,
    )


def _credentials(settings: Settings) -> Credentials | None:
    key, secret = settings.coinbase_api_key, settings.coinbase_api_secret
    passphrase = settings.coinbase_api_passphrase
    if key is None or secret is None or passphrase is None:
        return None
    return Credentials(
        key.get_secret_value(), secret.get_secret_value(), passphrase.get_secret_value()
    )
