"""The typed RPCs of the contracts: `/acme.orders.v1.OrdersService/Process` starts an operation.

What `google.longrunning.Operation` has no place for travels in metadata:

    in   longshore-request-id, longshore-label-KEY, longshore-wait (for example 30s)
    out  longshore-disposition (created | existing), longshore-sequence, longshore-uid
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable
from typing import NamedTuple

from google.protobuf.message import Message

from longshore_server.clock import SECOND
from longshore_server.contract.types import OperationType
from longshore_server.engine.engine import Engine
from longshore_server.engine.requests import Started
from longshore_server.engine.watch import WatchOptions
from longshore_server.errors import invalid
from longshore_server.rpc import wire
from longshore_server.rpc.authorization import Authorization
from longshore_server.rpc.boundary import Context, Method, check_expiry, stream, unary, wait_until
from longshore_server.store.events import uid_text

_WAIT = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)(ms|s|m|h)")
_KNOWN = ("longshore-request-id", "longshore-wait")
_LABEL = "longshore-label-"
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class _Metadata(NamedTuple):
    request_id: str
    labels: dict[str, str]
    wait: int | None


class ContractServices:
    """The methods of all contracts, by full path."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._authorization = Authorization(engine)

    def methods(self) -> dict[str, Method]:
        """The methods by path: a type's own, and the streaming twin if the contract has one."""
        found = {}
        for type in self._engine.types.values():
            if type.streamed_by != type.path:
                found[type.path] = self._unary(type)
            if type.streamed_by:
                found[type.streamed_by] = self._stream(type)
        return found

    def _unary(self, type: OperationType) -> Method:
        async def call(request: Message, context: Context) -> bytes:
            engine, caller = self._engine, context.caller
            metadata = _read(context)
            self._authorization.check_start(caller, type, follow=metadata.wait is not None)
            terms = self._authorization.terms(caller, metadata.request_id, metadata.labels)
            if metadata.wait is None:
                started = await engine.start(type, request, terms)
                record = self._authorization.shown(caller, started.live.record)
            else:
                until = wait_until(context, engine.clock, metadata.wait)
                started, record = await engine.start_and_wait(type, request, terms, until)
                check_expiry(context, engine.clock)
            await context.send_initial_metadata(_answer(started, record.sequence))
            return bytes(wire.long_running(record, type).SerializeToString())

        return unary(type.input, call)

    def _stream(self, type: OperationType) -> Method:
        async def call(request: Message, context: Context) -> AsyncIterator[Iterable[bytes]]:
            engine, caller = self._engine, context.caller
            metadata = _read(context)
            self._authorization.check_start(caller, type, follow=True)
            with engine.watches.place(caller.name):
                terms = self._authorization.terms(caller, metadata.request_id, metadata.labels)
                started = await engine.start(type, request, terms)
                await context.send_initial_metadata(_answer(started, started.live.record.sequence))
                messages = wire.LongRunningStream(started.live, type)
                async for batch in engine.watch(started.live, WatchOptions(until=caller.expires)):
                    yield map(messages.message, batch)

        return stream(type.input, call)


def _read(context: Context) -> _Metadata:
    found: dict[str, str] = {}
    for key, value in context.invocation_metadata():
        if key.startswith("longshore-"):
            if key in found:
                raise invalid(key, "is given twice")
            if isinstance(value, bytes) or not (key in _KNOWN or key.startswith(_LABEL)):
                # A misspelt key would lose its meaning in silence, and with it idempotency for example.
                raise invalid(key[:80], f"is not known; there are {', '.join(_KNOWN)} and {_LABEL}KEY")
            found[key] = value
    request_id, waited = found.get("longshore-request-id", ""), found.get("longshore-wait")
    wait = None
    if waited is not None:
        match = _WAIT.fullmatch(waited)
        if match is None:
            raise invalid("longshore-wait", f"{waited[:40]!r} is no time; write it like 30s, 500ms or 2m")
        wait = int(float(match[1]) * _UNITS[match[2]] * SECOND)
    labels = {key.removeprefix(_LABEL): value for key, value in found.items() if key.startswith(_LABEL)}
    return _Metadata(request_id, labels, wait)


def _answer(started: Started, sequence: int) -> tuple[tuple[str, str], ...]:
    return (
        ("longshore-disposition", "created" if started.created else "existing"),
        ("longshore-sequence", str(sequence)),
        ("longshore-uid", uid_text(started.live.record.uid)),
    )
