"""What a service has for its contract: the handler of each operation, and the signature that it must have."""

from __future__ import annotations

import contextlib
import inspect
import typing
from pathlib import Path
from typing import Any

from google.longrunning import operations_pb2
from google.protobuf import message_factory
from google.protobuf.message import Message

from longshore_server.contract.source import ContractError, Declaration, Source, hint
from longshore_server.contract.types import Handler
from longshore_server.contract.unbound import unbound


def read_handler(declaration: Declaration) -> Handler:
    """The bound method. Raises `ContractError` when it is missing or takes or returns something else."""
    service = declaration.source.service
    python_name = declaration.source.names.get(declaration.method.name)
    handler: Any = None if python_name is None else getattr(service, python_name, None)
    what = f"{type(service).__name__}.{python_name}{_place(handler)}"
    if handler is None or getattr(handler, "__isabstractmethod__", False):
        raise declaration.error("", f"no handler: write `async def {python_name}(self, request, op)`")
    if not inspect.iscoroutinefunction(handler):
        raise declaration.error("", f"{what} must be an `async def` that returns the result")
    positional = [
        p for p in inspect.signature(handler).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]  # fmt: skip
    if len(positional) != 2:
        raise declaration.error("", f"{what} must take exactly two arguments, (request, op)")
    _check_annotations(declaration, handler, what)
    return handler  # type: ignore[no-any-return]


def read_comment(declaration: Declaration) -> str:
    """What the contract says above the method: the generated base keeps it as the docstring."""
    python_name = declaration.source.names.get(declaration.method.name, "")
    for base in type(declaration.source.service).__mro__:
        if "OPERATIONS" in vars(base):
            return inspect.getdoc(vars(base).get(python_name)) or ""
    return ""


def check_strays(source: Source) -> None:
    """Raises `ContractError` for a method that looks like a handler of an operation which the contract has not."""
    service, known = type(source.service), set(source.names.values())
    for name, member in inspect.getmembers(service, inspect.iscoroutinefunction):
        if name.startswith("_") or name in known:
            continue
        if list(inspect.signature(member).parameters)[1:] == ["request", "op"]:
            raise ContractError(
                f"{service.__name__}.{name}: {source.descriptor.full_name} has no such operation"
                f"{hint(name, known) or '.'} Declare it in {source.file}, or rename the method"
            )


def _check_annotations(declaration: Declaration, handler: Any, what: str) -> None:
    """A handler that says other types than the contract is refused, as mypy would."""
    request, op, *_ = inspect.signature(handler).parameters
    info = declaration.method.GetOptions().Extensions[operations_pb2.operation_info]
    expected = {
        request: message_factory.GetMessageClass(declaration.method.input_type),
        op: _operation(declaration),
        "return": declaration.message("operation_info.response_type", info.response_type),
    }
    for name, type in expected.items():
        try:
            said = _annotation(handler, name)
        except _UnknownError as error:
            where = "what it returns" if name == "return" else name
            raise declaration.error("", f"{what}: the annotation of {where} names {error}") from None
        if name == op and said is not None and said.__module__.startswith("longshore_server."):
            continue  # `Operation` itself, for which the generated class only stands where nobody checks types
        if said is not None and type is not None and not issubclass(type, said):
            role = "returns" if name == "return" else "takes"
            raise declaration.error("", f"{what} {role} {_shown(said)}, but the contract says {_shown(type)}")


def _place(handler: Any) -> str:
    """The file and the line of a handler, as a part of a sentence; empty: it has none."""
    code = getattr(inspect.unwrap(handler) if callable(handler) else None, "__code__", None)
    return "" if code is None else f" ({Path(code.co_filename).name}:{code.co_firstlineno})"


def _operation(declaration: Declaration) -> type | None:
    """The class of what the generated base says that the handler gets, with the types of its progress and output."""
    python_name = declaration.source.names[declaration.method.name]
    for base in type(declaration.source.service).__mro__:
        if "OPERATIONS" in vars(base) and (method := vars(base).get(python_name)) is not None:
            with contextlib.suppress(_UnknownError):
                return _annotation(method, list(inspect.signature(method).parameters)[-1])
    return None


class _UnknownError(Exception):
    """An annotation names what is not there."""


def _annotation(function: Any, name: str) -> type | None:
    """The class that a parameter is said to be of; None: nothing is said, or no class. Raises `_UnknownError`."""
    function = inspect.unwrap(function)
    said = getattr(function, "__annotations__", {}).get(name)
    if isinstance(said, str):
        try:
            said = eval(said, getattr(function, "__globals__", {}))  # noqa: S307 - the service's own annotation, as typing.get_type_hints does
        except Exception as error:  # noqa: BLE001 - whatever an annotation may raise
            missing = unbound(function, error)
            if missing is None:
                return None  # a name under TYPE_CHECKING only: mypy has checked it
            way_out = hint(missing.name, missing.known) or "; import it, or write another"
            raise _UnknownError(f"{missing.name!r}, which is not there{way_out}") from None
    said = typing.get_origin(said) or said
    open = said is Any or getattr(said, "_is_protocol", False)
    return said if isinstance(said, type) and not open else None


def _shown(type: type) -> str:
    return type.DESCRIPTOR.full_name if issubclass(type, Message) and type is not Message else type.__qualname__
