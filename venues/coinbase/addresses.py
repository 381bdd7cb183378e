"""Which addresses are reached without a proxy.

The environment's proxy serves the outside; a simulator on this host is never behind it.
"""

from ipaddress import ip_address
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass


def goes_direct(url: str) -> bool:
    """Tell whether `url` is to be reached without the environment's proxy."""
    host = urlsplit(url).hostname or ""
    return host == "localhost" or _is_loopback(host) or bool(proxy_bypass(host))


def proxy_for(url: str) -> str | None:
    """Return the environment's proxy for `url`, if one is to be used."""
    if goes_direct(url):
        return None
    proxies = getproxies()
    schemes = ("wss", "https") if urlsplit(url).scheme == "wss" else ("ws", "http")
    return next((proxies[scheme] for scheme in schemes if scheme in proxies), None)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
