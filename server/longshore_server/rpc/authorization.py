"""Who may do what with operations: the gates of the contracts, at every way in.

Who may not observe an operation is told NOT_FOUND, whatever the call, as if it did not exist; who may, but lacks what
the call's own gate asks for, is told PERMISSION_DENIED and the name of the gate.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Literal, TypeAlias

from longshore_server.auth.authentication import SIZE
from longshore_server.auth.identity import Principal
from longshore_server.contract.types import OperationType
from longshore_server.engine.engine import Engine
from longshore_server.engine.live import Live
from longshore_server.engine.requests import not_found
from longshore_server.engine.starts import Terms
from longshore_server.errors import Reason, ServiceError
from longshore_server.store.pages import Scope
from longshore_server.store.record import OperationRecord
from longshore_server.store.transaction import new_record

PROVIDER = "longshore.provider"
"""The built-in capability of who drives operations from outside. No contract can declare it, or ask for it."""
ADMIN = "longshore.admin"
"""That of who administers jobs and their queues, and nothing else. The provider may do so, too."""

Gate: TypeAlias = Literal["call", "observe", "cancel", "control"]
_VERBS: Mapping[Gate, str] = {"call": "start", "observe": "see", "cancel": "cancel or delete", "control": "signal"}


class Authorization:
    """The gates of all types that an engine serves."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # Kept for as many as authentication remembers: they follow from what the principal is, and nothing else.
        self._bare_terms = lru_cache(maxsize=SIZE)(self._make_terms)

    def check_start(self, caller: Principal, type: OperationType, *, follow: bool) -> None:
        """Raises `ServiceError` (CAPABILITY_MISSING) unless the caller may start, and see what becomes of it if it is
        to `follow` in the same call."""
        if not _passes(caller, type.call):
            raise _missing(type, "call")
        if follow and not _passes(caller, type.observe):
            raise _missing(type, "observe")

    def check_provider(self, caller: Principal, capability: str = "") -> None:
        """Raises `ServiceError` (CAPABILITY_MISSING) unless the caller may drive operations from outside.

        `capability`: another one that is enough, too; the refusal names that.
        """
        wanted = capability or PROVIDER
        if not caller.unrestricted and not {PROVIDER, wanted} & caller.capabilities:
            raise ServiceError(
                Reason.CAPABILITY_MISSING,
                f"Only callers with the capability {wanted} may do this.",
                metadata={"capability": wanted},
            )

    def terms(self, caller: Principal, request_id: str, labels: Mapping[str, str]) -> Terms:
        """The terms of a caller's start."""
        bare = self._bare_terms(caller)
        if not request_id and not labels:
            return bare
        # `_replace` would take nearly twice as long, for each start of a client that sends idempotency keys.
        return Terms(bare.owner, bare.capabilities, request_id, labels, visible=bare.visible)

    def _make_terms(self, caller: Principal) -> Terms:
        if caller.unrestricted:
            return Terms(owner=caller.name)

        def visible(record: OperationRecord) -> bool:
            return record.owner == caller.name or self.observes(caller, record)

        return Terms(owner=caller.name, capabilities=tuple(sorted(caller.capabilities)), visible=visible)

    async def find(self, caller: Principal, name: str, gate: Gate = "observe") -> Live:
        """The operation that `name` means, for a call behind `gate`.

        Raises `ServiceError`: INVALID_NAME, OPERATION_NOT_FOUND, CAPABILITY_MISSING.
        """
        live = await self._engine.find(name)
        if not self.observes(caller, live.record):
            raise not_found(name)
        if gate != "observe" and not caller.unrestricted:
            _check(caller, self._engine.types[live.record.type], gate)
        return live

    async def sender(self, caller: Principal, uid: bytes, name: str, gate: Gate) -> Live:
        """The operation whose upload `name` is, for who started it, if that one still passes `gate`.

        Raises `ServiceError`: UPLOAD_NOT_FOUND, CAPABILITY_MISSING, NOT_THE_OWNER.
        """
        try:
            live = await self._engine.load(uid)
        except ServiceError as error:
            if error.reason is not Reason.OPERATION_NOT_FOUND:
                raise
            raise _no_upload(name) from None
        record = live.record
        owner = caller.unrestricted or record.owner == caller.name
        if record.upload is None or not (owner or self.observes(caller, record)):
            raise _no_upload(name)
        if not owner:
            raise ServiceError(Reason.NOT_THE_OWNER, f"{name} belongs to whoever started {record.name}.", resource=name)
        if not caller.unrestricted:
            _check(caller, self._engine.types[record.type], gate)
        return live

    def observes(self, caller: Principal, record: OperationRecord) -> bool:
        """Whether the caller may see the operation."""
        if caller.unrestricted:
            return True
        # Of a type that is no longer served nobody knows who may see it.
        type = self._engine.types.get(record.type)
        return type is not None and _passes(caller, type.observe) and (not type.owned or record.owner == caller.name)

    def shown(self, caller: Principal, record: OperationRecord) -> OperationRecord:
        """What a start tells of the operation: all, or to who may not see it what a new one would.

        Its upload is the caller's own in either case. What it offers is only for those who may see it.
        """
        if self.observes(caller, record):
            return record
        # Made anew, not taken away from: a field that comes later is not told before somebody decides so.
        return new_record(
            uid=record.uid, id=record.id, type=record.type, created=record.created, deadline=record.deadline,
            labels=record.labels, owner=record.owner, request_id=record.request_id, parent="", upload=record.upload,
        )  # fmt: skip

    def scope(self, caller: Principal) -> Scope | None:
        """Which operations a list may hold; None: all."""
        if caller.unrestricted:
            return None
        seen = [type for type in self._engine.types.values() if _passes(caller, type.observe)]
        return Scope(
            types=tuple(type.name for type in seen if not type.owned),
            owned=tuple(type.name for type in seen if type.owned),
            owner=caller.name,
        )


def _no_upload(name: str) -> ServiceError:
    return ServiceError(
        Reason.UPLOAD_NOT_FOUND, f"There is no {name}: it never existed, or its operation was deleted.", resource=name
    )


def _passes(caller: Principal, gate: frozenset[str] | None) -> bool:
    return (gate is not None and gate <= caller.capabilities) or caller.unrestricted


def _check(caller: Principal, type: OperationType, gate: Gate) -> None:
    if not _passes(caller, getattr(type, gate)):
        raise _missing(type, gate)


def _missing(type: OperationType, gate: Gate) -> ServiceError:
    wanted: frozenset[str] | None = getattr(type, gate)
    who = "no caller" if wanted is None else f"only callers with {' and '.join(sorted(wanted))}"
    return ServiceError(
        Reason.CAPABILITY_MISSING,
        f"{type.name} lets {who} {_VERBS[gate]} its operations.",
        metadata={"gate": gate, "type": type.name},
    )
