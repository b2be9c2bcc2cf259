"""What a handler's error means to callers: an `OperationError` is for them, any other for the log alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from longshore_server.errors import OperationError, Reason, ServiceError, failure
from longshore_server.handler.journal import NonDeterministicError
from longshore_server.handler.steps import StepTimeoutError

log = logging.getLogger(__name__)


MAX_PROBLEM = 2000
"""How many characters of what code raised are kept for operators."""


class LastResort:
    """The end of an attempt whose outcome the store cannot hold: it fails with INTERNAL, and that is tried once.

    Left as it is it would be under way, and have what it has, until the next start.
    """

    __slots__ = ("_taken",)

    def __init__(self) -> None:
        self._taken = False

    def taken(self, result: object, fail: Callable[[bytes], object]) -> bool:
        """Whether what became of an outcome calls for it; then `fail` has given this end to the writer."""
        if self._taken or not isinstance(result, ServiceError) or result.reason is not Reason.INTERNAL:
            return False
        self._taken = True
        fail(failure(Reason.INTERNAL))
        return True


class Failure(NamedTuple):
    """A serialized `google.rpc.Status`, and whether a retry policy may allow another attempt."""

    status: bytes
    retriable: bool = False


def problem_of(error: BaseException) -> str:
    """What code raised, for operators."""
    try:
        said = str(error)
    except Exception:  # noqa: BLE001 - an error that cannot even say what it is must end its attempt all the same
        said = ""
    # Half of a character, which a payload may hold, is no text that can be stored.
    return f"{type(error).__name__}: {said}"[:MAX_PROBLEM].encode("utf-8", "replace").decode()


def describe(name: str, error: BaseException, limit: int, fields: Mapping[str, Any], domain: str) -> Failure:
    """What an attempt failed with that raised `error`.

    `name`: of the operation or the job. `limit`: the most bytes that the error may have. `fields`: for the line in the
    log. `domain`: of the reasons of an `OperationError` that says none.
    """
    if isinstance(error, OperationError):
        try:
            status = error.status(domain)
        except (TypeError, ValueError) as problem:
            # For example a lone surrogate in the message: it cannot be sent, and it must all end all the same.
            error = problem
        else:
            if status.ByteSize() > limit:
                log.error("the error of %s has %d bytes: its details are left out", name, status.ByteSize())
                del status.details[1:]
                status.message = status.message[:1024]
            return Failure(status.SerializeToString(), not error.final)
    if isinstance(error, NonDeterministicError):
        log.error("%s", error, extra=dict(fields))
        return Failure(failure(Reason.NON_DETERMINISTIC, error.public))
    log.error("handler of %s raised", name, exc_info=error, extra=dict(fields))
    reason = Reason.STEP_TIMEOUT if isinstance(error, StepTimeoutError) else Reason.HANDLER_ERROR
    return Failure(failure(reason), retriable=True)
