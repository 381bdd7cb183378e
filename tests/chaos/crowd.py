"""Subscribers by the hundred, in processes of their own, and what each of them has been told.

`python -m tests.chaos.crowd` runs some and answers two questions over HTTP: `/waiting?since=µs`,
how many have no tick yet that was received from the venue after that, and `/told`, everything that
is to be held against the canonical log afterwards. What is kept of a chain are its runs: where each
began, with what, how many ticks followed, the last one's `seq` and a digest over their bytes.
Memory grows with the number of snapshots, not of ticks.
"""

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from contextlib import aclosing
from hashlib import blake2b
from pathlib import Path
from typing import Any

import httpx
import msgspec
import uvloop
from aiohttp import web

from client.chain import ChainBrokenError, Link
from client.errors import SubscriberError
from client.subscriber import Subscriber, Update
from tests.servers import Process, free_port, port_open
from tests.stack import exact

_IN_ONE = 100
"""Subscribers that one process has, at most."""

_WHOLE_EVERY, _WIRED_EVERY = 100, 10
"""Of so many subscribers one takes all products, and one comes over the wire."""

_INGESTED = b'"ts_ingest":'
_DIGITS = 16
_HTTP_S = 30.0


class Run(msgspec.Struct):
    """What came of a chain from one snapshot to the next.

    `seq`: of the snapshot. `missed`: why there may be messages missing before it, as the gateway
    says; none if there must not be. `own`: of its state, if the gateway made it; of its line,
    verbatim, otherwise. `count`, `last`, `digest`: of the ticks behind it.
    """

    seq: int
    missed: str | None
    own: str
    line: str
    count: int = 0
    last: int = 0
    digest: str = ""


class Told(msgspec.Struct):
    """What one subscriber was told.

    `products`: those that it wanted. `chains`: the runs by `product feed`; `status`: the newest
    state by the same. `broken`: links that did not fit, each as a sentence. `refused`: why it
    ended, if it did.
    """

    name: str
    products: list[str]
    connects: int
    messages: int
    chains: dict[str, list[Run]]
    status: dict[str, str]
    broken: list[str]
    refused: str | None


decode_told = msgspec.json.Decoder(list[Told]).decode


def line_digest(line: bytes) -> str:
    """Return the digest of one line."""
    return blake2b(line, digest_size=16).hexdigest()


def state_digest(feed: str, state: Any) -> str:
    """Return the digest of a state, its prices as text; of a book that of its levels."""
    if feed == "book":
        sides = (exact(state.get(side)) for side in ("bids", "asks"))
        return book_digest(*sides)
    return line_digest(json.dumps(state, sort_keys=True).encode())


def book_digest(*sides: Any) -> str:
    """Return the digest of two sides, sizes by price, both exact."""
    levels = [
        sorted((price.normalize(), size.normalize()) for price, size in s.items()) for s in sides
    ]
    return line_digest(repr(levels).encode())


class Listener:
    """One subscriber. Attributes: newest_us, when the venue's newest message came to us."""

    def __init__(self, name: str, url: str, products: Sequence[str]) -> None:
        self.name, self.newest_us = name, 0
        self._products = list(products)
        self._subscriber = Subscriber(url, products, on_broken="raise")
        self._runs: dict[str, list[Run]] = {}
        self._digests: dict[str, Any] = {}
        self._status: dict[str, str] = {}
        self._broken: list[str] = []
        self._refused: str | None = None

    async def listen(self) -> None:
        """Take everything until cancelled; a broken link is noted, and resumed from."""
        while True:
            try:
                async with aclosing(aiter(self._subscriber)) as updates:
                    async for update in updates:
                        self._take(update)
            except ChainBrokenError as broken:
                self._broken.append(str(broken))
            except SubscriberError as refused:
                self._refused = str(refused)
                return

    def told(self) -> Told:
        """Return what there is to be compared."""
        for name, digest in self._digests.items():
            self._runs[name][-1].digest = digest.hexdigest()
        return Told(
            self.name,
            self._products,
            self._subscriber.connects,
            self._subscriber.messages,
            self._runs,
            self._status,
            self._broken,
            self._refused,
        )

    def _take(self, update: Update) -> None:
        link = update.link
        name = f"{link.product} {link.feed}"
        if update.op == "incr":
            run = self._runs[name][-1]
            run.count += 1
            run.last = link.seq
            self._digests[name].update(update.line)
            self.newest_us = max(self.newest_us, _ingested(update.line))
        elif update.op == "snapshot":
            self._begin(name, link, update)
        else:
            self._status[name] = json.loads(update.line)["state"]

    def _begin(self, name: str, link: Link, update: Update) -> None:
        runs = self._runs.setdefault(name, [])
        if runs:
            runs[-1].digest = self._digests[name].hexdigest()
        state = json.loads(update.line, parse_float=str)["state"]
        own = state_digest(link.feed, state)
        missed = update.reason if runs else "first"
        runs.append(Run(link.seq, missed, own, line_digest(update.line), last=link.seq))
        self._digests[name] = blake2b(digest_size=16)


def _ingested(line: bytes) -> int:
    at = line.index(_INGESTED) + len(_INGESTED)
    return int(line[at : at + _DIGITS])


class Crowd:
    """The processes, seen from outside."""

    def __init__(self, root: Path, urls: Sequence[str], products: Sequence[str], size: int) -> None:
        """Prepare; `urls`: the gateway's address, and the same over a wire."""
        firsts = range(0, size, _IN_ONE)
        self._ports = [free_port() for _ in firsts]
        self.processes = [
            Process(
                [
                    *(sys.executable, "-m", "tests.chaos.crowd", "--port", str(port)),
                    *("--first", str(first), "--count", str(min(_IN_ONE, size - first))),
                    *("--urls", *urls, "--products", *products),
                ],
                root / f"crowd-{first}.log",
                measured=False,
            )
            for first, port in zip(firsts, self._ports, strict=True)
        ]
        self._http = httpx.AsyncClient(timeout=_HTTP_S, trust_env=False)

    async def start(self) -> None:
        """Start them, and wait until they answer."""
        for process in self.processes:
            process.start()
        for port in self._ports:
            await port_open(port)

    async def stop(self) -> None:
        """Stop them."""
        for process in self.processes:
            await asyncio.to_thread(process.stop)
        await self._http.aclose()

    async def waiting(self, since_us: int) -> int:
        """Return how many subscribers have no tick yet that was received after that."""
        answers = [await self._get(port, f"/waiting?since={since_us}") for port in self._ports]
        return sum(int(answer) for answer in answers)

    async def told(self) -> list[Told]:
        """Return what each subscriber was told."""
        return [one for port in self._ports for one in decode_told(await self._get(port, "/told"))]

    async def _get(self, port: int, path: str) -> bytes:
        answer = await self._http.get(f"http://127.0.0.1:{port}{path}")
        answer.raise_for_status()
        return answer.content


async def _serve(port: int, listeners: Sequence[Listener]) -> None:
    """Listen, and answer, until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)

    async def waiting(request: web.Request) -> web.Response:
        since_us = int(request.query["since"])
        return web.Response(text=str(sum(one.newest_us <= since_us for one in listeners)))

    async def told(_: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode([one.told() for one in listeners]))

    app = web.Application()
    app.add_routes([web.get("/waiting", waiting), web.get("/told", told)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        async with asyncio.TaskGroup() as tasks:
            listening = [tasks.create_task(one.listen()) for one in listeners]
            await stop.wait()
            for task in listening:
                task.cancel()
    finally:
        await runner.cleanup()


def _listener(number: int, urls: Sequence[str], products: Sequence[str]) -> Listener:
    """Return a subscriber: most take one product, some come over the wire."""
    url = urls[number % _WIRED_EVERY == 1]
    wanted = products if number % _WHOLE_EVERY == 0 else [products[number % len(products)]]
    return Listener(f"subscriber {number}", url, wanted)


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.crowd", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--first", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--urls", nargs=2, required=True)
    parser.add_argument("--products", nargs="+", required=True)
    given = parser.parse_args()
    numbers = range(given.first, given.first + given.count)
    listeners = [_listener(number, given.urls, given.products) for number in numbers]
    uvloop.run(_serve(given.port, listeners))


if __name__ == "__main__":
    main()
