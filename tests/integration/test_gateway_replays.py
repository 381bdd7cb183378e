"""Replays through the gateway: as if they were live, and never in the way of what is."""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from contextlib import AsyncExitStack, aclosing
from typing import Any

import msgspec
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from client import ChainVerifier
from client.chain import decode_link
from gateway import replays
from gateway.hub import Hub
from models.checkpoint import Checkpoint, encode_checkpoint
from models.settings import Settings
from models.subjects import Streams, raw_subject, state_subject, ticks_subject
from streaming.broker.jetstream import JetStreamLog
from streaming.broker.log import LogMessage
from streaming.normalize import Normalizer
from tests.clients import Run, in_node, in_python, proxied
from tests.commands import MAIN, run_watch
from tests.gateways import (
    PRODUCT,
    SUBJECT,
    RunningGateway,
    numbers,
    receive,
    running_gateway,
    snapshot,
    subscriber,
    tick,
)
from tests.ingesting import NOW, ingest, match
from tests.servers import PATIENCE_S, NatsServer, eventually, port_open
from venues.coinbase.mapper import decode

MONDAY, TUESDAY = "replay-monday", "replay-tuesday"
TICKER: dict[str, Any] = {"products": [PRODUCT], "feeds": ["ticker"]}
POISON = tick(999)
MONDAYS = {**TICKER, "namespace": MONDAY}


def subject(namespace: str = MONDAY, product: str = PRODUCT) -> str:
    """Return the subject of a product's ticks in a replay."""
    return ticks_subject(0, "coinbase", product, namespace)


async def make(log: JetStreamLog, settings: Settings, *namespaces: str) -> None:
    """Make the streams of replays."""
    for namespace in namespaces:
        await log.ensure_streams(settings.model_copy(update={"replay_namespace": namespace}))


async def delete(log: JetStreamLog, namespace: str) -> None:
    """Delete the streams of a replay."""
    streams = Streams.of_replay(namespace)
    for stream in (streams.raw, streams.ticks, streams.state, streams.resync, streams.dead):
        await log._js.delete_stream(stream)


async def readers(log: JetStreamLog, namespace: str) -> int:
    """Return how many read a replay's ticks; the server remembers those who have left a while."""
    found = await log._js.consumers_info(Streams.of_replay(namespace).ticks)
    return sum(bool(consumer.push_bound) for consumer in found)


async def left(log: JetStreamLog, namespace: str) -> bool:
    """Tell whether nobody reads a replay any more."""
    return await readers(log, namespace) == 0


async def ask(client: ClientConnection, **request: Any) -> Any:
    """Subscribe and return the answer."""
    await client.send(json.dumps({"op": "subscribe", **request}))
    return (await receive(client, 1))[0]


async def verified(client: ClientConnection, last: int) -> tuple[list[str], int]:
    """Read a chain up to a number; return the ops and how many links were verified."""
    verifier, ops, seq = ChainVerifier(), [], -1
    async with asyncio.timeout(PATIENCE_S):
        while seq < last:
            message = json.loads(await client.recv())
            link = decode_link(msgspec.json.encode(message["data"]))
            verifier.check(link)
            ops.append(message["op"])
            seq = link.seq
    return ops, verifier.verified


async def test_subscriber_of_a_replay_gets_a_snapshot_and_every_change_after_it(
    log: JetStreamLog, settings: Settings
) -> None:
    """The same protocol, told apart by the namespace that `subscribed` repeats."""
    await make(log, settings, MONDAY)
    await log.publish(subject(), tick(1) + b"\n" + tick(2))
    async with running_gateway(settings) as gateway, subscriber(gateway, **MONDAYS) as client:
        (acknowledged,) = await receive(client, 1)
        assert {**acknowledged, "epoch": ""} == {"op": "subscribed", **MONDAYS, "epoch": ""}
        for seq in range(3, 203):
            await log.publish(subject(), tick(seq))
        ops, links = await verified(client, 202)
        assert ops == ["snapshot"] + ["incr"] * links
        assert links >= 200
        assert await gateway.metric("md_gateway_clients") == 1
        assert await gateway.metric("md_gateway_replays") == 1


async def test_replay_begins_from_the_state_that_it_was_given(
    log: JetStreamLog, settings: Settings
) -> None:
    """Checkpoints that are there before the first tick are at position 0 of its own log."""
    await make(log, settings, MONDAY)
    book = snapshot(40, '{"bids":[["7","1"]],"asks":[]}', feed="book")
    given = Checkpoint("coinbase", PRODUCT, 0, 0, [msgspec.Raw(book)], msgspec.Raw(b"{}"))
    payload, headers = encode_checkpoint(given)
    await log.publish(state_subject(0, "coinbase", PRODUCT, MONDAY), payload, headers=headers)
    await log.publish(raw_subject(0, "coinbase", PRODUCT, MONDAY), b"{}")
    wanted = {**MONDAYS, "feeds": ["book"]}
    async with running_gateway(settings) as gateway, subscriber(gateway, **wanted) as client:
        _, begun = await receive(client, 2)
        assert (begun["data"]["seq"], begun["data"]["state"]["bids"]) == (40, [["7", "1"]])
        await log.publish(subject(), tick(41, feed="book"))
        assert numbers(await receive(client, 1)) == [("incr", 41)]
        async with subscriber(gateway, **wanted, from_seq={PRODUCT: 40}) as resumed:
            _, answer, first = await receive(resumed, 3)
            assert (answer["recovered"], answer["source"]) == (True, "log")
            assert numbers([first]) == [("incr", 41)]


async def test_replay_of_frames_says_the_same_as_they_said_live(
    log: JetStreamLog, settings: Settings
) -> None:
    """The same frames through a normalizer of each: the same messages, to the last byte."""
    count = 200
    await make(log, settings, MONDAY)
    live, monday = Streams(), Streams.of_replay(MONDAY)
    await ingest(log, [(NOW + n, match(n)) for n in range(1, count + 1)], [PRODUCT])
    async with aclosing(log.read(live.raw, live.every("raw"))) as messages:
        async for message in messages:
            await log.publish(raw_subject(0, "coinbase", PRODUCT, MONDAY), message.payload)
            if message.seq == await log.end(live.raw):
                break
    running: list[asyncio.Task[None]] = []
    trades: dict[str, Any] = {"products": [PRODUCT], "feeds": ["trades"]}
    async with (
        running_gateway(settings) as gateway,
        subscriber(gateway, **trades) as first,
        subscriber(gateway, **trades, namespace=MONDAY) as again,
        asyncio.TaskGroup() as tasks,
    ):
        for client in (first, again):
            assert (await receive(client, 2))[1]["data"]["seq"] == 0
        for streams in (live, monday):
            normalizer = Normalizer(log, streams, "coinbase", 0, decode, tasks)
            running.append(tasks.create_task(normalizer.run()))
        said = [[await client.recv() for _ in range(count)] for client in (first, again)]
        assert said[0] == said[1]
        assert json.loads(said[0][-1])["data"]["seq"] == 10 * count
        for task in running:
            task.cancel()


async def test_live_and_replays_side_by_side_have_nothing_in_common(
    log: JetStreamLog, settings: Settings
) -> None:
    """The same product three times, written to in turn: each subscriber has its own content."""
    await make(log, settings, MONDAY, TUESDAY)
    places = {None: (SUBJECT, 0), MONDAY: (subject(), 10_000), TUESDAY: (subject(TUESDAY), 20_000)}
    for where, first in places.values():
        await log.publish(where, snapshot(first))
    async with (
        running_gateway(settings) as gateway,
        subscriber(gateway, **TICKER) as live,
        subscriber(gateway, **MONDAYS) as monday,
        subscriber(gateway, **TICKER, namespace=TUESDAY) as tuesday,
    ):
        clients = dict(zip(places, (live, monday, tuesday), strict=True))
        for client in clients.values():
            await receive(client, 1)
        for number in range(1, 101):
            for where, first in places.values():
                await log.publish(where, tick(first + number))
        for name, (_, first) in places.items():
            got = numbers(await receive(clients[name], 101))
            assert got == [("snapshot", first)] + [("incr", first + n) for n in range(1, 101)]
        epochs = {(await ask(client, **TICKER))["epoch"] for client in clients.values()}
        assert len(epochs) == 3
        # REST, the gaps and the state of the products are those of what is live.
        products = (await gateway.get("/v1/products")).json()
        assert products[0]["feeds"][0]["seq"] == 100


async def test_replay_is_resumed_from_its_own_past_and_no_other(
    log: JetStreamLog, settings: Settings
) -> None:
    """`from_seq` works from memory and from the log of the replay; a live position is refused."""
    await make(log, settings, MONDAY)
    await log.publish(SUBJECT, tick(5))
    for seq in range(1, 51):
        await log.publish(subject(), tick(seq))
    async with (
        running_gateway(settings, gateway_ring_bytes=0) as gateway,
        subscriber(gateway, **TICKER) as live,
        subscriber(gateway, **MONDAYS, from_seq={PRODUCT: 10}) as client,
    ):
        (acknowledged,) = await receive(live, 1)
        own, answer, *ticks = await receive(client, 2 + 40)
        assert (answer["recovered"], answer["source"]) == (True, "log")
        assert numbers(ticks) == [("incr", seq) for seq in range(11, 51)]
        assert own["epoch"] != acknowledged["epoch"]
        epoch = acknowledged["epoch"]
        async with subscriber(gateway, **MONDAYS, from_seq={PRODUCT: 5}, epoch=epoch) as other:
            _, answer, begun = await receive(other, 3)
            assert (answer["recovered"], answer["reason"]) == (False, "epoch")
            assert (begun["recovered"], begun["data"]["seq"]) == (False, 50)
    async with (
        running_gateway(settings) as gateway,
        subscriber(gateway, **MONDAYS, from_seq={PRODUCT: 10}) as client,
    ):
        _, answer, *ticks = await receive(client, 2 + 40)
        assert (answer["recovered"], answer["source"]) == (True, "ring")
        assert numbers(ticks) == [("incr", seq) for seq in range(11, 51)]


async def test_products_of_a_replay_are_those_that_it_has(
    log: JetStreamLog, settings: Settings
) -> None:
    """Known by its frames, or its ticks; others are not, even if they are live; `*` is all."""
    await make(log, settings, MONDAY)
    await log.publish(raw_subject(0, "coinbase", "OLD-USD", MONDAY), b"{}")
    await log.publish(raw_subject(0, "coinbase", "_", MONDAY), b"{}")
    await log.publish(subject(), tick(1))
    async with running_gateway(settings) as gateway, subscriber(gateway) as client:
        unknown = await ask(client, products=["ETH-USD"], namespace=MONDAY)
        assert unknown["code"] == "unknown_product"
        assert "known: BTC-USD, OLD-USD." in unknown["msg"]
        assert (await ask(client, **MONDAYS, max_rate=5))["namespace"] == MONDAY
        await receive(client, 1)
        async with subscriber(gateway, products=["*"], feeds=["ticker"], namespace=MONDAY) as every:
            begun = await receive(every, 3)
            assert {message["data"]["product"] for message in begun[1:]} == {PRODUCT, "OLD-USD"}
            await log.publish(subject(product="NEW-USD"), tick(1, product="NEW-USD"))
            opening, first = await receive(every, 2)
            assert (opening["data"]["product"], first["op"]) == ("NEW-USD", "incr")


async def test_namespace_that_cannot_be_served_is_an_error_that_leaves_the_connection_up(
    log: JetStreamLog, settings: Settings
) -> None:
    """A name that cannot be one, one that is not there, and another one than before."""
    await make(log, settings, MONDAY, TUESDAY)
    await log.publish(subject(), tick(1))
    await log.publish(subject(TUESDAY), tick(1))
    bad = ["market", "replay-", "replay-Monday", "replay-a.b", "replay-" + "a" * 42, "", 7]
    async with running_gateway(settings) as gateway, subscriber(gateway) as client:
        for name in bad:
            answer = await ask(client, **TICKER, namespace=name)
            assert (answer["op"], answer["code"]) == ("error", "bad_field"), name
            assert "such as replay-monday" in answer["msg"]
        missing = await ask(client, **TICKER, namespace="replay-nowhere")
        assert missing["code"] == "unknown_namespace"
        assert "replay-nowhere" in missing["msg"]
        assert (await ask(client, **MONDAYS))["op"] == "subscribed"
        await receive(client, 1)
        other = await ask(client, **TICKER, namespace=TUESDAY)
        assert other["code"] == "other_namespace"
        await log.publish(subject(TUESDAY), tick(2))
        await log.publish(SUBJECT, tick(3))
        await log.publish(subject(), tick(2))
        assert numbers(await receive(client, 1)) == [("incr", 2)]
        async with subscriber(gateway, **TICKER) as live:
            await receive(live, 2)
            assert (await ask(live, **MONDAYS))["code"] == "other_namespace"
            await log.publish(SUBJECT, tick(4))
            assert numbers(await receive(live, 1)) == [("incr", 4)]


async def test_replays_at_a_time_are_bounded_and_one_without_subscribers_makes_room(
    log: JetStreamLog, settings: Settings
) -> None:
    """Beyond GATEWAY_MAX_REPLAYS a newcomer is refused; none is closed under its subscribers."""
    await make(log, settings, MONDAY, TUESDAY)
    for namespace in (MONDAY, TUESDAY):
        await log.publish(subject(namespace), tick(1))
    tuesdays = {**TICKER, "namespace": TUESDAY}
    async with running_gateway(settings, gateway_max_replays=1) as gateway:
        async with subscriber(gateway, **MONDAYS) as first, subscriber(gateway) as second:
            await receive(first, 2)
            full = await ask(second, **tuesdays)
            assert full["code"] == "too_many_replays"
            assert MONDAY in full["msg"]
            assert (await ask(second, **MONDAYS))["op"] == "subscribed"
        await eventually(lambda: clients(gateway, 0))
        async with subscriber(gateway, **tuesdays) as third:
            assert (await receive(third, 1))[0]["namespace"] == TUESDAY
            assert await gateway.metric("md_gateway_replays") == 1
    async with (
        running_gateway(settings, gateway_max_replays=0) as gateway,
        subscriber(gateway) as client,
    ):
        assert (await ask(client, **MONDAYS))["code"] == "too_many_replays"


async def clients(gateway: RunningGateway, count: int) -> bool:
    """Tell whether so many subscribers are connected."""
    return await gateway.metric("md_gateway_clients") == count


async def test_replay_is_left_some_time_after_its_last_subscriber(
    log: JetStreamLog, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes back meanwhile finds it open; then no reader is left on the log."""
    monkeypatch.setattr(replays, "LINGER_S", 0.5)
    await make(log, settings, MONDAY)
    await log.publish(subject(), tick(1))
    async with running_gateway(settings) as gateway:
        for _ in range(2):
            async with subscriber(gateway, **MONDAYS) as first:
                await receive(first, 2)
                async with subscriber(gateway, **MONDAYS) as second:
                    await receive(second, 2)
                    assert await readers(log, MONDAY) == 1
                await asyncio.sleep(0.7)
                assert await readers(log, MONDAY) == 1
            await eventually(lambda: left(log, MONDAY))
            assert await gateway.metric("md_gateway_replays") == 0


async def test_replay_that_is_deleted_closes_its_subscribers_and_nobody_else(
    log: JetStreamLog, settings: Settings
) -> None:
    """They are told why, and so is whoever comes then; live subscribers go on."""
    await make(log, settings, MONDAY)
    await log.publish(subject(), tick(1))
    async with (
        running_gateway(settings) as gateway,
        subscriber(gateway, **TICKER) as live,
        subscriber(gateway, **MONDAYS) as client,
    ):
        await receive(live, 2)
        await receive(client, 2)
        await delete(log, MONDAY)
        async with asyncio.timeout(PATIENCE_S):
            await client.wait_closed()
        assert client.close_code == replays.GONE
        assert MONDAY in (client.close_reason or "")
        async with subscriber(gateway) as late:
            assert (await ask(late, **MONDAYS))["code"] == "unknown_namespace"
            await make(log, settings, MONDAY)
            await log.publish(subject(), tick(7, 0))
            assert (await ask(late, **MONDAYS))["op"] == "subscribed"
            assert numbers(await receive(late, 1)) == [("snapshot", 7)]
        await log.publish(SUBJECT, tick(1))
        assert numbers(await receive(live, 1)) == [("incr", 1)]


async def test_replay_that_is_made_anew_under_its_subscribers_is_not_mixed_with_the_old_one(
    log: JetStreamLog, settings: Settings
) -> None:
    """The positions and links of the old one mean nothing in the new one."""
    await make(log, settings, MONDAY)
    await log.publish(subject(), tick(1))
    async with running_gateway(settings) as gateway, subscriber(gateway, **MONDAYS) as client:
        await receive(client, 2)
        await delete(log, MONDAY)
        await make(log, settings, MONDAY)
        await log.publish(subject(), tick(2))
        async with asyncio.timeout(PATIENCE_S):
            await client.wait_closed()
        assert (client.close_code, client.close_reason) == (
            1013,
            "replay-monday has been made anew: come again",
        )
        async with subscriber(gateway, **MONDAYS) as anew:
            assert numbers((await receive(anew, 2))[1:]) == [("snapshot", 2)]


async def test_broken_replay_ends_alone(
    log: JetStreamLog, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What breaks in its hub ends that hub; live subscribers and other replays go on.

    No message is known that breaks a hub, so it is broken here by a fault of ours.
    """
    apply = Hub.apply

    def fails(hub: Hub, message: LogMessage) -> None:
        if message.payload == POISON:
            raise RuntimeError("a fault of ours")
        apply(hub, message)

    monkeypatch.setattr(Hub, "apply", fails)
    await make(log, settings, MONDAY, TUESDAY)
    for namespace in (MONDAY, TUESDAY):
        await log.publish(subject(namespace), tick(1))
    async with (
        running_gateway(settings) as gateway,
        subscriber(gateway, **TICKER) as live,
        subscriber(gateway, **MONDAYS) as broken,
        subscriber(gateway, **TICKER, namespace=TUESDAY) as whole,
    ):
        for client in (live, broken, whole):
            await receive(client, 2)
        await log.publish(subject(MONDAY), POISON)
        async with asyncio.timeout(PATIENCE_S):
            await broken.wait_closed()
        assert broken.close_code == 1011
        async with subscriber(gateway, **MONDAYS) as again, asyncio.timeout(PATIENCE_S):
            await again.wait_closed()
            assert again.close_code == 1011
        await log.publish(SUBJECT, tick(1))
        await log.publish(subject(TUESDAY), tick(2))
        assert numbers(await receive(live, 1)) == [("incr", 1)]
        assert numbers(await receive(whole, 1)) == [("incr", 2)]
        assert (await gateway.get("/healthz")).status_code == 200


async def test_replay_that_has_not_begun_is_to_be_asked_for_again(
    log: JetStreamLog, settings: Settings
) -> None:
    """Nobody could tell what state it begins from; 1013 brings clients back."""
    await make(log, settings, MONDAY)
    async with running_gateway(settings) as gateway:
        async with subscriber(gateway, **MONDAYS) as early, asyncio.timeout(PATIENCE_S):
            await early.wait_closed()
            assert (early.close_code, early.close_reason) == (
                1013,
                "replay-monday has not begun: come again",
            )
        await log.publish(subject(), tick(1))
        async with subscriber(gateway, **MONDAYS) as client:
            assert numbers((await receive(client, 2))[1:]) == [("snapshot", 1)]


async def test_replay_goes_on_over_a_log_restart(
    log: JetStreamLog, settings: Settings, nats_server: NatsServer
) -> None:
    """A log that is away is waited for; that is no deletion."""
    await make(log, settings, MONDAY)
    await log.publish(subject(), tick(1))
    async with running_gateway(settings) as gateway, subscriber(gateway, **MONDAYS) as client:
        await receive(client, 2)
        nats_server.kill()
        nats_server.start()
        await port_open(nats_server.port)
        await log.publish(subject(), tick(2))
        assert numbers(await receive(client, 1)) == [("incr", 2)]


async def test_drain_reaches_subscribers_of_replays(log: JetStreamLog, settings: Settings) -> None:
    """They are told when to come again, served until they leave, and then closed with 1012."""
    await make(log, settings, MONDAY)
    await log.publish(subject(), tick(1))
    async with (
        running_gateway(settings, gateway_drain_s=0.5) as gateway,
        subscriber(gateway, **MONDAYS) as client,
    ):
        await receive(client, 2)
        gateway.stop()
        assert (await receive(client, 1))[0]["op"] == "drain"
        await log.publish(subject(), tick(2))
        assert numbers(await receive(client, 1)) == [("incr", 2)]
        async with asyncio.timeout(PATIENCE_S):
            await client.wait_closed()
        assert client.close_code == 1012
    await eventually(lambda: left(log, MONDAY))


@pytest.mark.parametrize("run", [in_python, in_node])
async def test_client_library_follows_a_replay_over_a_cut_until_it_is_deleted(
    log: JetStreamLog, settings: Settings, run: Run
) -> None:
    """It resumes within the replay, and ends with the gateway's sentence when that is gone."""
    await make(log, settings, MONDAY)
    await log.publish(SUBJECT, tick(5))
    await log.publish(subject(), tick(1))
    async with (
        running_gateway(settings) as gateway,
        proxied(gateway.port) as proxy,
        run(proxy.url, **MONDAYS) as heard,
    ):
        await eventually(lambda: heard.has(PRODUCT, "ticker", 1))
        await log.publish(subject(), tick(2))
        await eventually(lambda: heard.has(PRODUCT, "ticker", 2))
        proxy.cut()
        await log.publish(SUBJECT, tick(6))
        for seq in range(3, 11):
            await log.publish(subject(), tick(seq))
        await eventually(lambda: heard.has(PRODUCT, "ticker", 10))
        await delete(log, MONDAY)
        await eventually(lambda: heard.refused == "4410")
    seqs = [line["seq"] for line in heard.lines(PRODUCT, "ticker")]
    assert seqs == list(range(1, 11))
    assert {update["recovered"] for update in heard.updates} == {None}


async def test_client_library_waits_for_a_replay_that_has_not_begun(
    log: JetStreamLog, settings: Settings
) -> None:
    """1013 means come again; nothing has to be typed twice."""
    await make(log, settings, MONDAY)
    async with running_gateway(settings) as gateway, in_python(gateway.url, **MONDAYS) as heard:
        await eventually(lambda: any("has not begun" in said for said in heard.said))
        await log.publish(subject(), tick(1))
        await eventually(lambda: heard.has(PRODUCT, "ticker", 1))


async def test_watch_shows_a_replay(log: JetStreamLog, settings: Settings) -> None:
    """`ledgerflux watch --namespace`; a replay that is not there is told."""
    await make(log, settings, MONDAY)
    await log.publish(SUBJECT, tick(5))
    await log.publish(subject(), tick(1))
    async with running_gateway(settings) as gateway:
        what = (PRODUCT, "--feeds", "ticker", "--json", "--url", gateway.url, "--namespace")
        missing = asyncio.create_task(run_watch(*what, TUESDAY))
        watching = await asyncio.create_subprocess_exec(
            sys.executable, "-c", MAIN, *what, MONDAY, stdout=PIPE, stderr=PIPE
        )
        assert watching.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            line = await watching.stdout.readline()
            watching.terminate()
            rest, said = await watching.communicate()
        assert json.loads(line)["seq"] == 1
        assert (watching.returncode, rest) == (0, b"")
        assert b"1 messages, 0 links verified, 0 broken" in said
        code, _, complaint = await missing
        assert code == 1
        assert "no replay replay-tuesday is on the log" in complaint


async def test_replay_that_takes_long_to_read_is_to_be_asked_for_again(
    log: JetStreamLog, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits without a bound, and whoever comes back finds it read by then."""
    monkeypatch.setattr(replays, "READY_WITHIN_S", 0.2)
    await make(log, settings, MONDAY)
    await log.publish(subject(), tick(1))
    # Half of a record: the end of the log that is waited for, and never comes.
    await log.publish(subject(), b"half", headers={"LF-Part": "dead-1/1/2"})
    async with running_gateway(settings) as gateway:
        async with subscriber(gateway, **MONDAYS) as early, asyncio.timeout(PATIENCE_S):
            await early.wait_closed()
        assert early.close_code == 1013

        async def served() -> bool:
            async with subscriber(gateway) as client:
                await client.send(json.dumps({"op": "subscribe", **MONDAYS}))
                try:
                    return bool(json.loads(await client.recv())["op"] == "subscribed")
                except ConnectionClosed:
                    return False

        await eventually(served)


async def test_subscribers_that_come_together_share_one_reader_and_those_who_go_leave_none(
    log: JetStreamLog, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some wait for the replay to be read, others hang up meanwhile."""
    monkeypatch.setattr(replays, "LINGER_S", 0.1)
    await make(log, settings, MONDAY)
    await log.publish(subject(), tick(1))
    await log.publish(subject(), b"half", headers={"LF-Part": "dead-1/1/2"})
    async with running_gateway(settings) as gateway, AsyncExitStack() as staying:
        async with AsyncExitStack() as going:
            stay = [
                await staying.enter_async_context(subscriber(gateway, **MONDAYS)) for _ in range(5)
            ]
            for _ in range(5):
                await going.enter_async_context(subscriber(gateway, **MONDAYS))
            await eventually(lambda: clients(gateway, 10))
        for client in stay:
            assert numbers((await receive(client, 2))[1:]) == [("snapshot", 1)]
        await eventually(lambda: clients(gateway, 5))
        assert await readers(log, MONDAY) == 1
        await staying.aclose()
        await eventually(lambda: clients(gateway, 0))
        await eventually(lambda: left(log, MONDAY))


async def test_replay_without_a_log_is_to_be_asked_for_again(
    log: JetStreamLog,
    settings: Settings,
    nats_server: NatsServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The connection is closed within a bound; the live hub waits for its log as ever."""
    monkeypatch.setattr(replays, "LOG_WITHIN_S", 0.3)
    await make(log, settings, MONDAY)
    await log.publish(subject(), tick(1))
    async with running_gateway(settings) as gateway:
        async with subscriber(gateway) as client, asyncio.timeout(PATIENCE_S):
            nats_server.kill()
            await client.send(json.dumps({"op": "subscribe", **MONDAYS}))
            await client.wait_closed()
        assert (client.close_code, client.close_reason) == (
            1013,
            "the log cannot be reached: come again",
        )
        nats_server.start()
        await port_open(nats_server.port)
        await eventually(gateway.ready)
        async with subscriber(gateway, **MONDAYS) as again:
            assert numbers((await receive(again, 2))[1:]) == [("snapshot", 1)]
