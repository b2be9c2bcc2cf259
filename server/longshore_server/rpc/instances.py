"""What the services of recurrings, debounces and tasks share: names, gates, values, and the verbs that all have."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from longshore.v1 import instances_pb2 as pb
from longshore_server.contract.source import hint_or_all
from longshore_server.engine.engine import Engine
from longshore_server.errors import Reason, ServiceError, invalid
from longshore_server.instance_lifecycle import Kind, Status
from longshore_server.instances.definition import Changed, Definition, Terminated, check_id
from longshore_server.instances.json_values import read_json, read_message, write_json
from longshore_server.instances.values import Shape, TooLargeError
from longshore_server.rpc import wire
from longshore_server.rpc.authorization import Authorization
from longshore_server.rpc.boundary import Context
from longshore_server.rpc.definitions import declared
from longshore_server.rpc.paging import Fit, make_token, read_size, read_token
from longshore_server.rpc.records import AskedLines, log_page
from longshore_server.store.instances import InstanceRecord, Value, instance_name
from longshore_server.transfers.threads import in_thread

DefinitionT = TypeVar("DefinitionT", bound=Definition[Any])
_SPACIOUS = 2
"""How many times as large as what is stored of it a JSON text may be."""
_SHORT = 8192
"""Characters of JSON that are read at once. A megabyte may become a message in three seconds, in which nobody else
would be served: what is longer is read in a thread."""


class Named(Protocol):
    """A request about one instance."""

    name: str


class AskedLog(Named, AskedLines, Protocol):
    """A request for the log of one."""


class Listing(Protocol):
    """A request for a page of instances."""

    parent: str
    page_size: int
    page_token: str
    status: pb.InstanceStatus.ValueType


class Instances(Generic[DefinitionT]):
    """The verbs of one kind over the wire."""

    def __init__(self, engine: Engine, kind: Kind) -> None:
        self._engine = engine
        self._kind = kind
        self._collection = f"{kind.name.lower()}s"
        self._authorization = Authorization(engine)

    def find(self, context: Context, name: str, *, admin: bool = False) -> tuple[DefinitionT, str]:
        """The definition and the id that a name means, for a caller who may call, or administer it.

        Raises `ServiceError`: INVALID_NAME, DEFINITION_NOT_FOUND, CAPABILITY_MISSING.
        """
        parts = name.split("/")
        if len(parts) != 4 or parts[0] != self._collection or parts[2] != "instances" or not parts[1]:
            form = f"{self._collection}/{{definition}}/instances/{{id}}"
            raise invalid("name", f"{name[:200]!r} is not of the form {form}", reason=Reason.INVALID_NAME)
        definition = self._definition(context, parts[1], admin=admin)
        try:
            return definition, check_id(parts[3])
        except ServiceError as error:
            raise invalid("name", error.violations[0].description, reason=Reason.INVALID_NAME) from None

    def _definition(self, context: Context, name: str, *, admin: bool) -> DefinitionT:
        definition: Any = self._engine.instances.definitions.get((self._kind, name))
        self._authorization.check_provider(context.caller, "" if admin or definition is None else definition.call or "")
        if definition is None:
            resource = f"{self._collection}/{name[:200]}"
            known = (other for kind, other in self._engine.instances.definitions if kind is self._kind)
            problem = f"Nothing here defines {resource}{hint_or_all(name, known)}"
            raise ServiceError(Reason.DEFINITION_NOT_FOUND, problem, resource=resource)
        found: DefinitionT = definition
        return found

    async def record(self, definition: DefinitionT, id: str) -> tuple[InstanceRecord, Value | None] | None:
        """The instance and its state."""
        return await definition.host.find(definition.address(id))

    async def state(self, request: Named, context: Context) -> bytes:
        """Answers GetState."""
        definition, id = self.find(context, request.name)
        found = await self.record(definition, id)
        if found is None:
            return pb.InstanceState(status=status(Status.NOT_FOUND)).SerializeToString()
        record, stored = found
        answer = pb.InstanceState(status=status(record.status), version=record.version)
        value = definition.read_state(record, stored)
        if stored is not None:
            write(answer.state, definition.state_shape, stored, value)
        return answer.SerializeToString()

    async def definitions(self, request: pb.ListDefinitionsRequest, context: Context) -> bytes:
        """Answers ListDefinitions."""
        self._authorization.check_provider(context.caller, "")
        response = pb.ListDefinitionsResponse()
        for (kind, name), found in sorted(self._engine.instances.definitions.items()):
            if kind is self._kind:
                response.definitions.append(declared(found, f"{self._collection}/{name}"))
        return response.SerializeToString()

    async def page(self, request: Listing, context: Context, response: Any, snapshot: Any) -> bytes:
        """Answers List: fills `response` with what `snapshot` makes of records."""
        prefix, _, name = request.parent.partition("/")
        if prefix != self._collection or not name or "/" in name:
            form = f"{self._collection}/{{definition}}"
            raise invalid("parent", f"{request.parent[:200]!r} is not of the form {form}", reason=Reason.INVALID_NAME)
        definition = self._definition(context, name, admin=True)
        size = read_size(request.page_size)
        if request.status not in (0, *(found.value for found in Status)):
            raise invalid("status", f"{request.status} is not a status that this version knows")
        only = Status(request.status) if request.status else None
        key, query = self._engine.store.page_key, (request.parent, request.status)
        after = read_token(key, request.page_token, query) if request.page_token else b""
        records = await definition.host.page(self._kind, name, only, after, size + 1)
        fit, last = Fit(), b""
        for record in records[:size]:
            shown = snapshot(definition, record)
            if not fit.takes(shown):
                break
            response.instances.append(shown)
            last = record.uid
        if len(records) > len(response.instances):
            response.next_page_token = make_token(key, last, query)
        answer: bytes = response.SerializeToString()
        return answer

    async def logs(self, request: AskedLog, context: Context) -> bytes:
        """Answers ListLogs."""
        definition, id = self.find(context, request.name, admin=True)
        found = await self.record(definition, id)
        uid, stands = (b"", Status.NOT_FOUND) if found is None else (found[0].uid, found[0].status)
        answer = await log_page(self._engine.store, uid, request, pb.InstanceLogs(status=status(stands)))
        return answer.SerializeToString()

    async def pause(self, request: Named, context: Context) -> bytes:
        """Answers Pause."""
        definition, id = self.find(context, request.name, admin=True)
        return changed(await definition.pause(id))

    async def resume(self, request: Named, context: Context) -> bytes:
        """Answers Resume."""
        definition, id = self.find(context, request.name, admin=True)
        return changed(await definition.resume(id))

    async def terminate(self, request: Any, context: Context) -> bytes:
        """Answers Terminate."""
        definition, id = self.find(context, request.name, admin=True)
        found: Terminated = await definition.terminate(id, request.reason, purge=request.purge)
        return pb.InstanceChange(
            changed=found.terminated, status=status(found.status), reason=found.reason
        ).SerializeToString()


async def read(request: Any, field: str, shape: Shape, limit: int) -> Any:
    """The value in a field. Raises `ServiceError` (INVALID_ARGUMENT, INPUT_TOO_LARGE) where the shape has none such."""
    if len(getattr(request, field).json) > _SHORT:
        return await in_thread(_read, request, field, shape, limit)
    return _read(request, field, shape, limit)


def _read(request: Any, field: str, shape: Shape, limit: int) -> Any:
    try:
        value = _unpacked(getattr(request, field), shape, limit)
        shape.store(value, limit)
    except TooLargeError as error:
        raise ServiceError(Reason.INPUT_TOO_LARGE, f"{error}.", metadata={"limit": str(limit)}) from None
    except (TypeError, ValueError) as error:
        raise invalid(field, str(error)) from None
    return value


def _unpacked(packed: pb.InstanceValue, shape: Shape, limit: int) -> Any:
    # Before it is read: ten million bytes of JSON may take half a minute, in which nobody else is served. A text may be
    # larger than what is stored of it, by its spaces for example.
    shape.check_size(len(packed.message.value), limit)
    if len(packed.json) > _SPACIOUS * limit:
        shape.check_size(len(packed.json.encode()), limit)
    if packed.HasField("message"):
        return read_message(shape, packed.message.type_url.rpartition("/")[2], packed.message.value)
    if packed.HasField("json"):
        return read_json(shape, packed.json)
    if not shape.optional:
        raise ValueError(f"must be set: {shape}")
    return None


def write(packed: pb.InstanceValue, shape: Shape, stored: Value, value: object) -> None:
    """Put a stored value into a message."""
    if isinstance(value, Message):
        packed.message.type_url = f"type.googleapis.com/{value.DESCRIPTOR.full_name}"
        packed.message.value = stored[1]
    else:
        packed.json = write_json(shape, stored)


def facts(into: pb.InstanceFacts, record: InstanceRecord) -> None:
    """What all snapshots begin with."""
    into.name = record.name
    into.status = status(record.status)
    into.generation = record.generation
    into.version = record.version
    into.attempt = record.attempt
    into.stop_reason = record.reason
    wire.set_time(into.create_time, record.created)
    wire.set_time(into.update_time, record.updated)
    if record.retry_at is not None:
        wire.set_time(into.retry_time, record.retry_at)
    if record.error is not None:
        into.last_error.ParseFromString(record.error)


def absent(into: pb.InstanceFacts, kind: Kind, definition: str, id: str) -> None:
    """What a snapshot says of an instance that there is not."""
    into.name = instance_name(kind, definition, id)
    into.status = status(Status.NOT_FOUND)


def status(found: Status) -> pb.InstanceStatus.ValueType:
    """The status on the wire."""
    return pb.InstanceStatus.ValueType(found.value)


def changed(found: Changed) -> bytes:
    """The answer to a pause or a resume."""
    return pb.InstanceChange(changed=found.changed, status=status(found.status)).SerializeToString()


def set_moment(into: Timestamp, time: datetime | None) -> None:
    """Set a time, if there is one."""
    if time is not None:
        into.FromDatetime(time)
