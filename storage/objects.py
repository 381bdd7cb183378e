"""Objects in one S3 bucket: put once, get, list, delete, with errors that say what to do.

Works with AWS S3, MinIO and localbucket. Knows nothing of what the objects hold.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import botocore.exceptions as boto

from models.settings import Settings
from storage.aws import DEFAULT_REGION, aws_client
from storage.errors import UNREACHED, ObjectMissingError, StorageError, code_of, explained

_FAILURES = (boto.BotoCoreError, boto.ClientError, *UNREACHED)
_PART_BYTES = 1024**2
_EXISTS = frozenset({"PreconditionFailed", "412"})
_OURS = frozenset({"BucketAlreadyOwnedByYou", "BucketAlreadyExists"})


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object in a listing."""

    key: str
    size_bytes: int


class ObjectStore:
    """One bucket. Attributes: bucket, its name.

    Every call raises a `StorageError` when it fails; see `storage.errors`.
    """

    def __init__(self, client: Any, bucket: str, region: str | None) -> None:  # noqa: ANN401
        self._client, self.bucket, self._region = client, bucket, region

    @classmethod
    @asynccontextmanager
    async def connect(cls, settings: Settings) -> AsyncIterator[Self]:
        """Give the bucket of the settings; nothing is asked of it yet."""
        async with aws_client("s3", settings) as client:
            yield cls(client, settings.s3_bucket, settings.s3_region)

    async def create_bucket(self) -> None:
        """Create the bucket unless it exists: the embedded store's; others are made by people."""
        region = self._region
        where = {} if region in {None, DEFAULT_REGION} else {"LocationConstraint": region}
        more = {"CreateBucketConfiguration": where} if where else {}
        try:
            await self._client.create_bucket(Bucket=self.bucket, **more)
        except _FAILURES as error:
            if code_of(error) not in _OURS:
                raise self._explained(error, "") from error

    async def put_new(self, key: str, data: bytes) -> bool:
        """Store an object unless there is one of that name; tell whether this call stored it.

        A repeat after a lost answer may find its own object and tell false: compare what is there.
        """
        try:
            await self._client.put_object(Bucket=self.bucket, Key=key, Body=data, IfNoneMatch="*")
        except _FAILURES as error:
            if code_of(error) in _EXISTS:
                return False
            raise self._explained(error, key) from error
        return True

    async def get(self, key: str) -> bytes:
        """Return an object.

        Raises:
            ObjectMissingError: there is none of that name.
        """
        try:
            answer = await self._client.get_object(Bucket=self.bucket, Key=key)
            async with answer["Body"] as body:
                data: bytes = await body.read()
        except _FAILURES as error:
            raise self._explained(error, key) from error
        return data

    async def download(self, key: str, path: Path) -> None:
        """Copy an object into a new file, in bounded memory.

        Raises:
            ObjectMissingError: there is none of that name.
        """
        try:
            answer = await self._client.get_object(Bucket=self.bucket, Key=key)
            body = answer["Body"]
            with path.open("xb") as file:
                async with body:
                    async for part in body.iter_chunks(_PART_BYTES):
                        file.write(part)
        except _FAILURES as error:
            raise self._explained(error, key) from error

    async def keys(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        """Iterate over the objects below a prefix, in the order of their names."""
        pages = self._client.get_paginator("list_objects_v2")
        try:
            async for page in pages.paginate(
                Bucket=self.bucket, Prefix=prefix, **({"StartAfter": after} if after else {})
            ):
                for one in page.get("Contents", ()):
                    yield ObjectInfo(one["Key"], one["Size"])
        except _FAILURES as error:
            raise self._explained(error, prefix) from error

    async def folders(self, prefix: str) -> list[str]:
        """Return the folders right below a prefix, as longer prefixes, in order."""
        pages = self._client.get_paginator("list_objects_v2")
        found: list[str] = []
        try:
            async for page in pages.paginate(Bucket=self.bucket, Prefix=prefix, Delimiter="/"):
                found += [one["Prefix"] for one in page.get("CommonPrefixes", ())]
        except _FAILURES as error:
            raise self._explained(error, prefix) from error
        return found

    async def delete(self, key: str) -> None:
        """Delete an object; one that is gone already does not matter."""
        try:
            await self._client.delete_object(Bucket=self.bucket, Key=key)
        except _FAILURES as error:
            explanation = self._explained(error, key)
            if not isinstance(explanation, ObjectMissingError):
                raise explanation from error

    def _explained(self, error: Exception, key: str) -> StorageError:
        return explained(error, f"s3://{self.bucket}/{key}")
