"""LakeAuditWorkflow: what it finds, what it mends, and what it must not believe."""

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError

from models.archiving import LAKE_DAMAGED, AuditReport
from storage.layout import Hour, Piece
from storage.manifest import Entry
from storage.rows import Message
from tests.archiving import STREAMS, Site, publish, site, trade

pytestmark = pytest.mark.long


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Site]:
    """Give an archive with some objects of one lane, all of them still in the log."""
    async with site(tmp_path) as running:
        handle = await running.start(flush_s=0.05)
        for _ in range(5):
            await publish(running, 12)
            await running.archived(handle)
        await handle.signal("stop")
        await handle.result()
        yield running


async def entries(running: Site) -> list[tuple[Hour, Entry]]:
    """Return what is listed."""
    return [(hour, one) for hour, manifest in await running.manifests() for one in manifest.entries]


async def file_of(running: Site, number: int) -> Path:
    """Return the file of one of the objects."""
    hour, entry = (await entries(running))[number]
    lane = await running.lane()
    return running.root / "lake" / lane.key(hour, entry.first, entry.last)


async def damaged(running: Site, **more: object) -> AuditReport:
    """Return the report of an audit that must fail."""
    with pytest.raises(WorkflowFailureError) as raised:
        await running.audit(**more)
    cause = raised.value.cause
    assert isinstance(cause, ApplicationError)
    assert cause.type == LAKE_DAMAGED
    report = AuditReport.model_validate(cause.details[0])
    assert report.outcome == "damaged"
    assert report.sentence == cause.message
    return report


async def mended(running: Site, kind: str) -> None:
    """Check that an audit finds and mends one thing, and that the next one finds nothing."""
    found = await damaged(running, repair=False)
    assert [(one.kind, one.repaired) for one in found.findings] == [(kind, False)]
    report = await running.audit()
    assert [(one.kind, one.repaired) for one in report.findings] == [(kind, True)]
    assert (report.outcome, report.count.repaired) == ("repaired", 1)
    again = await running.audit()
    assert (again.outcome, again.findings, again.count.rows) == ("clean", [], 120)
    assert await running.in_lake() == await running.in_log()
    lines = running.producer.lines
    sql = "SELECT count(*), count(DISTINCT (position, line)) FROM {ticks}"
    assert running.query(sql) == [(lines, lines)]


async def test_whole_lake_is_clean(running: Site) -> None:
    """Every object recounted, every link followed, every message held against the log."""
    report = await running.audit()
    count = report.count
    assert (report.outcome, count.findings, count.holes) == ("clean", 0, 0)
    assert (count.lanes, count.objects, count.rows) == (1, len(await entries(running)), 120)
    assert (count.messages, count.compared) == (60, 60)
    objects = Counter(product for _, entry in await entries(running) for product in entry.spans)
    assert count.links == sum(number - 1 for number in objects.values())
    assert "120 rows" in report.sentence


async def test_deleted_object_is_archived_again(running: Site) -> None:
    """The manifest tells what is gone, and the log still has it."""
    (await file_of(running, 2)).unlink()
    await mended(running, "missing")


async def test_damaged_object_is_archived_again(running: Site) -> None:
    """A flipped byte is noticed by reading, not by its size."""
    file = await file_of(running, 1)
    good = file.read_bytes()
    file.write_bytes(good[:200] + bytes([good[200] ^ 0x55]) + good[201:])
    await mended(running, "damaged")


async def test_object_of_somebody_else_is_replaced(running: Site) -> None:
    """A valid object under the wrong name does not pass."""
    (await file_of(running, 1)).write_bytes((await file_of(running, 2)).read_bytes())
    await mended(running, "damaged")


async def test_unlisted_object_is_listed(running: Site) -> None:
    """What an archiver stored before it died is found by its name."""
    lane = await running.lane()
    (hour, manifest), *_ = await running.manifests()
    last = manifest.entries[-1]
    file = running.root / "lake" / lane.key(hour, last.first, last.last)
    kept = file.read_bytes()
    await _unlist(running, hour, last)
    file.write_bytes(kept)
    await mended(running, "unlisted")


async def _unlist(running: Site, hour: Hour, *gone: Entry) -> None:
    """Take objects out of a manifest and delete them."""
    lane = await running.lane()
    await running.lake._change(
        lane,
        hour,
        lambda known: msgspec.structs.replace(
            known, entries=tuple(one for one in known.entries if one not in gone)
        ),
    )
    for one in gone:
        await running.lake.discard(lane, hour, one.first, one.last)


async def test_range_that_nothing_accounts_for_is_archived(running: Site) -> None:
    """Neighbours must follow one another; what is between them comes from the log."""
    (hour, manifest), *_ = await running.manifests()
    await _unlist(running, hour, manifest.entries[2])
    found = await damaged(running, repair=False)
    assert {one.kind for one in found.findings} == {"gap", "chain"}
    report = await running.audit()
    assert [(one.kind, one.repaired) for one in report.findings] == [("gap", True)]
    assert (await running.audit()).outcome == "clean"
    assert await running.in_lake() == await running.in_log()


async def test_damaged_manifest_gives_way_to_the_one_before(running: Site) -> None:
    """What only the damaged version listed is found and listed again."""
    lane = await running.lane()
    (hour, manifest), *_ = await running.manifests()
    (running.root / "lake" / lane.manifest_key(hour, manifest.version)).write_bytes(b"{")
    report = await running.audit()
    assert [one.kind for one in report.findings] == ["unlisted"]
    assert report.outcome == "repaired"
    assert (await running.audit()).outcome == "clean"
    assert await running.in_lake() == await running.in_log()


async def test_hour_without_a_readable_manifest_is_listed_anew(running: Site) -> None:
    """All versions are damaged: they go, and the objects tell what there is."""
    count = len(await entries(running))
    for file in (running.root / "lake").rglob("manifest-*.json"):
        file.write_bytes(b"{")
    report = await running.audit()
    kinds = [one.kind for one in report.findings]
    assert kinds.count("manifest") >= 1
    assert kinds.count("unlisted") == count
    assert report.outcome == "repaired"
    assert (await running.audit()).outcome == "clean"
    assert await running.in_lake() == await running.in_log()


async def test_loss_that_cannot_be_mended_fails_the_audit(running: Site) -> None:
    """The log has dropped it: the sentence names the object and why."""
    file = await file_of(running, 0)
    file.unlink()
    await running.log._js.purge_stream(STREAMS.ticks, seq=30)
    report = await damaged(running)
    assert [(one.kind, one.repaired) for one in report.findings] == [("missing", False)]
    assert file.name in report.sentence
    assert "does not have these messages any more" in report.sentence
    assert 0 < report.count.compared < report.count.messages


@pytest.mark.parametrize("lost", ["missing", "damaged", "gap"])
async def test_loss_that_is_accepted_is_a_hole_from_then_on(running: Site, lost: str) -> None:
    """Only what the log has no more, and only when told; later audits name it and do not fail."""
    file, (hour, entry) = await file_of(running, 1), (await entries(running))[1]
    if lost == "gap":
        await _unlist(running, hour, entry)
    elif lost == "damaged":
        file.write_bytes(file.read_bytes()[:-30])
    else:
        file.unlink()
    await running.log._js.purge_stream(STREAMS.ticks, seq=entry.last + 5)
    assert (await damaged(running, repair=False, accept_loss=True)).count.holes == 0
    assert (await damaged(running)).count.holes == 0
    report = await running.audit(accept_loss=True)
    assert [(one.kind, one.repaired) for one in report.findings] == [(lost, True)]
    assert "accepted as lost for good" in report.findings[0].sentence
    assert not file.exists()
    for _ in range(2):
        report = await running.audit()
        assert (report.outcome, report.count.holes, report.findings) == ("clean", 1, [])
        assert f"{entry.first}-{entry.last}" in report.holes[0]
    ((_, manifest),) = await running.manifests()
    assert [(one.first, one.last) for one in manifest.holes] == [(entry.first, entry.last)]


async def test_what_the_log_still_has_is_mended_and_no_loss(running: Site) -> None:
    """To accept a loss loses nothing that could be had."""
    (await file_of(running, 1)).unlink()
    report = await running.audit(accept_loss=True)
    assert (report.outcome, report.count.holes) == ("repaired", 0)
    assert await running.in_lake() == await running.in_log()


async def test_object_that_is_not_what_the_log_says_is_found(running: Site) -> None:
    """A lake that is consistent in itself, but wrong, does not pass while the log can tell."""
    (hour, manifest), *_ = await running.manifests()
    lane, last = await running.lane(), manifest.entries[-1]
    wrong = await running.lake.messages(lane, hour, last)
    wrong[0] = wrong[0]._replace(payload=wrong[0].payload.replace(b"65123", b"65124"))
    await _unlist(running, hour, last)
    await running.lake.put(lane, Piece(hour, last.first, last.last, wrong))
    report = await damaged(running)
    assert [one.kind for one in report.findings] == ["differs"]


async def test_broken_chain_is_found_across_objects_and_within(running: Site) -> None:
    """Each link is followed, also over the border of an hour."""
    lane = await running.lane()
    (hour, manifest), *_ = await running.manifests()
    position = manifest.entries[-1].last + 1
    seq = running.producer.seqs["BTC-USD"]
    steps = [(seq + 7, seq), (seq + 21, seq + 14), (seq + 28, seq + 21)]
    for number, (own, before) in enumerate(steps):
        at, line = position + number, trade("BTC-USD", own, before, hour.start_us)
        await running.lake.put(
            lane, Piece(Hour(hour.number + 1), at, at, [Message(at, "BTC-USD", line)])
        )
    report = await damaged(running)
    assert "differs" in {one.kind for one in report.findings}
    chains = [one for one in report.findings if one.kind == "chain"]
    assert len(chains) == 1
    assert f"links to {seq + 14}, but {seq + 7} came before" in chains[0].sentence


async def test_hour_that_cannot_be_read_is_told(running: Site) -> None:
    """A person's slip ends the audit with a sentence."""
    report = await damaged(running, since="yesterday")
    assert "2026-11-20T10" in report.sentence
