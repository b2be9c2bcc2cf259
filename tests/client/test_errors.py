"""Typed errors from the bytes that a server, or what stands between, may send."""

from __future__ import annotations

import pickle

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status

import longshore_client as lc
from longshore_client.errors import call_error, operation_cancelled, operation_failed


def pack(message: error_details_pb2.ErrorInfo) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed


def test_without_details_the_plain_status_speaks() -> None:
    error = call_error(5, "not here", None)
    assert type(error) is lc.NotFound
    assert (error.reason, error.message, error.details, error.metadata) == ("NOT_FOUND", "not here", (), {})
    assert (error.retry_after, error.field_violations, error.resource) == (None, (), "")
    assert str(call_error(14, "", None)) == "UNAVAILABLE: UNAVAILABLE"


@pytest.mark.parametrize("details", [b"\xff\xff", b"", Status(code=3, message="of another").SerializeToString()])
def test_details_that_do_not_belong_or_cannot_be_read_are_passed_over(details: bytes) -> None:
    error = call_error(5, "not here", details)
    assert type(error) is lc.NotFound
    assert error.message == "not here"


def test_a_code_that_nobody_knows_is_unknown() -> None:
    error = call_error(99, "new", None)
    assert type(error) is lc.CallError
    assert error.code is lc.Code.UNKNOWN


def test_a_broken_detail_does_not_hide_the_others() -> None:
    info = error_details_pb2.ErrorInfo
    broken = AnyMessage(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff")
    status = Status(code=9, message="m", details=[broken, pack(info(reason="R", domain="d", metadata={"a": "b"}))])
    error = operation_failed(status, "operations/x")
    assert (error.reason, error.domain, error.metadata) == ("R", "d", {"a": "b"})
    assert len(error.details) == 2
    assert error.detail(info) == info(reason="R", domain="d", metadata={"a": "b"})


def test_a_cancelled_operation_has_a_reason_even_without_details() -> None:
    error = operation_cancelled(Status(code=1, message="by ada"), "operations/x")
    assert (error.reason, error.operation, str(error)) == ("CANCELLED", "operations/x", "CANCELLED: by ada")


def test_every_error_is_a_longshore_error_and_one_code_has_one_class() -> None:
    kinds = [kind for kind in (getattr(lc, name) for name in lc.__all__) if isinstance(kind, type)]
    calls = [kind for kind in kinds if issubclass(kind, lc.CallError) and kind is not lc.CallError]
    assert all(issubclass(kind, lc.LongshoreError) for kind in calls)
    assert len({kind.status_code for kind in calls}) == len(calls)
    assert issubclass(lc.StillRunning, TimeoutError)


def test_errors_survive_a_process_boundary() -> None:
    """Pools of worker processes pickle what their calls raise."""
    error = operation_failed(Status(code=9, message="m"), "operations/x")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.message, copy.reason, copy.operation) == (type(error), "m", error.reason, "operations/x")
    still = pickle.loads(pickle.dumps(lc.StillRunning("operations/x", 3.0)))
    assert (still.operation, still.reason) == ("operations/x", "STILL_RUNNING")
