"""Writes a cassette: subscribes to a feed and keeps every frame, verbatim, with its time.

Lines are those of MD_RAW (`models.records`), so the same file can be played by the simulator
and read by whatever reads the log. Reading cassettes is `cassette`'s part.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from models.records import frame_line
from venues.coinbase.addresses import proxy_for

MAX_FRAME_BYTES = 64 * 1024 * 1024
"""A deep book is several MB in one frame."""

_NEWLINES = str.maketrans({"\n": " ", "\r": " "})


class TapeError(Exception):
    """The feed cannot be recorded. The text says which feed, and why."""


class _Head(msgspec.Struct):
    type: str = ""
    product_id: str = ""
    message: str = ""
    reason: str = ""


_decode = msgspec.json.Decoder(_Head).decode


class Taping:
    """One recording of one connection; `duration_s` none means until it is cancelled."""

    def __init__(
        self,
        url: str,
        products: Sequence[str],
        channels: Sequence[str],
        duration_s: float | None = None,
    ) -> None:
        self.frames: Counter[str] = Counter()
        self.skipped = 0
        self._url = url
        self._subscribe = msgspec.json.encode(
            {"type": "subscribe", "product_ids": list(products), "channels": list(channels)}
        ).decode()
        self._duration_s = duration_s
        self._conn = f"tape-{time.time_ns() // 1000}"
        self._numbers: Counter[str] = Counter()

    async def run(self, path: Path, progress: Callable[["Taping"], None] | None = None) -> int:
        """Record into a new file; return how many frames are in it.

        Raises:
            TapeError: the feed cannot be reached, refused the subscription, or broke off.
            OSError: the file exists or cannot be written.
        """
        with path.open("xb") as file:
            try:
                async with asyncio.timeout(self._duration_s):
                    await self._record(file, progress)
            except TimeoutError:
                pass  # the duration is over, as asked
            except (OSError, InvalidHandshake, ConnectionClosed) as error:
                raise TapeError(
                    f"{self._url}: {error}; {self.frames.total()} frames are in {path}"
                ) from error
        return self.frames.total()

    async def _record(self, file: BinaryIO, progress: Callable[["Taping"], None] | None) -> None:
        proxy = proxy_for(self._url)
        async with connect(self._url, max_size=MAX_FRAME_BYTES, proxy=proxy) as socket:
            await socket.send(self._subscribe)
            await self._keep(socket, file, progress)

    async def _keep(
        self, socket: ClientConnection, file: BinaryIO, progress: Callable[["Taping"], None] | None
    ) -> None:
        async for text in socket:
            now = time.time_ns() // 1000
            self._take(now, text if isinstance(text, str) else text.decode(), file)
            if progress is not None:
                progress(self)

    def _take(self, now_us: int, text: str, file: BinaryIO) -> None:
        frame = text.translate(_NEWLINES)
        try:
            head = _decode(frame)
        except msgspec.DecodeError:
            self.skipped += 1
            return
        if head.type == "error":
            raise TapeError(f"{self._url} refused: {head.message} {head.reason}".rstrip())
        self.frames[head.type] += 1
        self._numbers[head.product_id] += 1
        number = self._numbers[head.product_id]
        file.write(frame_line(now_us, self._conn, number, frame.encode()) + b"\n")
