"""`server.operations`: operations from the service's own code, in handlers and beside them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any, overload

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import status_pb2

from longshore.v1 import operation_pb2
from longshore_server.clock import SECOND
from longshore_server.contract.durations import LONGEST
from longshore_server.contract.types import OperationType
from longshore_server.contract.validation import check_text
from longshore_server.engine.engine import Engine
from longshore_server.engine.live import Live
from longshore_server.engine.provider import Handler, OperationControl, OperationT, type_of
from longshore_server.engine.requests import Started
from longshore_server.engine.signals import Sending
from longshore_server.engine.starts import LOCAL, Terms
from longshore_server.engine.watch import WatchOptions
from longshore_server.errors import ServiceError
from longshore_server.handler.durable import Durable, handling
from longshore_server.handler.journal import Asked, place
from longshore_server.handler.lending import lent_between
from longshore_server.handler.operation import InputT
from longshore_server.ids import uid_text
from longshore_server.lifecycle import State
from longshore_server.store.record import Event


class OperationEndedError(Exception):
    """The operation that was waited for ended without a result.

    Attributes:
        name: the operation.
        state: `State.FAILED` or `State.CANCELLED`.
        status: the `google.rpc.Status` that it ended with.
    """

    def __init__(self, name: str, state: State, status: status_pb2.Status) -> None:
        super().__init__(f"{name} {state.name}: {status.message}")
        self.name = name
        self.state = state
        self.status = status


class OperationRef:
    """One operation, from inside the server."""

    def __init__(self, engine: Engine, uid: bytes, name: str, created: bool) -> None:
        self._engine = engine
        self._uid = uid
        self.name = name
        """`operations/{id}`, as it was called when this was made."""
        self.created = created
        """Whether this start made it."""

    @property
    def uid(self) -> str:
        """The UUIDv7 that is this operation's alone."""
        return uid_text(self._uid)

    async def state(self) -> State:
        """Where it stands. Raises `ServiceError` (OPERATION_NOT_FOUND)."""
        return (await self._live()).record.state

    async def wait(self, timeout: float | None = None) -> Any:
        """The result, once there is one: a message of the contract's result type.

        Args:
            timeout: seconds; None: however long it takes.

        Raises `OperationEndedError` when it failed or was cancelled, `TimeoutError` when the time is up, `ServiceError`
        (ILLEGAL_MOVE) in a handler before whose end it cannot end: its own handler waits for that, for example.
        `TypeError` for a timeout that is no number.
        """
        live = await self._live()
        until = None if timeout is None else self._engine.clock.now() + int(_seconds(timeout) * SECOND)
        async with self._engine.handler_waits.of(self._uid, timed=until is not None):
            record = await self._engine.wait(live, until, handling.get())
        if record.state is State.COMPLETED:
            assert record.result is not None
            result = self._engine.types[record.type].result()
            AnyMessage.FromString(record.result).Unpack(result)
            return result
        if record.error is None:
            raise TimeoutError(f"{self.name} has not ended after {timeout} seconds")
        raise OperationEndedError(self.name, record.state, status_pb2.Status.FromString(record.error))

    async def watch(self, after: int = 0) -> AsyncIterator[operation_pb2.OperationEvent]:
        """Its events after a sequence, to its end."""
        if type(after) is not int:
            raise TypeError(f"after: {after!r} is no whole number")
        live = await self._live()
        batches = self._engine.watch(live, WatchOptions(after=after, inside=handling.get() is not None))
        async for batch in lent_between(batches):
            for item in batch:
                if isinstance(item, Event):
                    yield operation_pb2.OperationEvent.FromString(item.body)

    async def cancel(self, reason: str = "") -> State:
        """Ask to cancel, as a caller would. Returns the state after it. Raises `ServiceError` (NOT_CANCELLABLE)."""
        return (await self._engine.requests.cancel(await self._live(), reason)).state

    async def signal(self, name: str, payload: Message | None = None, *, signal_id: str = "") -> int:
        """Send a signal, as a caller would. Returns its number among all of the operation's, once it is durable.

        Args:
            payload: of the type that the contract declares. Default: an empty one.
            signal_id: the same id is the same signal. Default: a new one; in a handler one that a re-run makes again,
                so that it sends nothing twice.

        Raises `ServiceError` as a caller's signal would, `TypeError` for another payload than the contract's.
        """
        live = await self._live()
        check_text("signal_id", signal_id)
        declared = self._engine.requests.signal_type(live, check_text("name", name))
        if payload is None:
            payload = declared.payload()
        if payload.__class__ is not declared.payload:
            expected = declared.payload.DESCRIPTOR.full_name
            raise TypeError(f"signal {name!r} takes {expected}, not {payload.__class__.__name__}")
        sender = LOCAL
        parent = handling.get()
        if parent is not None:
            sender = (await _behind(self._engine, parent)).owner
            signal_id = signal_id or parent.signal_id(self.uid, name)
        return (await self._engine.requests.signal(live, Sending(name, payload, sender, signal_id))).number

    async def _live(self) -> Live:
        return await self._engine.load(self._uid, self.name)


class Operations:
    """Starts and finds operations of this server."""

    def __init__(self) -> None:
        self._engine: Engine | None = None

    def attach(self, engine: Engine | None) -> None:
        """For the server: the engine that runs now."""
        self._engine = engine

    def start(
        self, type: str, request: Message, *, name: str | None = None, request_id: str = "",
        labels: Mapping[str, str] | None = None,
    ) -> Coroutine[Any, Any, OperationRef]:  # fmt: skip
        """Start an operation of `type` (`package.Service/Method`) with `request` as its input.

        Inside a handler the start is an entry of that operation's journal: a re-run finds the child that an earlier
        attempt started. `name` tells several starts of one type in one handler apart; default the type.

        Raises `ServiceError` as a caller's start would, `TypeError` for another request than the type's,
        `DuplicateNameError` and `NonDeterministicError` inside a handler.
        """
        # No coroutine itself, nor is `accept`: in a task of its own it would find only asyncio as its caller.
        return self._start(type, request, Terms(owner="", request_id=request_id, labels=labels or {}), name, place(2))

    async def _start(self, type: str, request: Message, terms: Terms, name: str | None, where: str) -> OperationRef:
        engine = self._require()
        kind = engine.type_named(check_text("type", type))
        live, created = await _begin(engine, kind, request, terms, name, where)
        return OperationRef(engine, live.record.uid, live.record.name, created)

    @overload
    async def accept(
        self, type: str, request: Message, *, name: str | None = None, request_id: str = "",
        labels: Mapping[str, str] | None = None, owner: str = "",
    ) -> OperationControl[Any]: ...  # fmt: skip

    @overload
    async def accept(
        self, type: Handler[InputT, OperationT], request: InputT, *, name: str | None = None,
        request_id: str = "", labels: Mapping[str, str] | None = None, owner: str = "",
    ) -> OperationControl[OperationT]: ...  # fmt: skip

    def accept(
        self, type: Any, request: Any, *, name: str | None = None, request_id: str = "",
        labels: Mapping[str, str] | None = None, owner: str = "",
    ) -> Coroutine[Any, Any, OperationControl[Any]]:  # fmt: skip
        """Accept an operation that no handler will run, and return the control by which this code drives it.

        It is PENDING until `started()`. All else is as for `start`, in handlers too; an operation that has the name or
        the request id already is returned as it is, and `created` of its control is then false.

        Args:
            type: `package.Service/Method`, or its handler, `OrdersService.process`, which gives the control its types.
            owner: the principal on whose behalf. Default: in a handler that of its caller, elsewhere the local one.
        """
        terms = Terms(owner=check_text("owner", owner), request_id=request_id, labels=labels or {}, deferred=True)
        return self._accept(type, request, terms, name, place(2))

    async def _accept(
        self, type: Any, request: Any, terms: Terms, name: str | None, where: str
    ) -> OperationControl[Any]:
        engine = self._require()
        kind = engine.type_named(type) if isinstance(type, str) else type_of(engine, type)
        live, created = await _begin(engine, kind, request, terms, name, where)
        return OperationControl(engine, live, created=created)

    @overload
    async def control(self, name: str) -> OperationControl[Any]: ...

    @overload
    async def control(self, name: str, handler: Handler[Any, OperationT]) -> OperationControl[OperationT]: ...

    async def control(self, name: str, handler: Any = None) -> OperationControl[Any]:
        """The provider's side of one operation: deferred or not, after any restart.

        Args:
            name: `operations/{id}`, or the id alone, as `op.id` gives it.
            handler: the operation's handler, for example `OrdersService.process`: it gives the control its types.

        Raises `ServiceError` (OPERATION_NOT_FOUND), `TypeError` when it is an operation of another type.
        """
        engine = self._require()
        live = await engine.find(name if "/" in check_text("name", name) else f"operations/{name}")
        if handler is not None and type_of(engine, handler).name != live.record.type:
            raise TypeError(f"{name} is a {live.record.type}, not a {type_of(engine, handler).name}")
        return OperationControl(engine, live)

    async def find(self, name: str) -> OperationRef:
        """The operation called `operations/{id}`. Raises `ServiceError` (OPERATION_NOT_FOUND)."""
        record = (await self._require().find(check_text("name", name))).record
        return OperationRef(self._require(), record.uid, record.name, False)

    def _require(self) -> Engine:
        if self._engine is None:
            raise RuntimeError("server.operations works while the server runs")
        return self._engine


def _seconds(timeout: float) -> float:
    """At most as long as there are times. Raises `TypeError` or `ValueError` for what is no number."""
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"timeout: {timeout!r} is no number of seconds")
    if timeout != timeout:  # as NaN alone
        raise ValueError("timeout: NaN is no number of seconds")
    return min(timeout, LONGEST)


async def _begin(
    engine: Engine, type: OperationType, request: Message, terms: Terms, name: str | None, where: str
) -> Started:
    """Start an operation; in a handler as an entry of its journal, which a re-run finds."""
    if request.__class__ is not type.input:
        raise TypeError(f"{type.name} takes {type.input.DESCRIPTOR.full_name}, not {request.__class__.__name__}")
    parent = handling.get()
    if parent is None:
        return await engine.start(type, request, terms._replace(owner=terms.owner or LOCAL))
    # An accepted operation is not a started one: code that changed from one to the other must not mix them.
    asked = Asked(type.name, request, repr(sorted(terms.labels.items())), *(["accept"] if terms.deferred else []))
    journal = parent.journal
    key = await journal.claim("child", name or type.name, where)
    recorded = journal.recorded(key, asked)
    if recorded is not None:
        return Started(await engine.load(recorded.outcome), False)
    entry = journal.entry(key, parent.attempt, asked, "uid")

    async def start() -> Started:
        behind = await _behind(engine, parent)
        by = behind._replace(
            owner=terms.owner or behind.owner, request_id=terms.request_id, labels=terms.labels,
            deferred=terms.deferred, child=(parent.author, entry),
        )  # fmt: skip
        return await engine.start(type, request, by)

    return await journal.write(key, start(), lambda started: entry._replace(outcome=started.live.record.uid))


async def _behind(engine: Engine, parent: Durable) -> Terms:
    """Whose work a handler does, and in which operation: what it starts is that caller's."""
    uid = parent.operation_uid
    if uid is not None:
        with contextlib.suppress(ServiceError):  # a job may outlive the operation that created it
            record = (await engine.load(uid)).record
            return Terms(owner=record.owner, capabilities=record.capabilities, parent=f"operations/{uid_text(uid)}")
    return Terms()
