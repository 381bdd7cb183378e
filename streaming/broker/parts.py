"""Splitting a record that exceeds the server's message limit, and putting it together again.

Every part says which record it belongs to, which part it is and of how many. A record counts as
stored only with its last part, so a writer that dies in between leaves nothing behind that a
reader would show.
"""

import re
from collections import OrderedDict
from collections.abc import Iterator

PART_HEADER = "LF-Part"
"""`<record id>/<part, from 1>/<parts>`."""

MAX_OPEN = 8
"""Unfinished records that a reader keeps; the oldest makes room for a ninth."""


def split(payload: bytes, limit: int, record_id: str) -> Iterator[tuple[str, bool, bytes]]:
    """Yield (label, whether it is the last, bytes) of each part, in order."""
    count = -(-len(payload) // limit)
    for part in range(count):
        chunk = payload[part * limit : (part + 1) * limit]
        yield f"{record_id}/{part + 1}/{count}", part + 1 == count, chunk


_label = re.compile(r"(.{1,200})/([0-9]{1,9})/([0-9]{1,9})").fullmatch


class Assembler:
    """Puts parts together per subject; keeps at most `MAX_OPEN` unfinished records."""

    def __init__(self) -> None:
        self._open: OrderedDict[tuple[str, str], list[bytes]] = OrderedDict()

    def add(self, subject: str, label: str, chunk: bytes) -> bytes | None:
        """Take the next part; return the whole record with its last one.

        A part whose forerunners were never seen is dropped: its record was never finished. So is
        one with a label that is none: it is not a writer's of ours.
        """
        found = _label(label)
        if found is None:
            return None
        record_id, part, count = found.groups()
        key = (subject, record_id)
        chunks = self._open.setdefault(key, [])
        if int(part) == len(chunks) + 1:
            chunks.append(chunk)
        elif int(part) > len(chunks):
            del self._open[key]
            return None
        if part == count:
            return b"".join(self._open.pop(key))
        if len(self._open) > MAX_OPEN:
            self._open.popitem(last=False)
        return None
