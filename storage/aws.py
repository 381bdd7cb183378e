"""Clients for services that speak AWS's protocols: one place for addresses, keys and patience."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import aioboto3
from aiobotocore.config import AioConfig

from models.settings import Settings

CONNECT_S = 3.0
"""How long a connection may take to open."""

ANSWER_S = 20.0
"""How long the service may stay silent within an answer."""

DEFAULT_REGION = "us-east-1"
"""AWS's own default; its buckets are created without naming a region."""


@asynccontextmanager
async def aws_client(
    service: Literal["s3", "dynamodb"],
    settings: Settings,
    *,
    connections: int = 16,
    attempts: int = 4,
) -> AsyncIterator[Any]:
    """Give a client; without keys in the settings it takes an IAM role's.

    It makes up to `attempts` attempts by itself; every call of this package is safe to repeat.
    """
    is_s3 = service == "s3"
    secret = settings.s3_secret_key
    config = AioConfig(
        connect_timeout=CONNECT_S,
        read_timeout=ANSWER_S,
        max_pool_connections=connections,
        retries={"mode": "standard", "total_max_attempts": attempts},
        s3={"addressing_style": settings.s3_addressing_style},
        # Not every store that speaks S3 knows the newer checksums; the lake verifies by itself.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    endpoint = settings.s3_endpoint if is_s3 else settings.ddb_endpoint
    session = aioboto3.Session(
        aws_access_key_id=settings.s3_access_key,
        aws_secret_access_key=None if secret is None else secret.get_secret_value(),
        # A store at an address of its own has no regions, but the library insists on one.
        region_name=settings.s3_region or (None if endpoint is None else DEFAULT_REGION),
    )
    async with session.client(service, endpoint_url=endpoint, config=config) as client:
        yield client
