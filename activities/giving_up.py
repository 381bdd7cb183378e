"""Tells the normalizer that a gap will not be recovered: its feed is `stale` from then on."""

import time

from temporalio import activity

from models.records import ResyncMarker, marker_line
from models.recovery import GiveUp
from models.subjects import raw_subject, shard_of
from streaming.broker.log import Log


class GivingUpActivities:
    """Activity of the `resync` task queue that writes into MD_RAW."""

    def __init__(self, log: Log, shard_count: int) -> None:
        self._log, self._shards = log, shard_count

    @activity.defn
    async def give_up(self, told: GiveUp) -> int:
        """Publish a marker without an answer; return its position. May be repeated."""
        marker = ResyncMarker(told.resync_id, told.feed, given_up=told.sentence)
        return await self._log.publish(
            raw_subject(shard_of(told.venue, told.product, self._shards), told.venue, told.product),
            marker_line(time.time_ns() // 1000, marker),
            message_id=f"{told.resync_id}#{told.run}-given-up",
        )
