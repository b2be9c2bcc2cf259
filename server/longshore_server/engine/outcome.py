"""What becomes of an operation when the code that works on it returns or raises: one move and its payload."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

from google.protobuf.any_pb2 import Any as AnyMessage

from longshore_server.contract.types import OperationType
from longshore_server.errors import Reason, failure
from longshore_server.handler import failures
from longshore_server.handler.journal import Key
from longshore_server.handler.waits import asked_anew
from longshore_server.lifecycle import Move

log = logging.getLogger(__name__)


class Outcome(NamedTuple):
    """How an attempt ended: the move that it asks for, its payload, and whether the policy may allow another one."""

    move: Move
    payload: bytes
    retriable: bool = False
    anew: Key | None = None
    """The refusal that it failed with, for which another one asks anew."""


def returned(type: OperationType, value: Any, limit: int, *, attached: bool = False) -> Outcome:
    """The outcome of a returned value. `attached`: of what is attached to the operation; nothing is then no result.

    `limit`: the most bytes that a result may have.
    """
    if value is None and type.void(type.result):
        value = type.result()
    if attached and value is None:
        return Outcome(Move.FAIL, failure(Reason.ATTACH_NOT_TERMINAL))
    if value.__class__ is not type.result:
        expected = type.result.DESCRIPTOR.full_name
        got = value.__class__.__name__
        log.error("%s returned %s instead of %s", type.name, got, expected)
        return Outcome(
            Move.FAIL, failure(Reason.WRONG_RESULT_TYPE, f"The handler returned {got} instead of {expected}.")
        )
    data = value.SerializeToString()
    if len(data) > limit:
        message = f"The result is {len(data)} bytes, more than the {limit} that the server sends."
        return Outcome(Move.FAIL, failure(Reason.RESULT_TOO_LARGE, message))
    return Outcome(Move.COMPLETE, AnyMessage(type_url=type.result_url, value=data).SerializeToString())


def raised(type: OperationType, name: str, error: BaseException, limit: int, fields: Mapping[str, Any]) -> Outcome:
    """The outcome of an error: see `failures.describe`, where the domain is the contract's package."""
    found = failures.describe(name, error, limit, fields, type.package)
    return Outcome(Move.FAIL, found.status, found.retriable, asked_anew(error))
