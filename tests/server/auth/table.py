"""The table of who may do what: every RPC of every service and every verb of the command line, each with its gates.

What must come out is computed here from the contract's options, apart from the server's own reading of them. The tests
of each door hold the server to it; `make check` sees that no RPC, no option and no verb is left out.
"""

from __future__ import annotations

import importlib
import itertools
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from gates.v1 import gates_pb2
from google.bytestream import bytestream_pb2
from google.longrunning import operations_pb2
from google.protobuf import message_factory
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from longshore import v1
from longshore.v1 import annotations_pb2
from longshore.v1 import operations_service_pb2 as pb
from longshore.v1 import transfers_service_pb2 as transfers_pb
from longshore_server.rpc.authorization import PROVIDER
from tests.server.auth.conftest import ALL, Metadata, start

GATES = gates_pb2.DESCRIPTOR.services_by_name["GatesService"]
OURS = [importlib.import_module(f"longshore.v1.{m.name}") for m in pkgutil.iter_modules(v1.__path__)
        if m.name.endswith("_pb2")]  # fmt: skip
"""The modules of every file of `longshore/v1`."""
SERVICES: list[Any] = [
    GATES,
    *(service for module in OURS for service in module.DESCRIPTOR.services_by_name.values()),
    operations_pb2.DESCRIPTOR.services_by_name["Operations"],
    bytestream_pb2.DESCRIPTOR.services_by_name["ByteStream"],
    health_pb2.DESCRIPTOR.services_by_name["Health"],
    reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"],
]
PATHS = {f"/{service.full_name}/{method.name}": method for service in SERVICES for method in service.methods}
REFLECTION = "ServerReflection/ServerReflectionInfo"
# The same messages under another name; no package has a descriptor of it.
PATHS[f"/grpc.reflection.v1.{REFLECTION}"] = PATHS[f"/grpc.reflection.v1alpha.{REFLECTION}"]


class Type(NamedTuple):
    """Who may do what, as the contract says it: what each gate asks for, None where there is none."""

    gates: dict[str, set[str] | None]
    owned: bool


def read(method: Any) -> Type:
    option = method.GetOptions().Extensions[annotations_pb2.operation]
    gates: dict[str, set[str] | None] = {
        name: set(getattr(option, name).all_of) if option.HasField(name) else None
        for name in ("call", "observe", "cancel", "control")
    }
    if gates["observe"] is None:
        gates["observe"] = gates["call"]
    return Type(gates, option.visibility == annotations_pb2.VISIBILITY_OWNER)


def twin_of(method: Any) -> str:
    return str(method.GetOptions().Extensions[annotations_pb2.operation].watches)


TYPES = {method.name: read(method) for method in GATES.methods if not twin_of(method)}


class Caller(NamedTuple):
    """Somebody who calls. `wrong`: what is wrong with the credentials."""

    name: str
    capabilities: tuple[str, ...] = ()
    wrong: str = ""


SUBSETS = [subset for size in range(len(ALL) + 1) for subset in itertools.combinations(ALL, size)]
CALLERS = [
    Caller("nobody", wrong="CREDENTIALS_MISSING"), Caller("broken", wrong="CREDENTIALS_INVALID"),
    Caller("twice", wrong="CREDENTIALS_INVALID"), Caller("expired", ALL, wrong="CREDENTIALS_EXPIRED"),
    *(Caller(name, subset) for name in ("owner", "other") for subset in [*SUBSETS, (PROVIDER,)]),
]  # fmt: skip

Answer = tuple[str, str, str]
"""Code, reason and gate; the last two empty where there is none."""
OK: Answer = ("OK", "", "")


def missing(gate: str) -> Answer:
    return "PERMISSION_DENIED", "CAPABILITY_MISSING", gate


def passes(caller: Caller, wanted: set[str] | None) -> bool:
    return wanted is not None and wanted <= set(caller.capabilities)


def expected(caller: Caller, type: Type, gates: tuple[str, ...], *, exists: bool, about: str = "operation") -> Answer:
    """What a call has to answer that goes through `gates`."""
    if caller.wrong:
        return "UNAUTHENTICATED", caller.wrong, ""
    sees = passes(caller, type.gates["observe"]) and (not type.owned or caller.name == "owner")
    if about == "upload" and caller.name != "owner":
        return ("PERMISSION_DENIED", "NOT_THE_OWNER", "") if sees else ("NOT_FOUND", "UPLOAD_NOT_FOUND", "")
    # Who sends bytes has been given the name, and need not see more.
    if exists and about != "upload" and not sees:
        return "NOT_FOUND", f"{about.upper()}_NOT_FOUND", ""
    return next((missing(gate) for gate in gates if not passes(caller, type.gates[gate])), OK)


class Row(NamedTuple):
    """How one RPC is called, and the gates that it goes through.

    `request` gets the type and the operation that the owner has started; `exists`: it is about that one. `gates` None:
    everyone who is known passes. `live`: about one that has not ended. `provider`: through the provider's gate instead;
    whatever the operation itself refuses counts as OK. `open`: nobody need be known. `served`: False: UNIMPLEMENTED for
    everyone, so far. `about`: an `upload` or a `download` of that operation, whose
    name the request gets instead.
    """

    request: Callable[[str, str], Any] = lambda type, name: None
    gates: tuple[str, ...] | None = None
    exists: bool = False
    live: bool = False
    provider: bool = False
    open: bool = False
    served: bool = True
    about: str = "operation"
    metadata: Metadata = ()


def named(message: Any, gate: str = "observe", **fields: Any) -> Row:
    return Row(lambda type, name: message(name=name, **fields), (gate,), exists=True)


def offered(message: Any, gate: str = "observe") -> Row:
    return named(message, gate)._replace(about="download", live=True)


def sent(request: Callable[[str], Any], gate: str = "call") -> Row:
    return Row(lambda type, name: request(name), (gate,), exists=True, live=True, about="upload")


def provided(path: str) -> Row:
    """An RPC of who drives operations from outside."""
    message = message_factory.GetMessageClass(PATHS[path].input_type)
    return Row(lambda type, name: message(name=name), provider=True, live=True)


def of_instances(path: str) -> Row:
    """An RPC of recurrings, debounces or tasks. What a definition's `call` lets through is tested with one."""
    message = message_factory.GetMessageClass(PATHS[path].input_type)
    collection = f"{path.rpartition('.')[2].partition('Service')[0].lower()}s/gated"
    asked = {"parent": collection, "name": f"{collection}/instances/a"}
    fields = {field: text for field, text in asked.items() if field in message.DESCRIPTOR.fields_by_name}
    return Row(lambda type, name: message(**fields), provider=True)


def of_jobs(path: str) -> Row:
    """An RPC of jobs and their queues, about one that there is not. `longshore.admin` is tested where jobs are."""
    message = message_factory.GetMessageClass(PATHS[path].input_type)
    named = "name" in message.DESCRIPTOR.fields_by_name
    return Row(lambda type, name: message(name="nobody's") if named else message(), provider=True)


def with_wait(type: str, name: str) -> pb.StartRequest:
    request = start(type, key="wait", done=True)
    request.wait.nanos = 1000
    return request


def run(type: str, name: str) -> pb.RunRequest:
    request = start(type, key="run")
    return pb.RunRequest(type=request.type, input=request.input)


OPERATIONS, LRO = "/longshore.v1.OperationsService/", "/google.longrunning.Operations/"
CONTROL, TRANSFERS = "/longshore.v1.OperationControlService/", "/longshore.v1.TransfersService/"
STREAM = "/google.bytestream.ByteStream/"
JOBS = "/longshore.v1.JobsService/"
INSTANCES = tuple(f"/longshore.v1.{kind}Service/" for kind in ("Recurring", "Debounce", "Task"))
SOON = Duration(nanos=1000)
ROWS: dict[str, list[Row]] = {
    OPERATIONS + "Start": [
        Row(lambda type, name: start(type, key="start"), ("call",)), Row(with_wait, ("call", "observe"))
    ],
    OPERATIONS + "Run": [Row(run, ("call", "observe"))],
    OPERATIONS + "Get": [named(pb.GetRequest), named(pb.GetRequest, view=pb.OPERATION_VIEW_FULL)],
    OPERATIONS + "List": [Row(lambda type, name: pb.ListRequest())],
    OPERATIONS + "Wait": [named(pb.WaitRequest, timeout=SOON)],
    OPERATIONS + "Watch": [named(pb.WatchRequest), named(pb.WatchRequest, after_sequence=0)],
    OPERATIONS + "Cancel": [named(pb.CancelRequest, "cancel")],
    OPERATIONS + "Stop": [named(pb.StopRequest, "cancel")],
    OPERATIONS + "Signal": [named(pb.SignalRequest, "control", signal="poke")._replace(live=True)],
    OPERATIONS + "Retry": [named(pb.RetryRequest, "call")],
    OPERATIONS + "Delete": [named(pb.DeleteRequest, "cancel")],
    OPERATIONS + "Count": [Row(lambda type, name: pb.CountRequest())],
    OPERATIONS + "ListTypes": [Row(lambda type, name: pb.ListTypesRequest())],
    OPERATIONS + "GetType": [Row(lambda type, name: pb.GetTypeRequest(type=f"gates.v1.GatesService/{type}"))],
    TRANSFERS + "Upload": [
        sent(lambda name: transfers_pb.UploadRequest(header=transfers_pb.UploadHeader(upload=name)))
    ],
    TRANSFERS + "QueryUpload": [sent(lambda name: transfers_pb.QueryUploadRequest(name=name))],
    TRANSFERS + "AbortUpload": [sent(lambda name: transfers_pb.AbortUploadRequest(name=name), "cancel")],
    TRANSFERS + "Download": [offered(transfers_pb.DownloadRequest)],
    TRANSFERS + "RevokeDownload": [offered(transfers_pb.RevokeDownloadRequest, "cancel")],
    STREAM + "Write": [sent(lambda name: bytestream_pb2.WriteRequest(resource_name=name))],
    STREAM + "QueryWriteStatus": [sent(lambda name: bytestream_pb2.QueryWriteStatusRequest(resource_name=name))],
    STREAM + "Read": [
        Row(lambda type, name: bytestream_pb2.ReadRequest(resource_name=name), ("observe",), exists=True, live=True,
            about="download"),
    ],
    **{path: [provided(path)] for path in PATHS if path.startswith(CONTROL)},
    **{path: [of_jobs(path)] for path in PATHS if path.startswith(JOBS)},
    **{path: [of_instances(path)] for path in PATHS if path.startswith(INSTANCES)},
    LRO + "GetOperation": [named(operations_pb2.GetOperationRequest)],
    LRO + "ListOperations": [Row(lambda type, name: operations_pb2.ListOperationsRequest())],
    LRO + "WaitOperation": [named(operations_pb2.WaitOperationRequest, timeout=SOON)],
    LRO + "CancelOperation": [named(operations_pb2.CancelOperationRequest, "cancel")],
    LRO + "DeleteOperation": [named(operations_pb2.DeleteOperationRequest, "cancel")],
    "/grpc.health.v1.Health/Check": [Row(lambda type, name: health_pb2.HealthCheckRequest(), open=True)],
    "/grpc.health.v1.Health/Watch": [Row(lambda type, name: health_pb2.HealthCheckRequest(), open=True)],
    "/grpc.health.v1.Health/List": [Row(served=False)],
    **{path: [Row(lambda type, name: reflection_pb2.ServerReflectionRequest(list_services=""))]
       for path in PATHS if path.endswith(REFLECTION)},
}  # fmt: skip
NEW = {"/grpc.health.v1.Health/List"}
"""What the lowest versions that we run on do not know."""


def typed_rows(path: str) -> list[Row]:
    """The contract's own RPCs, each about one type."""
    method = PATHS[path]

    def request(type: str, name: str) -> Any:
        return gates_pb2.GatesRequest(key="typed", done=True)

    if twin_of(method):
        return [Row(request, ("call", "observe"))]
    return [Row(request, ("call",)), Row(request, ("call", "observe"), metadata=(("longshore-wait", "1ms"),))]


ROWS.update({path: typed_rows(path) for path in PATHS if path.startswith("/gates.v1.")})


def types_of(path: str, row: Row) -> Iterator[str]:
    """The types that a row is crossed with."""
    if path.startswith("/gates.v1."):
        yield twin_of(PATHS[path]) or PATHS[path].name
    elif row.gates is None:
        yield "Open"
    else:
        yield from TYPES


def wanted(caller: Caller, row: Row, type: str) -> Answer:
    """What must come out."""
    if not row.served:
        return "UNIMPLEMENTED", "", ""
    if row.open:
        return OK
    if row.provider and not caller.wrong:
        return OK if PROVIDER in caller.capabilities else missing("")
    found = expected(caller, TYPES[type], row.gates or (), exists=row.exists, about=row.about)
    # Of the types with a template, the owner came first and has the name.
    taken = bool(row.gates) and not row.exists and type.endswith("Named") and caller.name == "other"
    if found == OK and taken and expected(caller, TYPES[type], (), exists=True) != OK:
        return "ALREADY_EXISTS", "NAME_IN_USE", ""
    return found


class Verb(NamedTuple):
    """How a verb of the command line is run, and the row of the RPC that decides what becomes of it.

    `arguments` gets the type and the operation that the owner has started; NAME is its name.
    """

    row: Row
    arguments: Callable[[str, str], tuple[str, ...]]
    types: tuple[str, ...] = ("Gated", "Own")
    then: Row | None = None
    """The row of the RPC that follows, for whom the first one lets through."""
    says: str = ""
    """The refusal, as a pattern, that counts as OK; empty: none does."""


def of_one(rpc: str, verb: str, *more: str) -> Verb:
    """A verb about one operation."""
    return Verb(ROWS[OPERATIONS + rpc][0], lambda type, name: (verb, name, *more))


def of_job(rpc: str, verb: str, *arguments: str) -> Verb:
    """A verb of `longshore jobs`. What it names is none: for who may ask, the server says so."""
    says = r"error: .*is not of the form jobs/.*|error: This server has no queues/.*" if arguments else ""
    return Verb(ROWS[JOBS + rpc][0], lambda type, name: ("jobs", verb, *arguments), ("Gated",), says=says)


def of_instance(kind: str, rpc: str, verb: str, *more: str) -> Verb:
    """A verb of `longshore recurring`, `debounce` or `task`."""
    name = {"definitions": (), "ls": ("gated",)}.get(verb, ("gated/a",))
    return Verb(
        ROWS[f"/longshore.v1.{kind}Service/{rpc}"][0], lambda type, _: (kind.lower(), verb, *name, *more), ("Gated",),
        says="error: there is no .*",
    )  # fmt: skip


def of_all(rpc: str, verb: str) -> Verb:
    return Verb(ROWS[OPERATIONS + rpc][0], lambda type, name: (verb,))


CALL = ("-d", '{"key": "called", "done": true}')
VERBS: dict[str, Verb] = {
    "call": Verb(ROWS[OPERATIONS + "Start"][0], lambda type, name: ("call", f"GatesService/{type}", *CALL),
                 ("Gated", "OwnNamed")),
    "ls": of_all("List", "ls"),
    "count": of_all("Count", "count"),
    "get": of_one("Get", "get"),
    "watch": of_one("Watch", "watch"),
    "wait": of_one("Wait", "wait"),
    "cancel": of_one("Cancel", "cancel"),
    "signal": of_one("Signal", "signal", "poke"),
    "stop": of_one("Stop", "stop"),
    "retry": of_one("Retry", "retry", "--completed"),
    "delete": of_one("Delete", "delete"),
    "upload": Verb(ROWS[OPERATIONS + "Get"][0]._replace(live=True),
                   lambda type, name: ("upload", "--resume", name, __file__),
                   then=ROWS[TRANSFERS + "QueryUpload"][0]),
    "download": Verb(ROWS[OPERATIONS + "Get"][0]._replace(live=True),
                     lambda type, name: ("download", name, "--to", "-"), then=ROWS[TRANSFERS + "Download"][0]),
    "logs": Verb(ROWS[CONTROL + "ListLogs"][0], lambda type, name: ("logs", name)),
    "steps": Verb(ROWS[CONTROL + "ListSteps"][0], lambda type, name: ("steps", name)),
    "types": of_all("ListTypes", "types"),
    "recurring start": of_instance("Recurring", "StartRecurring", "start"),
    "recurring trigger": of_instance("Recurring", "TriggerRecurring", "trigger"),
    "debounce add": of_instance("Debounce", "AddEvent", "add", "-d", "{}"),
    "debounce flush": of_instance("Debounce", "FlushDebounce", "flush"),
    "debounce clear": of_instance("Debounce", "ClearDebounce", "clear"),
    "task send": of_instance("Task", "SendEvent", "send", "-d", "{}"),
    "task trigger": of_instance("Task", "TriggerTask", "trigger"),
    **{
        f"{kind.lower()} {verb}": of_instance(kind, rpc.format(kind), verb)
        for kind in ("Recurring", "Debounce", "Task")
        for verb, rpc in (("definitions", "ListDefinitions"), ("ls", "List{}s"), ("get", "Get{}"),
                          ("state", "Get{}State"), ("logs", "List{}Logs"), ("pause", "Pause{}"), ("resume", "Resume{}"),
                          ("terminate", "Terminate{}"))
    },
    "jobs ls": of_job("ListJobs", "ls"),
    "jobs dead": of_job("ListJobs", "dead"),
    "jobs get": of_job("GetJob", "get", "none"),
    "jobs logs": of_job("ListJobLogs", "logs", "none"),
    "jobs steps": of_job("ListJobSteps", "steps", "none"),
    "jobs retry": of_job("RetryJob", "retry", "none"),
    "jobs cancel": of_job("CancelJob", "cancel", "none"),
    "jobs replay": of_job("ReplayDeadLetters", "replay", "--all"),
    "jobs dismiss": of_job("DismissDeadLetters", "dismiss", "--all"),
    "jobs queues": of_job("ListQueues", "queues"),
    "jobs pause": of_job("PauseQueue", "pause", "none"),
    "jobs resume": of_job("ResumeQueue", "resume", "none"),
    "jobs workers": of_job("ListWorkers", "workers"),
}  # fmt: skip
