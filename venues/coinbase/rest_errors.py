"""What can go wrong with a REST request, each error with its facts.

CoinbaseRestError
├── NotFoundError          404: no such product or path                            final
├── BadRequestError        400, other 4xx: the venue refuses the request           final
├── UnauthorizedError      401, 403: the key is missing, wrong or not permitted    final
├── RateLimitedError       429, or our own queue for the limit is full             try later
├── VenueDownError         5xx, 408, timeouts, refused or broken connections       try later
├── BadAnswerError         not JSON, not the documented shape, too large           try later
└── MissingTradesError     a range of trades was fetched with holes                try later
"""

from collections.abc import Sequence


class CoinbaseRestError(Exception):
    """A request failed; `is_final` tells that the same request will always fail."""

    is_final = False

    def __init__(
        self,
        url: str,
        message: str,
        *,
        status: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        self.url = url
        self.status = status
        self.message = message
        self.retry_after_s = retry_after_s
        answer = f"HTTP {status}: " if status is not None else ""
        super().__init__(f"{url}: {answer}{message}")


class NotFoundError(CoinbaseRestError):
    """The venue knows no such thing."""

    is_final = True


class BadRequestError(CoinbaseRestError):
    """The venue refuses the parameters; its sentence is the message."""

    is_final = True


class UnauthorizedError(CoinbaseRestError):
    """The key is missing, wrong, or may not do this."""

    is_final = True


class RateLimitedError(CoinbaseRestError):
    """Too many requests; `retry_after_s` tells when to ask again, if known."""


class VenueDownError(CoinbaseRestError):
    """The venue failed or could not be reached."""


class BadAnswerError(CoinbaseRestError):
    """The answer is not what the documentation promises."""


class MissingTradesError(CoinbaseRestError):
    """Trades were fetched, and some ids of the range are not among them.

    `missing` holds the ids as inclusive ranges. The venue's caches may be seconds old, so asking
    again shortly can succeed.
    """

    def __init__(self, url: str, missing: Sequence[tuple[int, int]]) -> None:
        self.missing = tuple(missing)
        total = sum(last - first + 1 for first, last in self.missing)
        shown = ", ".join(_text(pair) for pair in self.missing[:5])
        more = ", …" if len(self.missing) > 5 else ""  # noqa: PLR2004 (as many as are shown)
        super().__init__(url, f"{total} trades are missing from the answers: {shown}{more}")


def _text(pair: tuple[int, int]) -> str:
    first, last = pair
    return str(first) if first == last else f"{first}-{last}"
