"""REST under /v1: what there is and what was, verbatim; one shape of errors; OpenAPI."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway import rest
from models.settings import Settings
from streaming.broker.jetstream import JetStreamLog
from tests.gateways import (
    PRODUCT,
    SUBJECT,
    RunningGateway,
    receive,
    running_gateway,
    status,
    subscriber,
    tick,
)
from tests.servers import NatsServer, eventually, port_open

OTHER_VENUE = "market.ticks.0.elsewhere.BTC-USD"


@pytest.fixture
async def gateway(log: JetStreamLog, settings: Settings) -> AsyncIterator[RunningGateway]:
    """Give a gateway with ten ticks of the ticker and a book of three levels."""
    await log.publish(SUBJECT, b"\n".join(tick(seq) for seq in range(1, 11)))
    book = b"\n".join(tick(seq, feed="book") for seq in range(1, 4))
    await log.publish(SUBJECT, book)
    async with running_gateway(settings) as running:
        yield running


async def error(gateway: RunningGateway, path: str) -> tuple[int, str, str]:
    """Return status, code and sentence of an error, which has nothing else."""
    answer = await gateway.get(path)
    body = answer.json()
    assert set(body) == {"code", "msg"}
    return answer.status_code, body["code"], body["msg"]


async def test_products_lists_each_feed_with_its_position(gateway: RunningGateway) -> None:
    """As they are at this moment."""
    first = (await gateway.get("/v1/products")).json()[0]
    assert (first["venue"], first["product"]) == ("coinbase", PRODUCT)
    assert first["feeds"] == [
        {"feed": "ticker", "seq": 10, "status": "live"},
        {"feed": "trades", "seq": 0, "status": "live"},
        {"feed": "book", "seq": 3, "status": "live"},
    ]


async def test_snapshot_is_the_line_that_a_subscriber_gets(gateway: RunningGateway) -> None:
    """Digit by digit: 10.50 is not 10.5."""
    answer = await gateway.get(f"/v1/products/{PRODUCT}/snapshot?feed=ticker")
    assert answer.headers["content-type"] == "application/json"
    assert b'"px":10.50,"qty":0.010' in answer.content
    async with subscriber(gateway, products=[PRODUCT], feeds=["ticker"]) as client:
        _, opening = await receive(client, 2)
    assert answer.json() == opening["data"]


@pytest.mark.parametrize(("depth", "levels"), [("", 3), ("&depth=2", 2), ("&depth=full", 3)])
async def test_snapshot_of_a_book_has_the_depth_that_was_asked_for(
    gateway: RunningGateway, depth: str, levels: int
) -> None:
    """The best levels come first."""
    answer = await gateway.get(f"/v1/products/{PRODUCT}/snapshot?feed=book{depth}")
    bids = answer.json()["state"]["bids"]
    assert [price for price, _ in bids] == ["3.50", "2.50", "1.50"][:levels]


async def test_ticks_are_what_followed_verbatim_and_page_by_page(gateway: RunningGateway) -> None:
    """Each once, in order, to the end."""
    seqs: list[int] = []
    at, complete = 2, False
    for _ in range(10):
        answer = await gateway.get(
            f"/v1/products/{PRODUCT}/ticks?feed=ticker&from_seq={at}&limit=3"
        )
        page = answer.json()
        assert page["from_seq"] == at
        seqs += [message["seq"] for message in page["messages"]]
        assert tick(seqs[-1]) in answer.content
        at, complete = page["next_from_seq"], page["complete"]
        if complete:
            break
    assert complete
    assert seqs == list(range(3, 11))
    end = (await gateway.get(f"/v1/products/{PRODUCT}/ticks?feed=ticker&from_seq={at}")).json()
    assert (end["messages"], end["next_from_seq"], end["complete"]) == ([], 10, True)


async def test_ticks_with_more_statuses_than_the_limit_still_advance(
    gateway: RunningGateway, log: JetStreamLog
) -> None:
    """A status has no number to go on from, so the page is longer."""
    await log.publish(SUBJECT, b"\n".join([status("gap"), status("live"), status("gap"), tick(11)]))
    path = f"/v1/products/{PRODUCT}/ticks?feed=ticker&from_seq=10&limit=1"

    async def advanced() -> bool:
        return bool((await gateway.get(path)).json()["next_from_seq"] == 11)

    await eventually(advanced)


async def test_ticks_that_cannot_be_recovered_get_410(gateway: RunningGateway) -> None:
    """Never a part as if it were all; the code is that of `resumed`."""
    code = await error(gateway, f"/v1/products/{PRODUCT}/ticks?feed=ticker&from_seq=77")
    assert code[:2] == (410, "unknown_seq")


async def test_ticks_while_the_log_is_away_get_503(
    nats_server: NatsServer, log: JetStreamLog, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request does not hang for as long as the log does."""
    monkeypatch.setattr(rest, "PAGE_WITHIN_S", 0.2)
    for seq in range(1, 4):
        await log.publish(SUBJECT, tick(seq))
    async with running_gateway(settings, gateway_ring_bytes=0) as gateway:
        path = f"/v1/products/{PRODUCT}/ticks?feed=ticker&from_seq=1"
        nats_server.kill()
        assert (await error(gateway, path))[:2] == (503, "busy")
        nats_server.start()
        await port_open(nats_server.port)


async def test_ticks_beyond_what_is_answered_at_once_get_503(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And those who had their turn leave it to others."""
    path = f"/v1/products/{PRODUCT}/ticks?feed=ticker&from_seq=1"
    monkeypatch.setattr(rest, "MAX_PAGES", 1)
    for _ in range(3):
        assert (await gateway.get(path)).status_code == 200
    monkeypatch.setattr(rest, "MAX_PAGES", 0)
    assert (await error(gateway, path))[:2] == (503, "busy")


async def test_status_tells_of_connections_feeds_and_the_log(
    gateway: RunningGateway, log: JetStreamLog
) -> None:
    """One look says how the process does."""
    await log.publish(SUBJECT, status("gap", feed="trades"))
    async with (
        subscriber(gateway, products=[PRODUCT], feeds=["ticker"]) as client,
        subscriber(gateway),
    ):
        await receive(client, 2)

        async def told() -> dict[str, Any] | None:
            body: dict[str, Any] = (await gateway.get("/v1/status")).json()
            return body if body["feeds"].get("gap") and body["clients"] == 2 else None

        await eventually(told)
        body = await told()
    assert body is not None
    assert body["connections"] == {"live": 1, "idle": 1}
    assert body["troubled"] == [f"coinbase/{PRODUCT}/trades: gap"]
    assert (body["ready"], body["reason"], body["position"]) == (True, None, 3)
    assert 0 <= body["position_age_ms"] < 60_000
    assert body["epoch"]
    assert body["version"]
    assert body["uptime_s"] < 60


async def test_status_before_the_log_is_there_says_so(settings: Settings) -> None:
    """An operator sees why it is not ready."""
    away = settings.model_copy(update={"nats_urls": ("nats://127.0.0.1:1",)})
    async with running_gateway(away, warm=False) as gateway:
        body = (await gateway.get("/v1/status")).json()
    assert body["ready"] is False
    assert "warming up" in body["reason"]
    assert body["position_age_ms"] is None


@pytest.mark.parametrize(
    ("path", "expected", "words"),
    [
        ("/v1/nowhere", (404, "not_found"), "/docs"),
        ("/v1/products/NO-SUCH/snapshot?feed=book", (404, "unknown_product"), "NO-SUCH"),
        ("/v1/products/BTC-USD/snapshot?feed=book&venue=x", (404, "unknown_product"), "x/BTC-USD"),
        ("/v1/products/BTC-USD/snapshot", (422, "bad_parameter"), "'feed' is missing"),
        ("/v1/products/BTC-USD/snapshot?feed=x", (422, "bad_parameter"), "'feed' is 'x'"),
        ("/v1/products/BTC-USD/snapshot?feed=book&depth=0", (422, "bad_parameter"), "'depth'"),
        ("/v1/products/BTC-USD/snapshot?feed=book&depth=1e99", (422, "bad_parameter"), "'depth'"),
        ("/v1/products/BTC-USD/ticks?feed=ticker", (422, "bad_parameter"), "'from_seq' is missing"),
        ("/v1/products/BTC-USD/ticks?feed=ticker&from_seq=-1", (422, "bad_parameter"), "'-1'"),
        (
            "/v1/products/BTC-USD/ticks?feed=ticker&from_seq=1&limit=10001",
            (422, "bad_parameter"),
            "'limit'",
        ),
        (
            f"/v1/products/BTC-USD/ticks?feed=ticker&from_seq={'9' * 400}",
            (422, "bad_parameter"),
            "'from_seq'",
        ),
    ],
)
async def test_request_that_cannot_be_answered_gets_a_code_and_a_sentence(
    gateway: RunningGateway, path: str, expected: tuple[int, str], words: str
) -> None:
    """One shape for all, which names the parameter and does not echo a page of it."""
    code, name, msg = await error(gateway, path)
    assert (code, name) == expected
    assert words in msg
    assert len(msg) < 400


async def test_product_of_two_venues_must_be_named_with_its_venue(
    gateway: RunningGateway, log: JetStreamLog
) -> None:
    """Guessing would be wrong half of the time."""
    await log.publish(OTHER_VENUE, tick(7).replace(b"coinbase", b"elsewhere"))
    path = f"/v1/products/{PRODUCT}/snapshot?feed=ticker"

    async def ambiguous() -> bool:
        return (await gateway.get(path)).status_code == 409

    await eventually(ambiguous)
    assert (await error(gateway, path))[1] == "ambiguous_product"
    assert (await gateway.get(f"{path}&venue=elsewhere")).json()["seq"] == 7
    assert (await gateway.get(f"{path}&venue=coinbase")).json()["seq"] == 10


async def test_openapi_describes_every_path_with_examples(gateway: RunningGateway) -> None:
    """Errors have one schema, and nothing of the framework's own shows through."""
    text = (await gateway.get("/openapi.json")).text
    paths = json.loads(text)["paths"]
    assert {path for path in paths if path.startswith("/v1")} == {
        "/v1/products",
        "/v1/products/{product}/snapshot",
        "/v1/products/{product}/ticks",
        "/v1/resyncs",
        "/v1/status",
    }
    assert "HTTPValidationError" not in text
    for name in ("snapshot", "ticks"):
        answers = paths[f"/v1/products/{{product}}/{name}"]["get"]["responses"]
        assert answers["200"]["content"]["application/json"]["example"]["feed"] == "ticker"
        assert {"401", "404", "409", "422"} <= set(answers)


async def test_status_counts_the_feeds_of_many_products(settings: Settings) -> None:
    """Of those too that have no data yet."""
    names = tuple(f"P{number}-USD" for number in range(500))
    async with running_gateway(settings, coinbase_products=names) as gateway:
        assert (await gateway.get("/v1/status")).json()["feeds"] == {"live": 1500}
