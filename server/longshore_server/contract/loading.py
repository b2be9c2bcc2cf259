"""Reads the contract of each service from its descriptors and checks all of it: a server that starts enforces it.

Every problem names file, line where known, method and option, and says what to do.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Sequence

from google.longrunning import operations_pb2
from google.protobuf import message_factory

from longshore.v1 import annotations_pb2
from longshore_server.contract import retry
from longshore_server.contract.details import read_details
from longshore_server.contract.gates import read_capabilities, read_gate
from longshore_server.contract.handlers import check_strays, read_comment, read_handler
from longshore_server.contract.newer import unknown_fields
from longshore_server.contract.rules import compile_rules
from longshore_server.contract.signals import read_signals
from longshore_server.contract.source import ContractError, Declaration, Source, hint
from longshore_server.contract.template import IdTemplate
from longshore_server.contract.transfers import read_transfer
from longshore_server.contract.types import OperationType

OPERATION = "google.longrunning.Operation"
DEFAULT_OUTPUT = "longshore.v1.DiagnosticOutput"
CANCEL_GRACE = 10_000_000
MAX_CRASHES = 5


def load(
    services: Iterable[object], *, default_timeout: int, authenticated: bool = False,
    stores: Collection[str] | None = None, to_serve: bool = True,
) -> list[OperationType]:  # fmt: skip
    """The operation types of `services`, by name. Raises `ContractError`.

    `default_timeout`: microseconds, for contracts without one. `authenticated`: callers say who they are, so that a
    contract must say who may start. `stores`: the names of those that the server has; None: not known yet. `to_serve`:
    False for contracts that are only looked at, and may be others of the same names soon.
    """
    types: dict[str, OperationType] = {}
    for service in services:
        for found in _Loader(service, default_timeout, authenticated, stores).types():
            if found.name in types:
                raise ContractError(f"{found.name}: two services implement it; pass one of them to Server")
            types[found.name] = found
    _check_prefixes(list(types.values()))
    compile_rules((message for name in sorted(types) for message in types[name].messages()), keep=to_serve)
    return [types[name] for name in sorted(types)]


class _Loader:
    def __init__(
        self, service: object, default_timeout: int, authenticated: bool, stores: Collection[str] | None
    ) -> None:
        self._source = Source(service)
        self._descriptor = self._source.descriptor
        self._default_timeout = default_timeout
        self._authenticated = authenticated
        self._stores = stores

    def types(self) -> list[OperationType]:
        self._check_service()
        capabilities = read_capabilities(self._source)
        declared = [Declaration(self._source, m) for m in self._descriptor.methods]
        twins: dict[str, Declaration] = {}
        for declaration in declared:
            for unknown in unknown_fields(declaration.contract):
                raise declaration.error(unknown.path or "(longshore.v1.operation)", str(unknown))
            target = declaration.contract.watches
            if target:
                self._check_twin(declaration)
                if target in twins:
                    raise declaration.error(
                        "watches", f"{target!r} has {twins[target].method.name} already; leave one out"
                    )
                twins[target] = declaration
        own = [d for d in declared if not d.contract.watches]
        types = [self._type(d, twins.get(d.method.name), capabilities) for d in own]
        check_strays(self._source)
        return types

    def _check_service(self) -> None:
        missing = [m for m in self._descriptor.methods if not m.GetOptions().HasExtension(annotations_pb2.operation)]
        if len(missing) == len(self._descriptor.methods):
            raise self._source.error("", "no method carries the option (longshore.v1.operation)")
        if missing:
            # Ordinary methods beside operations have nobody to serve them here.
            raise Declaration(self._source, missing[0]).error(
                "", "it is no operation: add the option (longshore.v1.operation), or move it to a service of its own"
            )
        contract = self._descriptor.GetOptions().Extensions[annotations_pb2.contract]
        for unknown in unknown_fields(contract, "contract"):
            raise self._source.error(unknown.path, str(unknown))

    def _check_twin(self, twin: Declaration) -> None:
        target = twin.contract.watches
        if [field.name for field, _ in twin.contract.ListFields()] != ["watches"]:
            raise twin.error("watches", "a streaming twin declares nothing else")
        other = self._descriptor.methods_by_name.get(target)
        if other is None or Declaration(self._source, other).contract.watches:
            raise twin.error("watches", f"{target!r} is no operation of this service{hint(target, self._source.names)}")
        if not twin.streams or twin.method.output_type.full_name != OPERATION:
            raise twin.error("watches", f"the method must return (stream {OPERATION})")
        if twin.method.input_type is not other.input_type:
            raise twin.error("watches", f"its request must be {other.input_type.full_name}, as of {target}")

    def _type(self, declaration: Declaration, twin: Declaration | None, capabilities: frozenset[str]) -> OperationType:
        method, contract = declaration.method, declaration.contract
        if method.client_streaming:
            raise declaration.error("", "an operation takes one request, not a stream")
        if method.output_type.full_name != OPERATION:
            raise declaration.error("", f"an operation must return {OPERATION}, not {method.output_type.full_name}")
        if contract.signals and not contract.HasField("control"):
            problem = "it must be present, because signals are declared; say `control: {}` to mean everyone"
            raise declaration.error("control", problem)
        options = method.GetOptions()
        if not options.HasExtension(operations_pb2.operation_info):
            raise declaration.error(
                "",
                "option (google.longrunning.operation_info) is missing: it names the result and progress types",
            )
        info = options.Extensions[operations_pb2.operation_info]
        template = None
        if contract.id_template:
            try:
                template = IdTemplate(contract.id_template, method.input_type)
            except ValueError as error:
                raise declaration.error("id_template", str(error)) from None
        elif contract.on_terminal:
            raise declaration.error("on_terminal", "it means nothing without id_template")
        if contract.HasField("cancel_grace") and contract.cancellation != annotations_pb2.CANCELLATION_COOPERATIVE:
            raise declaration.error("cancel_grace", "it means nothing unless cancellation is CANCELLATION_COOPERATIVE")
        call = read_gate(declaration, "call", capabilities)
        if call is None and self._authenticated:
            raise declaration.error(
                "call", "it must be present now that callers say who they are; say `call: {}` to mean everyone"
            )
        observe = read_gate(declaration, "observe", capabilities)
        enums = {
            "visibility": annotations_pb2.Visibility,
            "cancellation": annotations_pb2.Cancellation,
            "on_terminal": annotations_pb2.OnTerminal,
            "on_crash": annotations_pb2.OnCrash,
            "on_step_change": annotations_pb2.OnStepChange,
        }
        for option, enum in enums.items():
            if getattr(contract, option) not in enum.values():
                raise declaration.error(option, f"{getattr(contract, option)} is not a value that this version knows")
        max_crashes = contract.max_crashes if contract.HasField("max_crashes") else MAX_CRASHES
        if max_crashes < 1:
            raise declaration.error("max_crashes", "it must be at least 1")
        if contract.HasField("max_crashes") and contract.on_crash == annotations_pb2.ON_CRASH_FAIL:
            raise declaration.error("max_crashes", "it means nothing with on_crash ON_CRASH_FAIL")
        streamed = twin or (declaration if declaration.streams else None)
        timeout, attempt_timeout = self._timeouts(declaration)
        return OperationType(
            name=declaration.path.removeprefix("/"),
            method=method,
            handler=read_handler(declaration),
            input=message_factory.GetMessageClass(method.input_type),
            progress=declaration.message("operation_info.metadata_type", info.metadata_type),
            output=declaration.message("output_type", contract.output_type or DEFAULT_OUTPUT),
            result=declaration.message("operation_info.response_type", info.response_type),
            contract=contract,
            call=call,
            observe=call if observe is None else observe,
            cancel=read_gate(declaration, "cancel", capabilities),
            control=read_gate(declaration, "control", capabilities),
            owned=contract.visibility == annotations_pb2.VISIBILITY_OWNER,
            template=template,
            renew=contract.on_terminal == annotations_pb2.ON_TERMINAL_NEW,
            cancellable=contract.cancellation != annotations_pb2.CANCELLATION_UNSPECIFIED,
            cooperative=contract.cancellation == annotations_pb2.CANCELLATION_COOPERATIVE,
            cancel_grace=declaration.duration("cancel_grace", zero=True) or 0
            if contract.HasField("cancel_grace")
            else CANCEL_GRACE,
            timeout=timeout,
            attempt_timeout=attempt_timeout,
            rerun=contract.on_crash != annotations_pb2.ON_CRASH_FAIL,
            max_crashes=max_crashes,
            fixed_steps=contract.on_step_change == annotations_pb2.ON_STEP_CHANGE_FAIL,
            retry=retry.read(contract, declaration.error),
            retention=declaration.duration("retention", zero=True),
            signals=read_signals(contract.signals, declaration.message, declaration.error),
            transfer=read_transfer(declaration, self._stores),
            details=read_details(contract.errors, declaration.message, declaration.error),
            streamed_by=streamed.path if streamed else "",
            description=read_comment(declaration),
        )

    def _timeouts(self, declaration: Declaration) -> tuple[int | None, int | None]:
        """Of the operation and of one attempt. Only a timeout that the contract itself says is compared."""
        contract = declaration.contract
        attempt, timeout = (declaration.duration(option) for option in ("attempt_timeout", "timeout"))
        if contract.WhichOneof("lifetime") == "unbounded":
            if not contract.unbounded:
                raise declaration.error("unbounded", "it must be true when it is written; leave it out otherwise")
            return None, attempt
        if timeout is not None and attempt is not None and attempt > timeout:
            problem = "it is longer than timeout, which ends every attempt before: make one fit the other"
            raise declaration.error("attempt_timeout", problem)
        return timeout or self._default_timeout, attempt


def _check_prefixes(types: Sequence[OperationType]) -> None:
    """No template's prefix may begin with another's: a name would not tell its type."""
    found = sorted((t.template.prefix, t.name) for t in types if t.template is not None)
    for (prefix, name), (longer, other) in itertools.pairwise(found):
        if longer.startswith(prefix):
            raise ContractError(
                f"{other}: option id_template: its prefix {longer!r} begins with {prefix!r}, the prefix of {name}; "
                "names must tell their types apart"
            )
