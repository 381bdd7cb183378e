"""What subscribers import: an async client that proves, link by link, that nothing is missing."""

from client.chain import ChainBrokenError, ChainVerifier, Link
from client.errors import GatewayRefusedError, GatewayUnavailableError, SubscriberError
from client.subscriber import Subscriber
from client.subscription import Position
from client.update import Update

__all__ = [
    "ChainBrokenError",
    "ChainVerifier",
    "GatewayRefusedError",
    "GatewayUnavailableError",
    "Link",
    "Position",
    "Subscriber",
    "SubscriberError",
    "Update",
]
