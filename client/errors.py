"""What a subscriber may run into.

SubscriberError
├── GatewayUnavailableError   nobody answered in time; try again later
├── GatewayRefusedError       the gateway answered no; the request must change
└── ChainBrokenError          (in `chain`) a message is missing
"""


class SubscriberError(Exception):
    """Base of what the client raises."""


class GatewayUnavailableError(SubscriberError):
    """No gateway answered in time.

    Attributes: url; waited_s, how long was tried.
    """

    def __init__(self, url: str, waited_s: float, reason: str) -> None:
        super().__init__(
            f"no gateway answers at {url} after {waited_s:.0f} s ({reason}): "
            "start one with `ledgerflux up`, or give its address"
        )
        self.url = url
        self.waited_s = waited_s


class GatewayRefusedError(SubscriberError):
    """The gateway refuses what was asked for; asking again would not help.

    Attributes: code, the gateway's own.
    """

    def __init__(self, code: str, msg: str) -> None:
        super().__init__(f"the gateway refused ({code}): {msg}")
        self.code = code
