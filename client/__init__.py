"""What subscribers import: an async client that proves, link by link, that nothing is missing."""

from client.chain import ChainBrokenError, ChainVerifier, Link
from client.errors import GatewayRefusedError, GatewayUnavailableError, SubscriberError
from client.subscriber import Subscriber, Update

__all__ = [
    "ChainBrokenError",
    "ChainVerifier",
    "GatewayRefusedError",
    "GatewayUnavailableError",
    "Link",
    "Subscriber",
    "SubscriberError",
    "Update",
]
