"""The typed RPCs of the contracts: `/acme.orders.v1.OrdersService/Process` starts an operation.

What `google.longrunning.Operation` has no place for travels in metadata:

    in   as rpc/metadata.py says
    out  longshore-disposition (created | existing), longshore-sequence, longshore-uid; for an operation whose caller
         sends bytes also longshore-grant-bin, a serialized longshore.v1.UploadGrant
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

from google.protobuf.message import Message

from longshore_server.contract.types import OperationType
from longshore_server.engine.engine import Engine
from longshore_server.engine.requests import Started
from longshore_server.engine.watch import WatchOptions
from longshore_server.ids import uid_text
from longshore_server.rpc import metadata, wire
from longshore_server.rpc.authorization import Authorization
from longshore_server.rpc.boundary import Context, Method, stream, unary
from longshore_server.rpc.waiting import start_and_wait
from longshore_server.store.record import OperationRecord
from longshore_server.store.transfers import upload_grant


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
            asked = metadata.read(context)
            self._authorization.check_start(caller, type, follow=asked.wait is not None)
            terms = self._authorization.terms(caller, asked.request_id, asked.labels)
            if asked.wait is None:
                started = await engine.start(type, request, terms)
                record = self._authorization.shown(caller, started.live.record)
            else:
                started, record = await start_and_wait(context, engine, type, request, terms, asked.wait)
            await context.send_initial_metadata(_answer(started, record))
            return bytes(wire.long_running(record, type).SerializeToString())

        return unary(type.input, call, max_input=self._engine.max_input)

    def _stream(self, type: OperationType) -> Method:
        async def call(request: Message, context: Context) -> AsyncIterator[Iterable[bytes]]:
            engine, caller = self._engine, context.caller
            asked = metadata.read(context, waits=False)
            self._authorization.check_start(caller, type, follow=True)
            with engine.watches.place(caller.name):
                terms = self._authorization.terms(caller, asked.request_id, asked.labels)
                started = await engine.start(type, request, terms)
                await context.send_initial_metadata(_answer(started, started.live.record))
                messages = wire.LongRunningStream(started.live, type)
                async for batch in engine.watch(started.live, WatchOptions(until=caller.expires)):
                    yield map(messages.message, batch)

        return stream(type.input, call, max_input=self._engine.max_input)


def _answer(started: Started, record: OperationRecord) -> list[tuple[str, str | bytes]]:
    """The metadata of a start that tells of the operation as it is in `record`."""
    found: list[tuple[str, str | bytes]] = [
        ("longshore-disposition", "created" if started.created else "existing"),
        ("longshore-sequence", str(record.sequence)),
        ("longshore-uid", uid_text(record.uid)),
    ]
    if record.upload is not None:
        found.append(("longshore-grant-bin", upload_grant(record.uid, record.upload).SerializeToString()))
    return found
