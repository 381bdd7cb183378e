"""Which latest-state store the settings name: the one place that knows both."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from models.settings import Settings
from storage.errors import MissingStoreError
from storage.latest import LatestStore
from storage.latest_nats import NatsLatestStore

if TYPE_CHECKING:
    from storage.latest_dynamodb import DynamoLatestStore

_SHARE = 16
"""A bucket may have this part of a data stream's bytes: the default's takes 10,000 deep books."""


@asynccontextmanager
async def latest_store(settings: Settings, *, create: bool = False) -> AsyncIterator[LatestStore]:
    """Give the store of LATEST_STORE; with `create` its bucket or table is made if it is missing.

    Raises:
        StorageError: it cannot be reached or made.
    """
    if settings.latest_store == "nats":
        async with NatsLatestStore.connect(settings) as rows:
            if create:
                await rows.create_bucket(settings.js_max_bytes // _SHARE)
            yield rows
        return
    # Most do without AWS's library, and it takes 10 MB.
    from storage.latest_dynamodb import DynamoLatestStore  # noqa: PLC0415

    async with DynamoLatestStore.connect(settings) as items:
        if create:
            await _ensure_table(items)
        yield items


async def _ensure_table(items: "DynamoLatestStore") -> None:
    """Create the table only where there is none: a role that may write need not be able to."""
    try:
        await items.get("_", "_")
    except MissingStoreError:
        await items.create_table()
