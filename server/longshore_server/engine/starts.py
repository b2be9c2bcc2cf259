"""Starts: a request is checked, gets its uid and its name, and goes to the writer."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

from google.protobuf.message import Message

from longshore_server.clock import Clock
from longshore_server.contract import rules, validation
from longshore_server.contract.types import OperationType
from longshore_server.engine.executor import Executor
from longshore_server.engine.grants import grants
from longshore_server.engine.quotas import Quota
from longshore_server.errors import ServiceError, invalid
from longshore_server.ids import Uids, uid_text
from longshore_server.store.mutations import Accept, Accepted, Author
from longshore_server.store.record import JournalEntry, OperationRecord
from longshore_server.store.transaction import new_record
from longshore_server.store.writer import Writer
from longshore_server.tracer import Tracer

LOCAL = "local"
"""The principal of every caller while no authentication is configured."""


class Terms(NamedTuple):
    """What a start says besides its type and its input."""

    owner: str = LOCAL
    """The principal that starts it."""
    capabilities: tuple[str, ...] = ()
    """What that principal may do."""
    request_id: str = ""
    labels: Mapping[str, str] = {}
    parent: str = ""
    """`operations/{uid}` of the operation whose handler starts it."""
    child: tuple[Author, JournalEntry] | None = None
    """The attempt that starts it, and the entry of its journal that the start becomes."""
    retried_from: str = ""
    """`operations/{uid}` of the operation that it repeats."""
    steps_of: bytes | None = None
    """The uid of the operation that it repeats, where it begins with the steps that that one has recorded."""
    deferred: bool = False
    """The service's own code drives it: no handler is run."""
    visible: Callable[[OperationRecord], bool] | None = None
    """Whether the caller may know of an operation that has the name already; None: of every one."""


DEFAULT = Terms()
"""A start that says nothing more."""


class Starts:
    """Hands starts to the writer. `closed` tells why no new operation may begin now, if so."""

    def __init__(
        self, executor: Executor, clock: Clock, uids: Uids, writer: Writer, *, max_input: int,
        closed: Callable[[], ServiceError | None], contracts: Mapping[str, int], live: Quota,
        tracer: Tracer,
    ) -> None:  # fmt: skip
        self._executor = executor
        self._clock = clock
        self._uids = uids
        self._writer = writer
        self._max_input = max_input
        self._closed = closed
        self._contracts = contracts
        self._tracer = tracer
        self._live = live
        self.inputs: dict[bytes, Message] = {}
        """The inputs of starts whose commit is under way, by uid: their handlers need not parse them again."""

    def submit(
        self, type: OperationType, input: Message, terms: Terms,
        begun: Callable[[Accepted | Exception], None] | None = None,
    ) -> asyncio.Future[Accepted]:  # fmt: skip
        """Check a start and hand it to the writer. Raises `ServiceError` for what can be told without the store.

        `begun` gets the outcome in the step that publishes it.
        """
        owner, request_id, labels, child = terms.owner, terms.request_id, terms.labels, terms.child
        if type.keyed and not terms.retried_from:
            # A retry has the input of the operation that this key started.
            inside: str = getattr(input, "request_id")  # noqa: B009 - a field of the user's message
            if inside and request_id not in ("", inside):
                beside = f"{request_id[:80]!r} beside it, in the request or the metadata longshore-request-id"
                raise invalid("request_id", f"is {inside[:80]!r} in the input and {beside}: send one of the two")
            request_id = request_id or inside
        if request_id:
            validation.check_request_id(request_id)
        if labels:
            validation.check_labels(labels)
        body = input.SerializeToString(deterministic=True)
        validation.check_size("input", len(body), self._max_input)
        if type.ruled:
            rules.check_rules(input, len(body))
        uid = self._uids.next()
        id = uid_text(uid) if type.template is None else type.template.render(input)
        now = self._uids.time
        upload, downloads = grants(type.transfer, input, now)
        record = new_record(
            uid=uid, id=id, type=type.name, created=now, deadline=None if type.timeout is None else now + type.timeout,
            labels=dict(labels) if labels else {}, owner=owner, request_id=request_id, parent=terms.parent,
            capabilities=terms.capabilities, contract=self._contracts.get(type.name), retried_from=terms.retried_from,
            trace=self._tracer.traceparent(), deferred=terms.deferred,
            upload=upload, downloads=downloads,
        )  # fmt: skip
        # A child is its parent's work, not new work: a parent whose start was refused
        # would fail instead of going on later.
        refusal = None
        if child is None:
            refusal = self._closed() or self._live.refusal(owner) or self._executor.refusal(type, owner)
        if refusal is not None and not request_id and type.template is None:
            raise refusal
        digest = _digest(type, body, labels) if request_id or type.template is not None else b""
        reserved = not terms.deferred and self._executor.reserve(type, owner)
        self._live.take(owner)
        self.inputs[uid] = input

        def settled(outcome: Accepted | Exception) -> None:
            # Not where the future is awaited: a caller that goes away cancels that, and the slot would be lost.
            self.inputs.pop(uid, None)
            created = isinstance(outcome, Accepted) and outcome.created
            if not created:
                self._live.give(owner)
            if not terms.deferred:
                self._executor.settled(type, owner, reserved, created)
            if begun is not None:
                begun(outcome)

        renew = type.renew or bool(terms.retried_from)
        accept = Accept(
            record, body, digest, type.template is not None, renew, reserved, refusal, child, terms.visible,
            terms.steps_of,
        )  # fmt: skip
        return self._writer.submit(accept, settled)


def _digest(type: OperationType, body: bytes, labels: Mapping[str, str]) -> bytes:
    """What makes two operations the same: the input apart from `request_id`, and the labels."""
    if type.keyed:
        input = type.input.FromString(body)
        input.ClearField("request_id")
        body = input.SerializeToString(deterministic=True)
    hasher = hashlib.sha256(body)
    for key in sorted(labels):
        hasher.update(f"\0{key}\0{labels[key]}".encode())
    return hasher.digest()[:16]
