"""A contract that cannot be enforced is refused at start-up, by a message with file, line, method and option."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from google.longrunning import operations_pb2
from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from google.protobuf.descriptor import ServiceDescriptor
from lab.v1 import lab_longshore, lab_pb2

from longshore.v1 import annotations_pb2
from longshore_server import ContractError, Server
from longshore_server.contract import loading
from tests.conftest import LabHandlers

NUMBERS = itertools.count(1)
F = descriptor_pb2.FieldDescriptorProto


def method(name: str = "Play", options: str | None = "", **changes: Any) -> descriptor_pb2.MethodDescriptorProto:
    """A method of a contract; `options`: the text of its operation option, None for a method that has none."""
    proto = descriptor_pb2.MethodDescriptorProto(
        name=name, input_type=changes.pop("input", ".PKG.Input"),
        output_type=changes.pop("output", ".google.longrunning.Operation"),
        server_streaming=changes.pop("stream", False), client_streaming=changes.pop("takes_stream", False),
    )  # fmt: skip
    if options is not None:
        text_format.Parse(options, proto.options.Extensions[annotations_pb2.operation])
        # proto3 text drops nothing, but an empty option has to be present all the same.
        proto.options.Extensions[annotations_pb2.operation].SetInParent()
    info = changes.pop("info", ("Result", "Progress"))
    if info is not None:
        proto.options.Extensions[operations_pb2.operation_info].response_type = info[0]
        proto.options.Extensions[operations_pb2.operation_info].metadata_type = info[1]
    return proto


def contract(*methods: descriptor_pb2.MethodDescriptorProto, service: str = "") -> ServiceDescriptor:
    """A service descriptor made at run time, in a package of its own."""
    package = f"made{next(NUMBERS)}.v1"
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    file.dependency.extend(
        ["google/longrunning/operations.proto", "longshore/v1/annotations.proto", "longshore/v1/channels.proto"]
    )
    for name in ("Input", "Progress", "Result", "Other"):
        message = file.message_type.add(name=name)
        message.field.add(name="key", number=1, type=F.TYPE_STRING, label=F.LABEL_OPTIONAL)
        message.field.add(name="count", number=2, type=F.TYPE_INT32, label=F.LABEL_OPTIONAL)
        message.field.add(name="keys", number=3, type=F.TYPE_STRING, label=F.LABEL_REPEATED)
        message.field.add(
            name="inner", number=4, type=F.TYPE_MESSAGE, type_name=f".{package}.{name}", label=F.LABEL_OPTIONAL
        )
    made = file.service.add(name="Orders")
    for proto in methods:
        copy = made.method.add()
        copy.CopyFrom(proto)
        copy.input_type = copy.input_type.replace("PKG", package)
        copy.output_type = copy.output_type.replace("PKG", package)
    if service:
        text_format.Parse(service, made.options.Extensions[annotations_pb2.contract])
    pool = descriptor_pool.Default()
    pool.Add(file)
    return pool.FindServiceByName(f"{package}.Orders")


async def handle(self: Any, request: Any, op: Any) -> Any:
    """A handler as it should be."""


def service(descriptor: ServiceDescriptor, **members: Any) -> Any:
    declared = [m.name for m in descriptor.methods]
    option = annotations_pb2.operation
    names = {m.name: m.name.lower() for m in descriptor.methods if not m.GetOptions().Extensions[option].watches}
    found = {"DESCRIPTOR": descriptor, "OPERATIONS": names, "LINES": dict.fromkeys(declared, 7)}
    return type("Orders", (), {**found, **dict.fromkeys(names.values(), handle), **members})()


def refusal(*methods: descriptor_pb2.MethodDescriptorProto, service_options: str = "", **members: Any) -> str:
    """The message of the refusal, with the made-up package taken out."""
    descriptor = contract(*methods, service=service_options)
    with pytest.raises(ContractError) as caught:
        loading.load([service(descriptor, **members)], default_timeout=1)
    package = descriptor.file.package
    return str(caught.value).replace(f"{package}.proto", "FILE").replace(package, "PKG")


LATER = "not yet supported by this version, and never ignored in silence; remove it until then"
CASES: dict[str, tuple[Any, str]] = {
    "signals": (method(options='signals { name: "a" } control {}'), f"option signals: {LATER}"),
    "signals without control": (
        method(options='signals { name: "a" }'),
        "option control: it must be present, because signals are declared; say `control: {}` to mean everyone",
    ),
    "retention": (method(options="retention { seconds: 1 }"), f"option retention: {LATER}"),
    "retry": (method(options="retry { max_attempts: 2 }"), f"option retry: {LATER}"),
    "errors": (method(options='errors: "a.B"'), f"option errors: {LATER}"),
    "transfer": (method(options="transfer {}"), f"option transfer: {LATER}"),
    "a gate with an undeclared capability": (
        method(options='observe { all_of: "orders.read" }'),
        "option observe: capability 'orders.read' is not declared by the service",
    ),
    "a gate with a built-in capability": (
        method(options='control { all_of: "longshore.provider" }'),
        "option control: capability 'longshore.provider' is not declared by the service",
    ),
    "an unknown visibility": (
        method(options="visibility: 9"), "option visibility: 9 is not a value that this version knows",
    ),
    "takes a stream": (
        method(takes_stream=True), "an operation takes one request, not a stream",
    ),
    "returns another message": (
        method(output=".PKG.Result"),
        "an operation must return google.longrunning.Operation, not PKG.Result",
    ),
    "no operation_info": (
        method(info=None),
        ("option (google.longrunning.operation_info) is missing: it names the result and progress "
        "types"),
    ),
    "no result type": (
        method(info=("", "Progress")),
        ("option operation_info.response_type: it must name a message; google.protobuf.Empty stands "
        "for none"),
    ),
    "no progress type": (
        method(info=("Result", "")),
        ("option operation_info.metadata_type: it must name a message; google.protobuf.Empty stands "
        "for none"),
    ),
    "a result type with a slip": (
        method(info=("Resutl", "Progress")),
        ("option operation_info.response_type: no message is called 'Resutl' in PKG or any imported "
        "file. Did you mean 'Result'?"),
    ),
    "an unknown progress type": (
        method(info=("Result", "no.such.Thing")),
        ("option operation_info.metadata_type: no message is called 'no.such.Thing' in PKG or any "
        "imported file"),
    ),
    "an unknown output type": (
        method(options='output_type: "Outptu"'),
        "option output_type: no message is called 'Outptu' in PKG or any imported file",
    ),
    "a timeout of nothing": (
        method(options="timeout {}"), "option timeout: it must be longer than zero",
    ),
    "a negative timeout": (
        method(options="timeout { seconds: -1 }"), "option timeout: it must be longer than zero",
    ),
    "an attempt timeout of nothing": (
        method(options="attempt_timeout {}"),
        "option attempt_timeout: it must be longer than zero",
    ),
    "a negative grace": (
        method(options="cancellation: CANCELLATION_COOPERATIVE cancel_grace { seconds: -1 }"),
        "option cancel_grace: it must be longer than zero",
    ),
    "a grace without cancellation": (
        method(options="cancel_grace { seconds: 1 }"),
        "option cancel_grace: it means nothing unless cancellation is CANCELLATION_COOPERATIVE",
    ),
    "a grace with best effort": (
        method(options="cancellation: CANCELLATION_BEST_EFFORT cancel_grace { seconds: 1 }"),
        "option cancel_grace: it means nothing unless cancellation is CANCELLATION_COOPERATIVE",
    ),
    "unbounded: false": (
        method(options="unbounded: false"),
        "option unbounded: it must be true when it is written; leave it out otherwise",
    ),
    "no crash at all": (
        method(options="max_crashes: 0"), "option max_crashes: it must be at least 1",
    ),
    "an unknown cancellation": (
        method(options="cancellation: 9"),
        "option cancellation: 9 is not a value that this version knows",
    ),
    "an unknown on_crash": (
        method(options="on_crash: 9"),
        "option on_crash: 9 is not a value that this version knows",
    ),
    "an unknown on_terminal": (
        method(options='id_template: "o-{key}" on_terminal: 9'),
        "option on_terminal: 9 is not a value that this version knows",
    ),
    "on_terminal without a template": (
        method(options="on_terminal: ON_TERMINAL_NEW"),
        "option on_terminal: it means nothing without id_template",
    ),
    "a template without a prefix": (
        method(options='id_template: "{key}"'),
        ("option id_template: it must begin with a literal prefix, for example "
        "'orders-process-{order_id}'"),
    ),
    "a template without a placeholder": (
        method(options='id_template: "orders"'),
        "option id_template: it has no placeholder, so every operation would have the same name",
    ),
    "a template with bad characters": (
        method(options='id_template: "orders/{key}"'),
        "option id_template: 'orders/' may only hold letters, digits, '.', '_', '~' and '-'",
    ),
    "a template with a brace too many": (
        method(options='id_template: "o-{key}}"'),
        "option id_template: '}' may only hold letters, digits, '.', '_', '~' and '-'",
    ),
    "a template with placeholders that touch": (
        method(options='id_template: "o-{key}{inner.key}"'),
        ("option id_template: two placeholders must have a literal between them, or two inputs could "
        "share a name"),
    ),
    "a template with an unknown field": (
        method(options='id_template: "o-{kye}"'),
        "option id_template: {kye} is not a field of PKG.Input",
    ),
    "a template with a field of a text": (
        method(options='id_template: "o-{key.x}"'),
        "option id_template: {key.x} must be a single string field of PKG.Input",
    ),
    "a template with a number": (
        method(options='id_template: "o-{count}"'),
        "option id_template: {count} must be a single string field of PKG.Input",
    ),
    "a template with a list": (
        method(options='id_template: "o-{keys}"'),
        "option id_template: {keys} must be a single string field of PKG.Input",
    ),
    "a template with a message": (
        method(options='id_template: "o-{inner}"'),
        "option id_template: {inner} must be a single string field of PKG.Input",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_method_is_refused(case: str) -> None:
    proto, message = CASES[case]
    assert refusal(proto) == f"FILE:7: Orders.Play: {message}"


def twin(name: str = "Follow", options: str = 'watches: "Play"', **changes: Any) -> Any:
    return method(name, options, **{"info": None, "stream": True, **changes})


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            twin(options='watches: "Plya"'),
            "FILE:7: Orders.Follow: option watches: 'Plya' is no operation of this service. Did you mean 'Play'?",
        ),
        (
            twin(options='watches: "Follow"'),
            "FILE:7: Orders.Follow: option watches: 'Follow' is no operation of this service",
        ),
        (
            twin(options='watches: "Play" timeout { seconds: 1 }'),
            "FILE:7: Orders.Follow: option watches: a streaming twin declares nothing else",
        ),
        (
            twin(stream=False),
            "FILE:7: Orders.Follow: option watches: the method must return (stream google.longrunning.Operation)",
        ),
        (
            twin(output=".PKG.Result"),
            "FILE:7: Orders.Follow: option watches: the method must return (stream google.longrunning.Operation)",
        ),
        (
            twin(input=".PKG.Other"),
            "FILE:7: Orders.Follow: option watches: its request must be PKG.Input, as of Play",
        ),
        (
            method("Follow", None),
            (
                "FILE:7: Orders.Follow: it is no operation: add the option (longshore.v1.operation), or move it "
                "to a service of its own"
            ),
        ),
        (
            method("Follow", 'id_template: "play-more-{key}"'),
            (
                "PKG.Orders/Follow: option id_template: its prefix 'play-more-' begins with 'play-', the prefix of "
                "PKG.Orders/Play; names must tell their types apart"
            ),
        ),
    ],
)
def test_a_second_method_is_refused(made: Any, message: str) -> None:
    assert refusal(method(options='id_template: "play-{key}"'), made) == message


def test_a_service_without_operations_is_refused() -> None:
    assert refusal(method(options=None)) == "FILE: Orders: no method carries the option (longshore.v1.operation)"


MALFORMED = (
    "must be at most 128 lower-case letters and digits in parts joined by '.', '_', '-' or ':', "
    "for example 'orders.read'"
)


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ([""], "[0].name: it is missing; gates mean a capability by its name"),
        (["a", ""], "[1].name: it is missing; gates mean a capability by its name"),
        (["a", "a"], "[1].name: 'a' is declared twice"),
        (["longshore.x"], "[0].name: 'longshore.x' begins with 'longshore.', as only the server's own capabilities do"),
        *(
            ([name], f"[0].name: {name!r} {MALFORMED}")
            for name in ("Orders.read", "orders read", ".read", "orders..read", "orders/read", "a" * 129)
        ),
    ],
)
def test_a_capability_is_refused(names: list[str], problem: str) -> None:
    declared = " ".join(f'capabilities {{ name: "{name}" title: "T" }}' for name in names)
    assert refusal(method(), service_options=declared) == f"FILE: Orders: option contract.capabilities{problem}"


@pytest.mark.parametrize("gate", ["call", "observe", "cancel", "control"])
def test_a_gate_may_only_name_what_the_service_declares(gate: str) -> None:
    declared = 'capabilities { name: "orders.read" title: "Read" } capabilities { name: "orders.write" }'
    wrong = method(options=f'{gate} {{ all_of: "orders.read" all_of: "orders.wirte" }}')
    assert refusal(wrong, service_options=declared) == (
        f"FILE:7: Orders.Play: option {gate}: capability 'orders.wirte' is not declared by the service. "
        "Did you mean 'orders.write'?"
    )


def test_a_contract_must_say_who_may_start_once_callers_say_who_they_are() -> None:
    silent = service(contract(method(options="observe {}")))
    assert loading.load([silent], default_timeout=1)[0].call is None
    with pytest.raises(ContractError) as caught:
        loading.load([silent], default_timeout=1, authenticated=True)
    assert str(caught.value).endswith(
        "Orders.Play: option call: it must be present now that callers say who they are; "
        "say `call: {}` to mean everyone"
    )


def test_gates_are_what_they_say() -> None:
    declared = 'capabilities { name: "a.b" } capabilities { name: "c" }'

    def load(options: str) -> Any:
        return loading.load([service(contract(method(options=options), service=declared))], default_timeout=1)[0]

    full = load('call { all_of: "a.b" all_of: "c" } observe {} cancel { all_of: "c" } visibility: VISIBILITY_OWNER')
    assert (full.call, full.observe, full.cancel, full.control) == ({"a.b", "c"}, frozenset(), {"c"}, None)
    assert full.owned
    bare = load('call { all_of: "c" }')
    assert (bare.call, bare.observe, bare.cancel, bare.control) == ({"c"}, {"c"}, None, None)
    assert not bare.owned


def _not_async(self: Any, request: Any, op: Any) -> Any: ...
async def _one_argument(self: Any, request: Any) -> Any: ...
async def _three_arguments(self: Any, request: Any, op: Any, more: Any) -> Any: ...
async def _generator(self: Any, request: Any, op: Any) -> Any:
    yield


async def _takes_another(self: Any, request: lab_pb2.PlayResult, op: Any) -> Any: ...
async def _returns_another(self: Any, request: Any, op: Any) -> lab_pb2.PlayRequest:
    return lab_pb2.PlayRequest()


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (None, "no handler: write `async def play(self, request, op)`"),
        (_not_async, "Orders.play must be an `async def` that returns the result"),
        (_generator, "Orders.play must be an `async def` that returns the result"),
        (_one_argument, "Orders.play must take exactly two arguments, (request, op)"),
        (_three_arguments, "Orders.play must take exactly two arguments, (request, op)"),
        (_takes_another, "Orders.play takes lab.v1.PlayResult, but the contract says PKG.Input"),
        (_returns_another, "Orders.play returns lab.v1.PlayRequest, but the contract says PKG.Result"),
    ],
)
def test_a_handler_is_refused(handler: Any, message: str) -> None:
    assert refusal(method(), play=handler) == f"FILE:7: Orders.Play: {message}"


def test_a_handler_of_no_operation_is_refused() -> None:
    found = refusal(method(), plya=handle)
    assert (
        found == "Orders.plya: PKG.Orders has no such operation. Did you mean 'play'? "
        "Declare it in FILE, or rename the method"
    )


def test_a_missing_handler_of_a_generated_base_names_the_line() -> None:
    class Half(lab_longshore.LabService):
        """Nothing is written yet."""

    Half.__abstractmethods__ = frozenset()
    with pytest.raises(
        ContractError, match=r"lab/v1/lab\.proto:\d+: LabService\.Play: no handler: write `async def play"
    ):
        Server(Half())  # type: ignore[abstract]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (object, "object has no contract: derive it from the base class that `longshore generate` writes"),
        (lambda: LabHandlers, "LabHandlers is a class: pass an instance, LabHandlers()"),
    ],
)
def test_what_is_no_service_is_refused(made: Any, message: str) -> None:
    with pytest.raises(ContractError) as caught:
        Server(made())
    assert str(caught.value).startswith(message)


def test_a_server_of_nothing_and_one_of_the_same_twice_are_refused() -> None:
    with pytest.raises(
        ContractError, match="the server has no operations: pass it a service whose contract declares some"
    ):
        Server()
    with pytest.raises(ContractError, match=r"two services implement it; pass one of them to Server"):
        Server(LabHandlers(), LabHandlers())


def test_every_option_of_the_contract_is_enforced_or_refused() -> None:
    """A new option that nobody thought of here would be ignored in silence."""
    enforced = {
        "cancellation", "cancel_grace", "output_type", "id_template", "on_terminal", "timeout", "unbounded",
        "attempt_timeout", "on_crash", "max_crashes", "watches", "call", "observe", "cancel", "control", "visibility",
    }  # fmt: skip
    declared = {field.name for field in annotations_pb2.OperationContract.DESCRIPTOR.fields}
    assert declared == enforced | set(loading._LATER)


def test_a_good_contract_is_what_it_says() -> None:
    options = (
        "cancellation: CANCELLATION_COOPERATIVE cancel_grace {} timeout { seconds: 2 nanos: 5000 } "
        'id_template: "o-{key}-{inner.key}" on_terminal: ON_TERMINAL_NEW on_crash: ON_CRASH_FAIL max_crashes: 2 '
        'output_type: "google.protobuf.Empty" call {} observe {} cancel {} control {}'
    ).replace('output_type: "google.protobuf.Empty" ', "")
    descriptor = contract(method(options=options), twin())
    (found,) = loading.load([service(descriptor)], default_timeout=99)
    package = descriptor.file.package
    assert (found.name, found.path) == (f"{package}.Orders/Play", f"/{package}.Orders/Play")
    assert found.streamed_by == f"/{package}.Orders/Follow"
    assert (found.timeout, found.cancel_grace, found.max_crashes) == (2_000_005, 0, 2)
    assert (found.cancellable, found.cooperative, found.renew, found.rerun) == (True, True, True, False)
    (plain,) = loading.load([service(contract(method()))], default_timeout=99)
    assert (plain.timeout, plain.max_crashes, plain.cancel_grace, plain.rerun) == (99, 5, 10_000_000, True)
    assert (plain.cancellable, plain.cooperative, plain.attempt_timeout) == (False, False, None)
