"""The object store of the lake, proved with an object of our own, and the latest-state store."""

import secrets

import botocore.exceptions as boto

from cli.checks.finding import Finding, broken, ok
from models.settings import Settings
from storage.aws import aws_client
from storage.errors import (
    UNREACHED,
    BadRequestError,
    DeniedError,
    MissingStoreError,
    ObjectMissingError,
    StorageError,
    UnavailableError,
    WrongRegionError,
    explained,
)
from storage.latest_nats import NatsLatestStore
from storage.objects import ObjectStore

PROBES = "doctor/"
"""Where the probes are put in the bucket, each for a moment; nothing reads below it."""

_S3, _LATEST = "s3", "latest state"
_CURES: dict[type[StorageError], str] = {
    MissingStoreError: "check S3_BUCKET",
    DeniedError: "S3_ACCESS_KEY and S3_SECRET_KEY or the role must let us list, get, put, delete",
    WrongRegionError: "check S3_REGION",
    ObjectMissingError: "check S3_ENDPOINT: what answers there may be no object store",
    UnavailableError: "check S3_ENDPOINT",
}


async def object_store(settings: Settings, _: float) -> list[Finding]:
    """Put, read back and delete an object; what must be refused is tried as well."""
    if not settings.has_lake:
        return [ok(_S3, "not used: none of S3_ENDPOINT, S3_ACCESS_KEY and S3_REGION is set")]
    place = f"{settings.s3_bucket} at {settings.s3_endpoint or 'AWS'}"
    try:
        # One attempt: whoever asks a doctor wants to know of the first that fails.
        async with aws_client("s3", settings, attempts=1) as client:
            store = ObjectStore(client, settings.s3_bucket, settings.s3_region)
            return await _probed(store, place)
    except StorageError as error:
        cure = next((text for kind, text in _CURES.items() if isinstance(error, kind)), "")
        # The place in the error is our probe's, which nobody knows.
        sentence = str(error).removeprefix(f"{error.place}: ")
        return [broken(_S3, f"{place}: {sentence}" + (f"; {cure}" if cure else ""))]
    except (boto.BotoCoreError, ValueError) as error:
        return [broken(_S3, f"{place}: {explained(error, place)}")]


async def _probed(store: ObjectStore, place: str) -> list[Finding]:
    key, data = f"{PROBES}{secrets.token_hex(8)}", b"put by `ledgerflux doctor`"
    await store.put_new(key, data)
    try:
        overwritten = await store.put_new(key, b"this must be refused")
        if overwritten:
            return [
                broken(
                    _S3,
                    f"{place}: does not honour `If-None-Match: *`, so two archivers could "
                    "overwrite each other; use a store that does (AWS, MinIO, localbucket)",
                )
            ]
        if await store.get(key) != data:
            return [broken(_S3, f"{place}: what was read back is not what was put")]
        listed = [one.key async for one in store.keys(key)]
        if listed != [key]:
            return [broken(_S3, f"{place}: does not list an object that it has just taken")]
    finally:
        await store.delete(key)
    return [ok(_S3, f"{place}: an object was put, listed, read and deleted; repeats are refused")]


async def latest_state(settings: Settings, answer_s: float) -> list[Finding]:
    """Look for the bucket or the table, and whether rows can be asked for."""
    if settings.latest_store == "nats":
        return [await _bucket(settings, answer_s)]
    return [await _table(settings)]


async def _bucket(settings: Settings, answer_s: float) -> Finding:
    name = f"key-value bucket {settings.js_stream_name}_LATEST"
    try:
        async with NatsLatestStore.connect(settings, wait_s=answer_s) as store:
            await store.get("_", "_")
    except MissingStoreError:
        return broken(
            _LATEST, f"{name} does not exist; start a snapshot worker (`workers.snapshot`)"
        )
    except StorageError as error:
        return broken(_LATEST, str(error))
    return ok(_LATEST, f"{name} answers")


async def _table(settings: Settings) -> Finding:
    where = settings.ddb_endpoint or "AWS"
    name = f"DynamoDB table {settings.ddb_table} at {where}"
    try:
        async with aws_client("dynamodb", settings, attempts=1) as client:
            await client.get_item(TableName=settings.ddb_table, Key={"product": {"S": "_"}})
    except (boto.BotoCoreError, boto.ClientError, ValueError, *UNREACHED) as error:
        return broken(_LATEST, _told(explained(error, name)))
    return ok(_LATEST, f"{name} answers")


def _told(error: StorageError) -> str:
    if isinstance(error, MissingStoreError):
        return f"{error}; the snapshot worker creates it, or check DDB_TABLE and DDB_ENDPOINT"
    if isinstance(error, DeniedError):
        return f"{error}; check S3_ACCESS_KEY and S3_SECRET_KEY or the role"
    if isinstance(error, BadRequestError):
        return f"{error}; its partition key must be `product`, text, and it must have no other"
    if isinstance(error, UnavailableError):
        return f"{error}; check DDB_ENDPOINT"
    return str(error)
