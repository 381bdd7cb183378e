"""The gateway process: MD_TICKS to WebSocket subscribers."""

import sys

from gateway.server import AddressInUseError, gateway
from workers.process import EXIT_FAILED, run_worker


def main() -> int:
    """Run; return the exit status."""
    try:
        return run_worker("gateway", gateway)
    except AddressInUseError as error:
        print(f"gateway: {error}", file=sys.stderr)  # noqa: T201  # for a person, one sentence
        return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
