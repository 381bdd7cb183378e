"""The ground truth: an NDJSON file of everything that the exchange said, heard or not.

One line per message and channel, `{"ts":µs,"channel":…,"product":…,"frame":…verbatim…}`, and
one per injected fault, `{"ts":µs,"fault":{…}}`. Buffered; the server flushes it several times
a second and at its end.
"""

from pathlib import Path
from typing import TextIO

import msgspec

_BUFFER_BYTES = 1024 * 1024


class Truth:
    """Writes one file anew, from `open` on; `channels` none means all of them."""

    def __init__(self, path: Path, channels: frozenset[str] | None = None) -> None:
        self._channels = channels
        self._lines: list[str] = []
        self._bytes = 0
        self._path = path
        self._file: TextIO | None = None

    def open(self) -> None:
        """Empty the file and begin to write it.

        Raises:
            OSError: it cannot be opened.
        """
        self._file = self._path.open("w", encoding="utf-8")

    def keeps(self, channel: str) -> bool:
        """Tell whether the channel's messages are written."""
        return self._channels is None or channel in self._channels

    def message(self, ts_us: int, channel: str, product: str, frame: str) -> None:
        """Write one message."""
        if self.keeps(channel):
            self._add(
                f'{{"ts":{ts_us},"channel":"{channel}","product":"{product}","frame":{frame}}}\n'
            )

    def fault(self, ts_us: int, fault: dict[str, object]) -> None:
        """Write down that a fault was injected."""
        self._add(f'{{"ts":{ts_us},"fault":{msgspec.json.encode(fault).decode()}}}\n')

    def flush(self) -> None:
        """Hand everything to the operating system."""
        if self._lines and self._file is not None:
            self._file.write("".join(self._lines))
            self._file.flush()
            self._lines.clear()
            self._bytes = 0

    def close(self) -> None:
        """Flush and close."""
        self.flush()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _add(self, line: str) -> None:
        self._lines.append(line)
        self._bytes += len(line)
        if self._bytes >= _BUFFER_BYTES:
            self.flush()
