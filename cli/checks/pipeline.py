"""Who works on the log, as the log itself tells: ingestors, normalizers, the snapshot worker."""

from cli.checks.finding import Finding, broken, ok
from cli.situation.feeds import SILENCES, now_us
from cli.situation.shards import shards
from models.settings import Settings
from streaming.broker.inspection import Inspector
from streaming.broker.log import LogError
from workers.snapshot import READER

PIPELINE = "pipeline"
_INGESTOR, _NORMALIZER, _SNAPSHOT = "ingestor", "normalizer", "snapshot"


async def pipeline(settings: Settings, answer_s: float) -> list[Finding]:
    """Look for who should bring, normalize and keep the data."""
    if settings.replay_namespace is not None:
        return [ok(PIPELINE, "not looked at: with REPLAY_NAMESPACE it is the replay worker's")]
    try:
        async with Inspector.connect(settings, answer_s=answer_s) as inspector:
            return [
                await _ingestor(inspector, settings),
                await _normalizer(inspector, settings),
                await _snapshot(inspector, settings),
            ]
    except LogError:
        return [broken(PIPELINE, "cannot be looked at before NATS answers and has the streams")]


async def _ingestor(inspector: Inspector, settings: Settings) -> Finding:
    """Tell when anything came last; each line says of itself whether it brings something."""
    name, cure = settings.streams.raw, "start an ingestor (`make run-ingestor`)"
    newest = await inspector.last(name, settings.streams.every("raw"))
    if newest is None:
        return broken(_INGESTOR, f"nothing has ever come into {name}: {cure}")
    age_s = (now_us() - newest.time_us) / 1e6
    if age_s > SILENCES * settings.coinbase_silence_s:
        return broken(
            _INGESTOR,
            f"nothing has come into {name} for {age_s:.0f} s: {cure}, or see its log and the "
            "venue's lines here",
        )
    return ok(_INGESTOR, f"the newest record is {max(0.0, age_s):.1f} s old")


async def _normalizer(inspector: Inspector, settings: Settings) -> Finding:
    known = await shards(inspector, settings, now_us())
    wrong = [text for row in known if (text := row.trouble(now_us()))]
    if wrong:
        return broken(_NORMALIZER, "; ".join(wrong))
    return ok(_NORMALIZER, f"every shard has one: {len(known)}")


async def _snapshot(inspector: Inspector, settings: Settings) -> Finding:
    readers = [one.reader for one in await inspector.consumers(settings.streams.ticks)]
    if READER in readers:
        return ok(_SNAPSHOT, "a worker follows the ticks")
    return broken(
        _SNAPSHOT,
        "nobody keeps the latest state: start a snapshot worker (`python -m workers.snapshot`)",
    )
