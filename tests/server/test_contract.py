"""A contract that cannot be enforced is refused at start-up, by a message with file, line, method and option."""

from __future__ import annotations

import functools
import inspect
import typing
from typing import TYPE_CHECKING, Any

import pytest
from lab.v1 import lab_longshore, lab_pb2

from longshore_server import ContractError, Operation, Server
from longshore_server.contract import loading
from tests.conftest import LabHandlers
from tests.server.contracts import contract, handle, method, refusal, service

if TYPE_CHECKING:
    from lab.v1.lab_longshore import PlayOperation as Checked  # noqa: F401 - named in an annotation


def twin(name: str = "Follow", options: str = 'watches: "Play"', **changes: Any) -> Any:
    return method(name, options, **{"info": None, "stream": True, **changes})


SECOND_METHODS: dict[str, tuple[Any, str]] = {
    "a twin of nothing": (
        twin(options='watches: "Plya"'),
        "FILE:7: Orders.Follow: option watches: 'Plya' is no operation of this service. Did you mean 'Play'?",
    ),
    "a twin of itself": (
        twin(options='watches: "Follow"'),
        "FILE:7: Orders.Follow: option watches: 'Follow' is no operation of this service",
    ),
    "a twin that declares more": (
        twin(options='watches: "Play" timeout { seconds: 1 }'),
        "FILE:7: Orders.Follow: option watches: a streaming twin declares nothing else",
    ),
    "a twin without a stream": (
        twin(stream=False),
        "FILE:7: Orders.Follow: option watches: the method must return (stream google.longrunning.Operation)",
    ),
    "a twin that returns another message": (
        twin(output=".PKG.Result"),
        "FILE:7: Orders.Follow: option watches: the method must return (stream google.longrunning.Operation)",
    ),
    "a twin of another input": (
        twin(input=".PKG.Other"),
        "FILE:7: Orders.Follow: option watches: its request must be PKG.Input, as of Play",
    ),
    "no operation": (
        method("Follow", None),
        ("FILE:7: Orders.Follow: it is no operation: add the option (longshore.v1.operation), or move it to a service "
         "of its own"),
    ),
    "a prefix that begins with another": (
        method("Follow", 'id_template: "play-more-{key}"'),
        ("PKG.Orders/Follow: option id_template: its prefix 'play-more-' begins with 'play-', the prefix of "
         "PKG.Orders/Play; names must tell their types apart"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SECOND_METHODS)
def test_a_second_method_is_refused(case: str) -> None:
    made, message = SECOND_METHODS[case]
    assert refusal(method(options='id_template: "play-{key}"'), made) == message


def test_a_second_stream_of_one_operation_is_refused() -> None:
    """Only one of them would have been served."""
    assert refusal(method(), twin(), twin("Trail")) == (
        "FILE:7: Orders.Trail: option watches: 'Play' has Follow already; leave one out"
    )


def test_a_service_without_operations_is_refused() -> None:
    assert refusal(method(options=None)) == "FILE: Orders: no method carries the option (longshore.v1.operation)"


MALFORMED = (
    "must be at most 128 lower-case letters and digits in parts joined by '.', '_', '-' or ':', "
    "for example 'orders.read'"
)


CAPABILITIES: dict[str, tuple[list[str], str]] = {
    "no name": ([""], "[0].name: it is missing; gates mean a capability by its name"),
    "a second without a name": (["a", ""], "[1].name: it is missing; gates mean a capability by its name"),
    "a name twice": (["a", "a"], "[1].name: 'a' is declared twice"),
    "a name of the server's own": (
        ["longshore.x"],
        "[0].name: 'longshore.x' begins with 'longshore.', as only the server's own capabilities do",
    ),
    **{
        f"the name {name[:12]}": ([name], f"[0].name: {name!r} {MALFORMED}")
        for name in ("Orders.read", "orders read", ".read", "orders..read", "orders/read", "a" * 129)
    },
}


@pytest.mark.parametrize("case", CAPABILITIES)
def test_a_capability_is_refused(case: str) -> None:
    names, problem = CAPABILITIES[case]
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


def _decorated(handler: Any) -> Any:
    @functools.wraps(handler)
    async def call(*arguments: Any) -> Any:
        return await handler(*arguments)

    return call


async def _returns_a_text(self: Any, request: Any, op: Any) -> str:
    return ""


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (None, "no handler: write `async def play(self, request, op)`"),
        (_not_async, "Orders.playPLACE must be an `async def` that returns the result"),
        (_generator, "Orders.playPLACE must be an `async def` that returns the result"),
        (_one_argument, "Orders.playPLACE must take exactly two arguments, (request, op)"),
        (_three_arguments, "Orders.playPLACE must take exactly two arguments, (request, op)"),
        (_takes_another, "Orders.playPLACE takes lab.v1.PlayResult, but the contract says PKG.Input"),
        (_returns_another, "Orders.playPLACE returns lab.v1.PlayRequest, but the contract says PKG.Result"),
        (_decorated(_returns_another), "Orders.playPLACE returns lab.v1.PlayRequest, but the contract says PKG.Result"),
        (_returns_a_text, "Orders.playPLACE returns str, but the contract says PKG.Result"),
    ],
)
def test_a_handler_is_refused(handler: Any, message: str) -> None:
    code = None if handler is None else inspect.unwrap(handler).__code__
    place = "" if code is None else f" (test_contract.py:{code.co_firstlineno})"
    assert refusal(method(), play=handler) == f"FILE:7: Orders.Play: {message.replace('PLACE', place)}"


@pytest.mark.parametrize("kind", [lab_longshore.ClimbOperation[None], lab_longshore.ClimbOperation, str])
def test_a_handler_of_the_operation_of_another_is_refused(kind: Any) -> None:
    """Its progress, its output and its signals are others."""

    async def play(self: Any, request: Any, op: Any) -> Any: ...

    play.__annotations__["op"] = kind
    wrong = type("Wrong", (LabHandlers,), {"play": play})
    with pytest.raises(ContractError) as caught:
        loading.load([wrong()], default_timeout=1)
    name = (typing.get_origin(kind) or kind).__qualname__
    place = f"Wrong.play (test_contract.py:{play.__code__.co_firstlineno})"
    assert str(caught.value).endswith(f"{place} takes {name}, but the contract says PlayOperation")


class Around:
    """What follows could be said only by who sees more than the function's module: a type checker does."""

    class Inner: ...


@pytest.mark.parametrize(
    "kind",
    [lab_longshore.PlayOperation[None], Operation, Any, object, "Checked[None]", "Inner", "typing.NotThere", "3 / 0"],
)
def test_a_handler_may_say_less(kind: Any) -> None:
    async def play(self: Any, request: Any, op: Any) -> Any: ...

    play.__annotations__["op"] = kind
    loading.load([type("Vague", (LabHandlers,), {"play": play})()], default_timeout=1)


@pytest.mark.parametrize(
    ("parameter", "text", "problem"),
    [
        ("request", "lab_pb.PlayRequest", "of request names 'lab_pb', which is not there. Did you mean 'lab_pb2'?"),
        (
            "op",
            "lab_longshore.PlayOperatoin[None]",
            "of op names 'PlayOperatoin', which is not there. Did you mean 'Pla",
        ),
        ("return", "lab_pb2.Zonk", "of what it returns names 'Zonk', which is not there; import it, or write another"),
    ],
)
def test_a_handler_whose_annotations_name_nothing_is_refused(parameter: str, text: str, problem: str) -> None:
    async def play(self: Any, request: Any, op: Any) -> Any: ...

    play.__annotations__[parameter] = text
    wrong = type("Wrong", (LabHandlers,), {"play": play})
    with pytest.raises(ContractError) as caught:
        loading.load([wrong()], default_timeout=1)
    place = f"LabService.Play: Wrong.play (test_contract.py:{play.__code__.co_firstlineno})"
    assert f"{place}: the annotation {problem}" in str(caught.value)


def test_of_a_handler_without_a_file_no_name_is_known() -> None:
    made: dict[str, Any] = {}
    exec("async def play(self, request: 'Zonk', op): ...", made)  # as some frameworks make functions
    loading.load([type("Made", (LabHandlers,), {"play": made["play"]})()], default_timeout=1)


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


def test_a_server_of_the_same_twice_is_refused() -> None:
    with pytest.raises(ContractError, match=r"two services implement it; pass one of them to Server"):
        Server(LabHandlers(), LabHandlers())


def test_signals_are_what_they_say() -> None:
    options = (
        'control {} signals { name: "b-2_x" payload_type: "Other" max_pending: 7 } '
        'signals { name: "a" payload_type: "google.protobuf.Empty" }'
    )
    descriptor = contract(method(options=options))
    (found,) = loading.load([service(descriptor)], default_timeout=99)
    assert [(s.name, s.payload.DESCRIPTOR.full_name, s.max_pending) for s in found.signals.values()] == [
        ("b-2_x", f"{descriptor.file.package}.Other", 7), ("a", "google.protobuf.Empty", 100),
    ]  # fmt: skip
    (plain,) = loading.load([service(contract(method()))], default_timeout=99)
    assert plain.signals == {}


def test_a_good_contract_is_what_it_says() -> None:
    options = (
        "cancellation: CANCELLATION_COOPERATIVE cancel_grace {} timeout { seconds: 2 nanos: 5000 } "
        'id_template: "o-{inner.key}-x" on_terminal: ON_TERMINAL_NEW on_crash: ON_CRASH_RERUN max_crashes: 2 '
        'output_type: "google.protobuf.Empty" call {} observe {} cancel {} control {}'
    ).replace('output_type: "google.protobuf.Empty" ', "")
    descriptor = contract(method(options=options), twin())
    (found,) = loading.load([service(descriptor)], default_timeout=99)
    package = descriptor.file.package
    assert (found.name, found.path) == (f"{package}.Orders/Play", f"/{package}.Orders/Play")
    assert found.streamed_by == f"/{package}.Orders/Follow"
    assert (found.timeout, found.cancel_grace, found.max_crashes) == (2_000_005, 0, 2)
    assert (found.cancellable, found.cooperative, found.renew, found.rerun) == (True, True, True, True)
    (plain,) = loading.load([service(contract(method()))], default_timeout=99)
    assert (plain.timeout, plain.max_crashes, plain.cancel_grace, plain.rerun) == (99, 5, 10_000_000, True)
    assert (plain.cancellable, plain.cooperative, plain.attempt_timeout) == (False, False, None)
    (final,) = loading.load([service(contract(method(options="on_crash: ON_CRASH_FAIL")))], default_timeout=99)
    assert not final.rerun
