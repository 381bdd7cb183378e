"""Latest-state rows in DynamoDB: one item per product, each written by a conditional PutItem.

BatchWriteItem knows no conditions, and TransactWriteItems costs twice and fails as a whole when
one row of a hundred is not newer; so rows are put one by one, many at the same time.
"""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self

import botocore.exceptions as boto

from models.settings import Settings
from storage.aws import aws_client
from storage.errors import UNREACHED, code_of, explained
from storage.latest import LatestRow, all_of, pack, unpack

_AT_ONCE = 32
_RETRIES = 8
_FIRST_WAIT_S = 0.025
_LONGEST_WAIT_S = 1.0
_FAILURES = (boto.BotoCoreError, boto.ClientError, *UNREACHED)
_NEWER = (
    "attribute_not_exists(#product) OR #epoch < :epoch OR (#epoch = :epoch AND #position < "
    ":position)"
)
# Some of these are reserved words.
_NAMES = {"#product": "product", "#epoch": "epoch", "#position": "position"}
_NOT_NEWER = "ConditionalCheckFailedException"
_EXISTS = "ResourceInUseException"


class DynamoLatestStore:
    """A `LatestStore` in one table."""

    def __init__(self, client: Any, table: str) -> None:  # noqa: ANN401
        self._client, self._table = client, table
        self._turn = asyncio.Semaphore(_AT_ONCE)

    @classmethod
    @asynccontextmanager
    async def connect(cls, settings: Settings) -> AsyncIterator[Self]:
        """Give the table of the settings; nothing is asked of it yet."""
        async with aws_client("dynamodb", settings, connections=_AT_ONCE, attempts=1) as client:
            yield cls(client, settings.ddb_table)

    async def create_table(self) -> None:
        """Create the table, paid per request, unless it exists; wait until it can be used."""
        try:
            await self._client.create_table(
                TableName=self._table,
                KeySchema=[{"AttributeName": "product", "KeyType": "HASH"}],
                AttributeDefinitions=[{"AttributeName": "product", "AttributeType": "S"}],
                BillingMode="PAY_PER_REQUEST",
            )
        except _FAILURES as error:
            if code_of(error) != _EXISTS:
                raise explained(error, self._table) from error
        waiter = self._client.get_waiter("table_exists")
        try:
            await waiter.wait(TableName=self._table, WaiterConfig={"Delay": 1, "MaxAttempts": 60})
        except _FAILURES as error:
            raise explained(error, self._table) from error

    async def put(self, rows: Sequence[LatestRow]) -> int:
        """Write those rows that are newer than what is stored; see `LatestStore.put`."""
        items = [_item(row) for row in rows]
        return sum(await all_of(map(self._put, items)))

    async def _put(self, item: dict[str, Any]) -> bool:
        """Write one item; tell whether it was newer than the one before."""
        answer = await self._call(
            self._client.put_item,
            TableName=self._table,
            Item=item,
            ConditionExpression=_NEWER,
            ExpressionAttributeNames=_NAMES,
            ExpressionAttributeValues={":epoch": item["epoch"], ":position": item["position"]},
        )
        return answer is not None

    async def get(self, venue: str, product: str) -> LatestRow | None:
        """Return a row, or none."""
        answer = await self._call(
            self._client.get_item,
            TableName=self._table,
            Key={"product": {"S": f"{venue}/{product}"}},
            ConsistentRead=True,
        )
        return _row(answer["Item"]) if "Item" in answer else None

    async def all(self) -> AsyncIterator[LatestRow]:
        """Iterate over all rows, in no order."""
        more: dict[str, Any] = {}
        while True:
            page = await self._call(
                self._client.scan, TableName=self._table, ConsistentRead=True, **more
            )
            for item in page.get("Items", ()):
                yield _row(item)
            if "LastEvaluatedKey" not in page:
                return
            more = {"ExclusiveStartKey": page["LastEvaluatedKey"]}

    async def _call(self, call: Callable[..., Awaitable[Any]], **request: Any) -> Any:  # noqa: ANN401
        """Call once it is this one's turn, and again while the table is throttled or away.

        Returns none where the request's condition does not hold.
        """
        async with self._turn:
            for attempt in itertools.count():
                try:
                    return await call(**request)
                except _FAILURES as error:
                    if code_of(error) == _NOT_NEWER:
                        return None
                    failure = explained(error, self._table)
                    if failure.is_final or attempt == _RETRIES:
                        raise failure from error
                wait_s = min(_FIRST_WAIT_S * 2**attempt, _LONGEST_WAIT_S)
                await asyncio.sleep(random.uniform(wait_s / 2, wait_s))  # noqa: S311 (jitter)
        return None


def _item(row: LatestRow) -> dict[str, Any]:
    """Return an item; small rows stay text that a person can read in the console."""
    data, compressed = pack(row)
    return {
        "product": {"S": row.key},
        "epoch": {"N": str(row.epoch)},
        "position": {"N": str(row.position)},
        "ts_us": {"N": str(row.ts_us)},
        "lines": {"B": data} if compressed else {"S": data.decode()},
    }


def _row(item: dict[str, Any]) -> LatestRow:
    venue, _, product = item["product"]["S"].partition("/")
    lines = item["lines"]
    packed = lines["B"] if "B" in lines else lines["S"].encode()
    return LatestRow(
        venue,
        product,
        int(item["epoch"]["N"]),
        int(item["position"]["N"]),
        int(item["ts_us"]["N"]),
        unpack(bytes(packed), compressed="B" in lines),
    )
