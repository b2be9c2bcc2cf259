"""What a start says in the metadata of its call, the same for the contracts' own methods as for Start and Run.

longshore-request-id    the idempotency key
longshore-label-KEY     a label
longshore-wait          answer at the end, or after this time, for example 30s; not for streams
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from longshore.v1 import jobs_service_pb2 as jobs_pb
from longshore.v1 import operations_service_pb2 as pb
from longshore_server.clock import SECOND
from longshore_server.contract.validation import check_number_of_labels
from longshore_server.errors import ServiceError, invalid
from longshore_server.rpc.boundary import Context, duration

_REQUEST_ID, _WAIT, _LABEL = "longshore-request-id", "longshore-wait", "longshore-label-"
_TIME = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)(ms|s|m|h)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class Asked(NamedTuple):
    """What a start says besides its type and its input."""

    request_id: str
    labels: Mapping[str, str]
    wait: int | None
    """Microseconds; None: answer at once."""


_NOTHING = Asked("", MappingProxyType({}), None)


def read(context: Context, *, waits: bool = True, labels: bool = True) -> Asked:
    """What the metadata says. Raises `ServiceError` for what begins with `longshore-` and has no meaning here."""
    said = [item for item in context.invocation_metadata() if item[0].startswith("longshore-")]
    if not said:
        return _NOTHING
    known = [_REQUEST_ID, *([_WAIT] if waits else []), *([f"{_LABEL}KEY"] if labels else [])]
    found: dict[str, str] = {}
    for key, value in said:
        if key in found:
            raise invalid(key, "is given twice")
        if isinstance(value, bytes) or not (key in known or (labels and key.startswith(_LABEL))):
            # A misspelt key would lose its meaning in silence, and with it idempotency for example.
            raise invalid(key[:80], f"is not known here; the keys are {', '.join(known)}")
        found[key] = value
    waited, wait = found.get(_WAIT), None
    if waited is not None:
        match = _TIME.fullmatch(waited)
        if match is None:
            raise invalid(_WAIT, f"{waited[:40]!r} is no time; write it like 30s, 500ms or 2m")
        wait = int(float(match[1]) * _UNITS[match[2]] * SECOND)
    labelled = {key.removeprefix(_LABEL): value for key, value in found.items() if key.startswith(_LABEL)}
    return Asked(found.get(_REQUEST_ID, ""), labelled, wait)


def read_with(request: pb.StartRequest | pb.RunRequest, context: Context) -> Asked:
    """What the fields of the request and the metadata say. Raises `ServiceError` where the two differ."""
    asked = read(context, waits=isinstance(request, pb.StartRequest))
    request_id = _one_of(request.request_id, asked)
    labels = request.labels
    check_number_of_labels(labels)
    for key, value in asked.labels.items():
        if labels.get(key, value) != value:
            raise _differs(f"{_LABEL}{key}"[:80], f"labels[{key[:80]!r}]")
    wait = asked.wait
    if isinstance(request, pb.StartRequest) and request.HasField("wait"):
        wait = duration(request.wait, "wait")
        if asked.wait not in (None, wait):
            raise _differs(_WAIT, "wait")
    return Asked(request_id, {**asked.labels, **labels} if labels else asked.labels, wait)


def read_retry(
    request: pb.RetryRequest | jobs_pb.RetryJobRequest | jobs_pb.ReplayDeadLettersRequest, context: Context
) -> str:
    """The idempotency key of a retry. Its labels are the old one's and it does not wait: `ServiceError` for these."""
    return _one_of(request.request_id, read(context, waits=False, labels=False))


def _one_of(request_id: str, asked: Asked) -> str:
    if request_id and asked.request_id not in ("", request_id):
        raise _differs(_REQUEST_ID, "request_id")
    return request_id or asked.request_id


def _differs(key: str, field: str) -> ServiceError:
    return invalid(key, f"says something else than the field {field} of the request; send one of the two")
