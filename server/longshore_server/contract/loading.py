"""Reads the contract of each service from its descriptors and checks all of it: a server that starts enforces it.

Every problem names file, line where known, method and option, and says what to do.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

from google.longrunning import operations_pb2
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message

from longshore.v1 import annotations_pb2
from longshore_server.contract import retry
from longshore_server.contract.details import read_details
from longshore_server.contract.durations import micros
from longshore_server.contract.newer import unknown_fields
from longshore_server.contract.signals import read_signals
from longshore_server.contract.template import IdTemplate
from longshore_server.contract.types import Handler, OperationType

OPERATION = "google.longrunning.Operation"
DEFAULT_OUTPUT = "longshore.v1.DiagnosticOutput"
CANCEL_GRACE = 10_000_000
MAX_CRASHES = 5
MAX_CAPABILITY = 128

# Declared in longshore/v1 already, enforced by a later version: refused until then, never ignored.
_LATER = ("transfer",)
_CAPABILITY = re.compile(r"[a-z0-9]+([._:-][a-z0-9]+)*")
BUILT_IN = "longshore."
"""What the names of the server's own capabilities begin with: no contract can declare or ask for one."""


class ContractError(Exception):
    """A contract that this server cannot enforce; the message names file, method and option, and says what to do."""


def load(services: Iterable[object], *, default_timeout: int, authenticated: bool = False) -> list[OperationType]:
    """The operation types of `services`, by name. Raises `ContractError`.

    `default_timeout`: microseconds, for contracts without one. `authenticated`: callers say who they are, so that a
    contract must say who may start.
    """
    types: dict[str, OperationType] = {}
    for service in services:
        for found in _Loader(service, default_timeout, authenticated).types():
            if found.name in types:
                raise ContractError(f"{found.name}: two services implement it; pass one of them to Server")
            types[found.name] = found
    if not types:
        raise ContractError("the server has no operations: pass it a service whose contract declares some")
    _check_prefixes(list(types.values()))
    return [types[name] for name in sorted(types)]


class _Loader:
    def __init__(self, service: object, default_timeout: int, authenticated: bool) -> None:
        descriptor = getattr(service, "DESCRIPTOR", None)
        if not isinstance(descriptor, ServiceDescriptor):
            what = service.__name__ if isinstance(service, type) else type(service).__name__
            raise ContractError(
                f"{what} has no contract: derive it from the base class that `longshore generate` writes, "
                "for example OrdersService"
            )
        if isinstance(service, type):
            raise ContractError(f"{service.__name__} is a class: pass an instance, {service.__name__}()")
        self._service = service
        self._descriptor = descriptor
        self._default_timeout = default_timeout
        self._authenticated = authenticated
        self._capabilities: set[str] = set()
        self._names: dict[str, str] = dict(getattr(service, "OPERATIONS", {}))
        self._lines: dict[str, int] = dict(getattr(service, "LINES", {}))

    def types(self) -> list[OperationType]:
        self._check_service()
        methods = [m for m in self._descriptor.methods if m.GetOptions().HasExtension(annotations_pb2.operation)]
        twins: dict[str, str] = {}
        for method in methods:
            for unknown in unknown_fields(_contract(method)):
                raise self._error(method, unknown.path or "(longshore.v1.operation)", str(unknown))
            target = _contract(method).watches
            if target:
                self._check_twin(method, target)
                if target in twins:
                    raise self._error(
                        method, "watches", f"{target!r} has {twins[target].rpartition('/')[2]} already; leave one out"
                    )
                twins[target] = f"/{self._descriptor.full_name}/{method.name}"
        own = [m for m in methods if not _contract(m).watches]
        types = [self._type(method, twins.get(method.name, "")) for method in own]
        self._check_stray_handlers()
        return types

    def _check_service(self) -> None:
        declared = {m.name for m in self._descriptor.methods}
        missing = [
            m.name for m in self._descriptor.methods if not m.GetOptions().HasExtension(annotations_pb2.operation)
        ]
        if missing and len(missing) < len(declared):
            # Ordinary methods beside operations have nobody to serve them here.
            raise self._error(
                self._descriptor.methods_by_name[missing[0]], "", "it is no operation: add the option "
                "(longshore.v1.operation), or move it to a service of its own",
            )  # fmt: skip
        if len(missing) == len(declared):
            place = f"{_file(self._descriptor)}: {self._descriptor.name}"
            raise ContractError(f"{place}: no method carries the option (longshore.v1.operation)")
        contract = self._descriptor.GetOptions().Extensions[annotations_pb2.contract]
        for unknown in unknown_fields(contract, "contract"):
            place = f"{_file(self._descriptor)}: {self._descriptor.name}"
            raise ContractError(f"{place}: option {unknown.path}: {unknown}")
        for position, capability in enumerate(contract.capabilities):
            problem = self._capability_problem(capability.name)
            if problem is not None:
                place = f"{_file(self._descriptor)}: {self._descriptor.name}"
                raise ContractError(f"{place}: option contract.capabilities[{position}].name: {problem}")
            self._capabilities.add(capability.name)

    def _capability_problem(self, name: str) -> str | None:
        if not name:
            return "it is missing; gates mean a capability by its name"
        if name.startswith(BUILT_IN):
            return f"{name!r} begins with {BUILT_IN!r}, as only the server's own capabilities do"
        if len(name) > MAX_CAPABILITY or not _CAPABILITY.fullmatch(name):
            return (
                f"{name!r} must be at most {MAX_CAPABILITY} lower-case letters and digits in parts joined by '.', '_', "
                "'-' or ':', for example 'orders.read'"
            )
        return f"{name!r} is declared twice" if name in self._capabilities else None

    def _check_twin(self, method: MethodDescriptor, target: str) -> None:
        contract = _contract(method)
        if [field.name for field, _ in contract.ListFields()] != ["watches"]:
            raise self._error(method, "watches", "a streaming twin declares nothing else")
        other = self._descriptor.methods_by_name.get(target)
        if other is None or not other.GetOptions().HasExtension(annotations_pb2.operation) or _contract(other).watches:
            raise self._error(
                method, "watches", f"{target!r} is no operation of this service{_hint(target, self._names)}"
            )
        if not _streams(method) or method.output_type.full_name != OPERATION:
            raise self._error(method, "watches", f"the method must return (stream {OPERATION})")
        if method.input_type is not other.input_type:
            raise self._error(method, "watches", f"its request must be {other.input_type.full_name}, as of {target}")

    def _type(self, method: MethodDescriptor, twin: str) -> OperationType:
        contract = _contract(method)
        if method.client_streaming:
            raise self._error(method, "", "an operation takes one request, not a stream")
        if method.output_type.full_name != OPERATION:
            raise self._error(method, "", f"an operation must return {OPERATION}, not {method.output_type.full_name}")
        self._check_supported(method, contract)
        options = method.GetOptions()
        if not options.HasExtension(operations_pb2.operation_info):
            raise self._error(
                method,
                "",
                "option (google.longrunning.operation_info) is missing: it names the result and progress types",
            )
        info = options.Extensions[operations_pb2.operation_info]
        template = None
        if contract.id_template:
            try:
                template = IdTemplate(contract.id_template, method.input_type)
            except ValueError as error:
                raise self._error(method, "id_template", str(error)) from None
        elif contract.on_terminal:
            raise self._error(method, "on_terminal", "it means nothing without id_template")
        if contract.HasField("cancel_grace") and contract.cancellation != annotations_pb2.CANCELLATION_COOPERATIVE:
            raise self._error(
                method, "cancel_grace", "it means nothing unless cancellation is CANCELLATION_COOPERATIVE"
            )
        call = self._gate(method, contract, "call")
        if call is None and self._authenticated:
            raise self._error(
                method, "call", "it must be present now that callers say who they are; say `call: {}` to mean everyone"
            )
        observe = self._gate(method, contract, "observe")
        enums = {
            "visibility": annotations_pb2.Visibility,
            "cancellation": annotations_pb2.Cancellation,
            "on_terminal": annotations_pb2.OnTerminal,
            "on_crash": annotations_pb2.OnCrash,
        }
        for option, enum in enums.items():
            if getattr(contract, option) not in enum.values():
                raise self._error(method, option, f"{getattr(contract, option)} is not a value that this version knows")
        max_crashes = contract.max_crashes if contract.HasField("max_crashes") else MAX_CRASHES
        if max_crashes < 1:
            raise self._error(method, "max_crashes", "it must be at least 1")
        if contract.HasField("max_crashes") and contract.on_crash == annotations_pb2.ON_CRASH_FAIL:
            raise self._error(method, "max_crashes", "it means nothing with on_crash ON_CRASH_FAIL")
        timeout, attempt_timeout = self._timeouts(method, contract)
        return OperationType(
            name=f"{self._descriptor.full_name}/{method.name}",
            method=method,
            handler=self._handler(method),
            input=message_factory.GetMessageClass(method.input_type),
            progress=self._message(method, "operation_info.metadata_type", info.metadata_type),
            output=self._message(method, "output_type", contract.output_type or DEFAULT_OUTPUT),
            result=self._message(method, "operation_info.response_type", info.response_type),
            contract=contract,
            call=call,
            observe=call if observe is None else observe,
            cancel=self._gate(method, contract, "cancel"),
            control=self._gate(method, contract, "control"),
            owned=contract.visibility == annotations_pb2.VISIBILITY_OWNER,
            template=template,
            renew=contract.on_terminal == annotations_pb2.ON_TERMINAL_NEW,
            cancellable=contract.cancellation != annotations_pb2.CANCELLATION_UNSPECIFIED,
            cooperative=contract.cancellation == annotations_pb2.CANCELLATION_COOPERATIVE,
            cancel_grace=self._duration(method, contract, "cancel_grace", zero=True) or 0
            if contract.HasField("cancel_grace")
            else CANCEL_GRACE,
            timeout=timeout,
            attempt_timeout=attempt_timeout,
            rerun=contract.on_crash != annotations_pb2.ON_CRASH_FAIL,
            max_crashes=max_crashes,
            retry=retry.read(contract, functools.partial(self._error, method)),
            retention=self._duration(method, contract, "retention", zero=True),
            signals=read_signals(
                contract.signals, functools.partial(self._message, method), functools.partial(self._error, method)
            ),
            details=read_details(
                contract.errors, functools.partial(self._message, method), functools.partial(self._error, method)
            ),
            streamed_by=twin or (f"/{self._descriptor.full_name}/{method.name}" if _streams(method) else ""),
            description=self._comment(method),
        )

    def _check_supported(self, method: MethodDescriptor, contract: annotations_pb2.OperationContract) -> None:
        if contract.signals and not contract.HasField("control"):
            raise self._error(
                method,
                "control",
                "it must be present, because signals are declared; say `control: {}` to mean everyone",
            )
        for field, _ in contract.ListFields():
            if field.name in _LATER:
                raise self._error(
                    method,
                    field.name,
                    "not yet supported by this version, and never ignored in silence; remove it until then",
                )

    def _gate(
        self, method: MethodDescriptor, contract: annotations_pb2.OperationContract, option: str
    ) -> frozenset[str] | None:
        """The capabilities that a gate asks for; None: the contract has no such gate."""
        if not contract.HasField(option):  # type: ignore[arg-type]
            return None
        names = getattr(contract, option).all_of
        for position, name in enumerate(names):
            if name in names[:position]:
                raise self._error(method, option, f"capability {name!r} is named twice")
            if name not in self._capabilities:
                raise self._error(
                    method,
                    option,
                    f"capability {name!r} is not declared by the service{_hint(name, self._capabilities)}",
                )
        return frozenset(names)

    def _timeouts(
        self, method: MethodDescriptor, contract: annotations_pb2.OperationContract
    ) -> tuple[int | None, int | None]:
        """Of the operation and of one attempt. Only a timeout that the contract itself says is compared."""
        attempt, timeout = (self._duration(method, contract, option) for option in ("attempt_timeout", "timeout"))
        if contract.WhichOneof("lifetime") == "unbounded":
            if not contract.unbounded:
                raise self._error(method, "unbounded", "it must be true when it is written; leave it out otherwise")
            return None, attempt
        if timeout is not None and attempt is not None and attempt > timeout:
            problem = "it is longer than timeout, which ends every attempt before: make one fit the other"
            raise self._error(method, "attempt_timeout", problem)
        return timeout or self._default_timeout, attempt

    def _duration(
        self, method: MethodDescriptor, contract: annotations_pb2.OperationContract, option: str, *, zero: bool = False
    ) -> int | None:
        if not contract.HasField(option):  # type: ignore[arg-type]
            return None
        try:
            return micros(getattr(contract, option), zero=zero)
        except ValueError as error:
            raise self._error(method, option, str(error)) from None

    def _message(self, method: MethodDescriptor, option: str, name: str) -> type[Message]:
        """The class of the message that `name` means, resolved as operation_info says."""
        if not name:
            raise self._error(method, option, "it must name a message; google.protobuf.Empty stands for none")
        pool = self._descriptor.file.pool
        package = self._descriptor.file.package
        local = f"{package}.{name}"
        for candidate in (name, local) if "." in name else (local, name):
            try:
                found: Descriptor = pool.FindMessageTypeByName(candidate)
            except KeyError:
                continue
            return message_factory.GetMessageClass(found)
        known = {m: m for m in self._descriptor.file.message_types_by_name}
        raise self._error(
            method, option, f"no message is called {name!r} in {package} or any imported file{_hint(name, known)}"
        )

    def _comment(self, method: MethodDescriptor) -> str:
        """What the contract says above the method: the generated base keeps it as the docstring."""
        python_name = self._names.get(method.name, "")
        for base in type(self._service).__mro__:
            if "OPERATIONS" in vars(base):
                return inspect.getdoc(vars(base).get(python_name)) or ""
        return ""

    def _handler(self, method: MethodDescriptor) -> Handler:
        python_name = self._names.get(method.name)
        handler: Any = None if python_name is None else getattr(self._service, python_name, None)
        what = f"{type(self._service).__name__}.{python_name}"
        if handler is None or getattr(handler, "__isabstractmethod__", False):
            raise self._error(method, "", f"no handler: write `async def {python_name}(self, request, op)`")
        if not inspect.iscoroutinefunction(handler):
            raise self._error(method, "", f"{what} must be an `async def` that returns the result")
        positional = [
            p for p in inspect.signature(handler).parameters.values()
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]  # fmt: skip
        if len(positional) != 2:
            raise self._error(method, "", f"{what} must take exactly two arguments, (request, op)")
        self._check_annotations(method, handler, what)
        return handler  # type: ignore[no-any-return]

    def _check_annotations(self, method: MethodDescriptor, handler: Any, what: str) -> None:
        """A handler that says other message types than the contract is refused, as mypy would."""
        hints = getattr(inspect.unwrap(handler), "__annotations__", {})
        names = list(inspect.signature(handler).parameters)
        info = method.GetOptions().Extensions[operations_pb2.operation_info]
        expected = {
            names[0]: message_factory.GetMessageClass(method.input_type),
            "return": self._message(method, "operation_info.response_type", info.response_type),
        }
        scope = getattr(inspect.unwrap(handler), "__globals__", {})
        for name, message in expected.items():
            hint = hints.get(name)
            if isinstance(hint, str):
                try:
                    hint = eval(hint, scope)  # noqa: S307 - the service's own annotation, as typing.get_type_hints does
                except Exception:  # noqa: BLE001, S112 - a name under TYPE_CHECKING only: mypy has checked it
                    continue
            if isinstance(hint, type) and issubclass(hint, Message) and hint is not message:
                role = "returns" if name == "return" else "takes"
                raise self._error(
                    method,
                    "",
                    f"{what} {role} {hint.DESCRIPTOR.full_name}, but the contract says {message.DESCRIPTOR.full_name}",
                )

    def _check_stray_handlers(self) -> None:
        known = set(self._names.values())
        for name, member in inspect.getmembers(type(self._service), inspect.iscoroutinefunction):
            if name.startswith("_") or name in known:
                continue
            if list(inspect.signature(member).parameters)[1:] == ["request", "op"]:
                raise ContractError(
                    f"{type(self._service).__name__}.{name}: {self._descriptor.full_name} has no such operation"
                    f"{_hint(name, known) or '.'} Declare it in {_file(self._descriptor)}, or rename the method"
                )

    def _error(self, method: MethodDescriptor, option: str, problem: str) -> ContractError:
        line = self._lines.get(method.name, 0)
        place = f"{_file(self._descriptor)}:{line}" if line else _file(self._descriptor)
        what = f"{self._descriptor.name}.{method.name}"
        return ContractError(f"{place}: {what}: {f'option {option}: ' if option else ''}{problem}")


def _check_prefixes(types: Sequence[OperationType]) -> None:
    """No template's prefix may begin with another's: a name would not tell its type."""
    found = sorted((t.template.prefix, t.name) for t in types if t.template is not None)
    for (prefix, name), (longer, other) in itertools.pairwise(found):
        if longer.startswith(prefix):
            raise ContractError(
                f"{other}: option id_template: its prefix {longer!r} begins with {prefix!r}, the prefix of {name}; "
                "names must tell their types apart"
            )


def _contract(method: MethodDescriptor) -> annotations_pb2.OperationContract:
    return method.GetOptions().Extensions[annotations_pb2.operation]


def _streams(method: MethodDescriptor) -> bool:
    return bool(method.server_streaming)


def _file(service: ServiceDescriptor) -> str:
    return str(service.file.name)


def _hint(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, list(known), n=1)
    return f". Did you mean {close[0]!r}?" if close else ""
