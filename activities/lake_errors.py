"""Turns what goes wrong with the lake into what Temporal knows: to be tried again, or final."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError

from models.recovery import Payload
from storage.errors import StorageError

_log = structlog.get_logger(__name__)


@contextmanager
def lake_errors(what: str, done: Callable[[], Payload] | None = None) -> Iterator[None]:
    """Say in the log and to Temporal why the body failed, in the store's own sentence.

    An error that may pass is repeated by the workflow's policy; one that is final is not. `done`
    tells what was done up to there, for the error's details.

    Raises:
        ApplicationError: typed by the storage error's name.
    """
    try:
        yield
    except StorageError as error:
        attempt = activity.info().attempt
        say = _log.error if error.is_final else _log.warning
        say(f"{what} failed", error=str(error), kind=type(error).__name__, attempt=attempt)
        # Without its causes: the server shows a pending activity's failure only while it is small.
        raise ApplicationError(
            str(error),
            *([] if done is None else [done()]),
            type=type(error).__name__,
            non_retryable=error.is_final,
        ) from None
