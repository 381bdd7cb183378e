"""What can go wrong with a store, each error with its facts.

StorageError
├── MissingStoreError       no such bucket or table                                 final
├── DeniedError             keys are missing, wrong, expired or not permitted       final
├── WrongRegionError        the bucket is in another region                         final
├── BadRequestError         the service refuses the request itself                  final
├── NoSpaceError            the store is full, or over its quota                    try later
├── UnavailableError        timeouts, broken connections, 5xx, throttling           try later
├── ObjectMissingError      no such object                                          final
├── ConflictError           an object of that name holds something else             final
├── DamagedError            what was read back is not what was written              final
└── ContendedError          others kept changing the same manifest                  try later
"""

from typing import Any

import aiohttp
import botocore.exceptions as boto

_DENIED = frozenset(
    {
        *("AccessDenied", "AccessDeniedException", "InvalidAccessKeyId", "SignatureDoesNotMatch"),
        *("ExpiredToken", "ExpiredTokenException", "InvalidToken", "UnrecognizedClientException"),
        *("InvalidSignatureException", "MissingAuthenticationTokenException", "AllAccessDisabled"),
        *("InvalidClientTokenId", "RequestTimeTooSkewed", "403"),
    }
)
_MISSING_STORE = frozenset({"NoSuchBucket", "ResourceNotFoundException"})
_MISSING_OBJECT = frozenset({"NoSuchKey", "404"})
_ELSEWHERE = frozenset(
    {
        *(
            "PermanentRedirect",
            "AuthorizationHeaderMalformed",
            "IllegalLocationConstraintException",
        ),
        *("301", "TemporaryRedirect"),
    }
)
_FULL = frozenset(
    {
        *(
            "InsufficientStorage",
            "XMinioStorageFull",
            "QuotaExceeded",
            "XMinioAdminBucketQuotaExceeded",
        ),
        *("EntityTooLarge_StorageFull", "507"),
    }
)
_LATER = frozenset(
    {
        *("SlowDown", "Throttling", "ThrottlingException", "RequestTimeout", "InternalError"),
        *("ProvisionedThroughputExceededException", "RequestLimitExceeded", "ServiceUnavailable"),
        *("InternalServerError", "OperationAborted", "ConditionalRequestConflict"),
        *("TransactionConflictException", "LimitExceededException"),
    }
)
_CLIENT_ERROR, _SERVER_ERROR = 400, 500


class StorageError(Exception):
    """A store could not do what it was asked to.

    Attributes: place, the bucket, object or table; is_final, whether the same call always fails.
    """

    is_final = False

    def __init__(self, place: str, message: str) -> None:
        super().__init__(f"{place}: {message}")
        self.place = place


class MissingStoreError(StorageError):
    """No such bucket or table."""

    is_final = True


class DeniedError(StorageError):
    """The keys are missing, wrong, expired, or not permitted to do this."""

    is_final = True


class WrongRegionError(StorageError):
    """The bucket is in another region than the one that was asked."""

    is_final = True


class BadRequestError(StorageError):
    """The service refuses the request itself."""

    is_final = True


class NoSpaceError(StorageError):
    """The store is full; somebody has to make room, and then the same call succeeds."""


class UnavailableError(StorageError):
    """The store did not answer, or not now."""


class ObjectMissingError(StorageError):
    """There is no such object."""

    is_final = True


class ConflictError(StorageError):
    """An object of that name exists and holds something else."""

    is_final = True


class DamagedError(StorageError):
    """What was read is not what was written."""

    is_final = True


class ContendedError(StorageError):
    """Others kept changing the same manifest."""


UNREACHED = (
    boto.HTTPClientError,
    boto.ConnectionError,
    aiohttp.ClientError,
    TimeoutError,
    OSError,
)
"""What the client library raises when no answer came."""


def code_of(error: Exception) -> str:
    """Return the service's own name for an error, or nothing where it did not answer."""
    if not isinstance(error, boto.ClientError):
        return ""
    return str(error.response.get("Error", {}).get("Code", ""))


def explained(error: Exception, place: str) -> StorageError:
    """Return the error that tells what the client library's error means.

    `place`: the object, bucket or table that was asked for.
    """
    if isinstance(error, boto.ClientError):
        return _answered(error.response, code_of(error), place)
    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError):
        return DeniedError(
            place, "no keys; set S3_ACCESS_KEY and S3_SECRET_KEY, or run with an IAM role"
        )
    if isinstance(error, boto.NoRegionError):
        return WrongRegionError(place, "no region is known; set S3_REGION")
    if isinstance(error, UNREACHED):
        return UnavailableError(place, f"no answer ({error or type(error).__name__})")
    return BadRequestError(place, str(error))


def _answered(response: dict[str, Any], code: str, place: str) -> StorageError:
    """Read the service's own answer."""
    said = response.get("Error", {}).get("Message") or "no reason given"
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    for codes, kind, meaning in _MEANINGS:
        if code in codes:
            return kind(place, f"{meaning} ({code}: {said})")
    if status >= _SERVER_ERROR or status < _CLIENT_ERROR:
        return UnavailableError(place, f"the store cannot answer now ({code or status}: {said})")
    return BadRequestError(place, f"the store refuses the request ({code or status}: {said})")


_MEANINGS: tuple[tuple[frozenset[str], type[StorageError], str], ...] = (
    (_MISSING_STORE, MissingStoreError, "does not exist; create it, or correct its name"),
    (_MISSING_OBJECT, ObjectMissingError, "there is no such object"),
    (_DENIED, DeniedError, "access is denied; check the keys, and what they permit"),
    (_ELSEWHERE, WrongRegionError, "is in another region; set S3_REGION"),
    (_FULL, NoSpaceError, "the store is full; make room"),
    (_LATER, UnavailableError, "the store cannot answer now"),
)
